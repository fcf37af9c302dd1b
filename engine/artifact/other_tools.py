"""Other tools' files: LoRAs and embeddings brought in as concept files, and written for others to read."""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bases.families import FAMILIES
from ..config import TOKEN, one_of
from ..errors import LikenessError
from ..files import check_name, reading
from . import krea2_lora
from .card import THUMBNAIL, as_uri
from .concept_file import Artifact, Token, check_tensors
from .embeddings import read_embedding
from .flux2_lora import for_core, is_flux2_lora, to_peft
from .lora_layouts import family_of_lora, for_two_encoders, is_lora, to_kohya
from .tensors import is_safetensors, read_header, read_pickle, read_tensors, write_tensors
from .z_image_lora import is_z_image_lora, z_image_to_peft

if TYPE_CHECKING:
    from torch import Tensor

_LYCORIS = {"hada_": "loha", "lokr_": "lokr", "oft_": "diag-oft"}  # how its trainer calls them

log = logging.getLogger(__name__)


def export_stock(
    artifact: Artifact, folder: str | os.PathLike[str], name: str, *, person: str = "", overwrite: bool = True
) -> list[Path]:
    """Writes files that other tools load: `<name>.safetensors` (LoRA) and
    `<placeholder>.safetensors` (embedding), or `<person>-<placeholder>.safetensors`.

    In ComfyUI the second is used as `embedding:` and its name; in A1111-style tools by its bare name.
    """
    if artifact.kind not in ("lora", "embedding"):
        raise LikenessError(
            f"a {artifact.kind} has no form that other tools read; use it through our own nodes"
        )
    check_name(name)
    files: dict[Path, tuple[dict[str, Tensor], dict[str, str]]] = {}
    lora = artifact.lora()
    if lora:
        files[Path(folder) / f"{name}.safetensors"] = (for_core(lora), _kohya_metadata(artifact, lora))
    if artifact.tables():
        log.warning("training moved all words of the vocabulary; other tools read only the new ones")
    for token in artifact.tokens:
        rows = artifact.rows(token.token)
        if rows:
            stem = f"{person}-{token.name}" if person else token.name
            check_name(stem)
            files[Path(folder) / f"{stem}.safetensors"] = (rows, _embedding_metadata(artifact, token))
    if len(files) < bool(lora) + sum(bool(artifact.rows(token.token)) for token in artifact.tokens):
        raise LikenessError(
            f"the LoRA and a placeholder would both be written to {name}.safetensors; change the name"
        )
    for path in files:
        if path.exists() and not overwrite:
            raise LikenessError(f"{path} exists; choose another name or folder, or allow overwriting")
    for path, (tensors, metadata) in files.items():
        write_tensors(path, tensors, metadata)
    return list(files)


def export_numbered(artifact: Artifact, path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Writes the one file that MagiCapture's and cloneofsimo's code read: LoRA and words together."""
    from . import cloneofsimo

    path = Path(path)
    check_name(path.stem)
    if path.exists() and not overwrite:
        raise LikenessError(f"{path} exists; choose another name or folder, or allow overwriting")
    if any(not key.endswith((".lora_down.weight", ".lora_up.weight", ".alpha")) for key in artifact.lora()):
        raise LikenessError("files of this kind hold a LoRA alone; export a stock file of this adapter")
    if artifact.base_family == "sdxl":
        raise LikenessError("files of this kind know one text encoder; export a stock LoRA for SDXL")
    rows = {token.token: next(iter(artifact.rows(token.token).values())) for token in artifact.tokens}
    tensors, metadata = cloneofsimo.write(artifact.lora(), rows)
    if not any("style" in token for token in rows):
        metadata[cloneofsimo.MARK] = "magicapture"  # else it reads as one of cloneofsimo's own, drawn at 1
    write_tensors(path, tensors, metadata)
    return path


def import_file(
    path: str | os.PathLike[str],
    *,
    token: str | None = None,
    class_word: str = "",
    all_rows: bool = False,
    family: str | None = None,
) -> Artifact:
    """Reads our own files, LoRAs and embeddings in all their layouts (`lora_layouts`, `embeddings`), in
    safetensors or in pickles, of which nothing is run; cloneofsimo's and MagiCapture's files, in which
    modules are numbered, give both.

    An embedding becomes the placeholder `token`, by default the one it names or `<name of the file>`. Of
    MagicTailor's whole token table the rows behind the vocabulary become `<v0>`, `<v1>` …; `all_rows` keeps
    the others too. `family`: a LoRA's, where its layers fit several kinds of base.
    """
    path = Path(path)
    if family is not None:
        one_of("family of bases", family, FAMILIES)
    with reading(path, "cannot be read as a LoRA or an embedding; get it again or choose another"):
        return _imported(path, token, class_word, all_rows, family)


def _imported(path: Path, token: str | None, class_word: str, all_rows: bool, family: str | None) -> Artifact:
    pickled = path.suffix.lower() in (".pt", ".bin", ".pth", ".ckpt") and not is_safetensors(path)
    metadata = {} if pickled else read_header(path)[0]
    if "likeness.format_version" in metadata:
        return Artifact.load(path)
    content = _unpickled(path) if pickled else read_tensors(path)
    if any(re.match(r"(unet|text_encoder):\d+:", key) for key in content):
        return _numbered(path, content, class_word, metadata)
    if not is_lora(content):
        word = f"<{metadata.get('modelspec.trigger_phrase', '')}>"  # files are called as people like
        token = token or (word if TOKEN.fullmatch(word) else None)
        return read_embedding(path, content, token=token, class_words=class_word, all_rows=all_rows)
    if krea2_lora.is_krea2_lora(content, metadata, family):
        lora = krea2_lora.krea2_to_peft(content, path, metadata)
        if family not in (None, "krea2"):
            raise LikenessError(f"{path} is a LoRA for Krea 2; leave --family away")
        artifact = Artifact(kind="lora", method="imported", tensors=lora, base_family="krea2")
        check_tensors(artifact, path)
        return artifact
    if is_flux2_lora(content, metadata, family):
        lora, lora_family = to_peft(content, path, metadata)
        if family not in (None, lora_family):
            raise LikenessError(f"{path} is a LoRA for {FAMILIES[lora_family].name}; leave --family away")
        artifact = Artifact(kind="lora", method="imported", tensors=lora, base_family=lora_family)
        check_tensors(artifact, path)
        return artifact
    if is_z_image_lora(content, metadata, family):
        lora = z_image_to_peft(content, path, metadata)
        artifact = Artifact(kind="lora", method="imported", tensors=lora, base_family="z_image")
        check_tensors(artifact, path)
        return artifact
    lora = to_kohya(content, path, metadata)
    family = family_of_lora(lora, path, metadata, family)
    if len(FAMILIES[family].encoders) > 1:
        lora = for_two_encoders(lora)
    artifact = Artifact(kind="lora", method="imported", tensors=lora, base_family=family)
    check_tensors(artifact, path)
    return artifact


def _unpickled(path: Path) -> dict[str, Any]:
    """What a file of torch.save holds, by name; nothing but tensors and plain containers is read."""
    content = read_pickle(path, "ask for a .safetensors of it")
    if isinstance(content, list):
        raise LikenessError(
            f"{path} holds matrices without names, as cloneofsimo's first LoRAs did: nothing says which "
            "layers they are for; ask for a .safetensors of it"
        )
    if not isinstance(content, Mapping):
        raise LikenessError(f"{path} is neither a LoRA nor an embedding; give one of these")
    inner = content.get("state_dict", content)
    return {str(key): value for key, value in (inner if isinstance(inner, Mapping) else content).items()}


def _numbered(
    path: Path, tensors: "Mapping[str, Tensor]", class_word: str, metadata: Mapping[str, str]
) -> Artifact:
    """A file of cloneofsimo's code, whose author draws with it at 1, or of MagiCapture's, which is known by
    its style's placeholder and draws more weakly."""
    from . import cloneofsimo

    capture = cloneofsimo.MARK in metadata or any("style" in key for key in tensors if "<" in key)
    lora, rows = cloneofsimo.read_numbered_lora(tensors, path, strengths=None if capture else {})
    tokens = [
        Token(token=re.sub(r"[^A-Za-z0-9_<>-]", "_", name), role="style" if "style" in name else "subject")
        for name in sorted(rows)
    ]
    family = family_of_lora(lora, path, metadata)
    (encoder,) = FAMILIES[family].encoders
    words = {f"token.{token.name}.{encoder}": rows[name][None] for token, name in zip(tokens, sorted(rows))}
    artifact = Artifact(
        kind="lora", method="magicapture" if capture else "imported", tensors={**lora, **words},
        base_family=family,
        tokens=tuple(replace(t, class_word="" if t.role == "style" else class_word) for t in tokens),
    )  # fmt: skip
    check_tensors(artifact, path)
    return artifact


def _kohya_metadata(artifact: Artifact, lora: "Mapping[str, Tensor]") -> dict[str, str]:
    about = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{FAMILIES[artifact.base_family].architecture}/lora",
    }
    if FAMILIES[artifact.base_family].peft_names:  # kohya's trainer would look for its own names
        return about
    ranks = {tensor.shape[0] for key, tensor in lora.items() if key.endswith("lora_down.weight")}
    alphas = {float(tensor) for key, tensor in lora.items() if key.endswith(".alpha")}
    lycoris = next((algo for sign, algo in _LYCORIS.items() if any(sign in key for key in lora)), None)
    return about | {
        "ss_network_module": "lycoris.kohya" if lycoris else "networks.lora",
        **({"ss_network_args": json.dumps({"algo": lycoris})} if lycoris else {}),
        "ss_network_dim": str(max(ranks, default=0)),
        "ss_network_alpha": str(max(alphas, default=0.0)),
        "ss_steps": str(artifact.steps),
        "ss_seed": str(artifact.seed),
        **({THUMBNAIL: as_uri(artifact.thumbnail)} if artifact.thumbnail else {}),
    }


def _embedding_metadata(artifact: Artifact, token: Token) -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{FAMILIES[artifact.base_family].architecture}/textual-inversion",
        "modelspec.trigger_phrase": token.name,
    }
