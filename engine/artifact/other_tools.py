"""Other tools' files: LoRAs and embeddings brought in as concept files, and written for others to read."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..bases.families import FAMILIES, family_of_rows
from ..errors import LikenessError
from ..files import check_name, reading
from .concept_file import LORA_KEY, Artifact, Token, check_tensors
from .tensors import read_header, read_pickle, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
CLIP_WORDS = 49_408  # in the vocabulary that all of SD's text encoders share
_DIFFUSERS_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<part>unet|text_encoder|text_encoder_2)\.(?:base_model\.model\.)?"
    r"(?P<module>.+?)\.(?:processor\.)?"
    r"(?:lora_(?P<letter>[AB])(?:\.\w+)?\.weight|lora\.(?P<way>down|up)\.weight"
    r"|(?P<leaf>to_[qkv]|to_out)_lora\.(?P<old>down|up)\.weight|(?P<alpha>alpha))"
)


def export_stock(
    artifact: Artifact, folder: str | os.PathLike[str], name: str, *, overwrite: bool = True
) -> list[Path]:
    """Writes files that other tools load: `<name>.safetensors` (LoRA) and
    `<placeholder>.safetensors` (embedding).

    In ComfyUI the second is used as `embedding:<placeholder>`; in A1111-style tools by its bare name.
    """
    if artifact.kind not in ("lora", "embedding"):
        raise LikenessError(
            f"a {artifact.kind} has no form that other tools read; use it through our own nodes"
        )
    check_name(name)
    files: dict[Path, tuple[dict[str, Tensor], dict[str, str]]] = {}
    lora = artifact.lora()
    if lora:
        files[Path(folder) / f"{name}.safetensors"] = (lora, _kohya_metadata(artifact, lora))
    if artifact.tables():
        log.warning("training moved all words of the vocabulary; other tools read only the new ones")
    for token in artifact.tokens:
        rows = artifact.rows(token.token)
        if rows:
            check_name(token.name)
            files[Path(folder) / f"{token.name}.safetensors"] = (rows, _embedding_metadata(artifact, token))
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
    if artifact.base_family == "sdxl":
        raise LikenessError("files of this kind know one text encoder; export a stock LoRA for SDXL")
    rows = {token.token: next(iter(artifact.rows(token.token).values())) for token in artifact.tokens}
    tensors, metadata = cloneofsimo.write(artifact.lora(), rows)
    write_tensors(path, tensors, metadata)
    return path


def import_file(
    path: str | os.PathLike[str], *, token: str | None = None, class_word: str = "", all_rows: bool = False
) -> Artifact:
    """Reads our own files, LoRAs with kohya or diffusers names, and embeddings (safetensors, or A1111's .pt);
    MagiCapture's files, in which modules are numbered, give both.

    An embedding becomes the placeholder `token`, by default `<name of the file>`. Of MagicTailor's whole
    token table the rows behind the vocabulary become `<v0>`, `<v1>` …; `all_rows` keeps the others too.
    """
    path = Path(path)
    with reading(path, "cannot be read as a LoRA or an embedding; get it again or choose another"):
        return _imported(path, token, class_word, all_rows)


def _imported(path: Path, token: str | None, class_word: str, all_rows: bool) -> Artifact:
    if path.suffix.lower() in (".pt", ".bin", ".pth", ".ckpt"):
        rows = _rows_of_pickle(path)
        if all(len(table) >= CLIP_WORDS for table in rows.values()):
            return _whole_table(path, rows, class_word, all_rows)
        return _embedding(path, rows, token, class_word)
    metadata, shapes = read_header(path)
    if "likeness.format_version" in metadata:
        return Artifact.load(path)
    tensors = read_tensors(path)
    if any(re.match(r"(unet|text_encoder):\d+:", key) for key in shapes):
        return _numbered(path, tensors, class_word)
    if any("lora" in key for key in shapes):
        lora = to_kohya(tensors, path)
        artifact = Artifact(kind="lora", method="imported", tensors=lora, base_family=_family_of(lora, path))
        check_tensors(artifact, path)
        return artifact
    return _embedding(path, _rows_of_tensors(path, tensors), token, class_word)


def _numbered(path: Path, tensors: "Mapping[str, Tensor]", class_word: str) -> Artifact:
    """A file of MagiCapture's code; a placeholder with "style" in its name is the style's."""
    from . import cloneofsimo

    lora, rows = cloneofsimo.read(tensors, path)
    tokens = [
        Token(token=re.sub(r"[^A-Za-z0-9_<>-]", "_", name), role="style" if "style" in name else "subject")
        for name in sorted(rows)
    ]
    family = _family_of(lora, path)
    (encoder,) = FAMILIES[family].encoders
    words = {f"token.{token.name}.{encoder}": rows[name][None] for token, name in zip(tokens, sorted(rows))}
    artifact = Artifact(
        kind="lora", method="magicapture", tensors={**lora, **words}, base_family=family,
        tokens=tuple(replace(t, class_word="" if t.role == "style" else class_word) for t in tokens),
    )  # fmt: skip
    check_tensors(artifact, path)
    return artifact


def _kohya_metadata(artifact: Artifact, lora: "Mapping[str, Tensor]") -> dict[str, str]:
    ranks = {tensor.shape[0] for key, tensor in lora.items() if key.endswith("lora_down.weight")}
    alphas = {float(tensor) for key, tensor in lora.items() if key.endswith(".alpha")}
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{FAMILIES[artifact.base_family].architecture}/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(ranks, default=0)),
        "ss_network_alpha": str(max(alphas, default=0.0)),
        "ss_steps": str(artifact.steps),
        "ss_seed": str(artifact.seed),
    }


def _embedding_metadata(artifact: Artifact, token: Token) -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{FAMILIES[artifact.base_family].architecture}/textual-inversion",
        "modelspec.trigger_phrase": token.name,
    }


def to_kohya(tensors: "Mapping[str, Tensor]", path: Path) -> "dict[str, Tensor]":
    """The LoRA under kohya names; alpha equals the rank where diffusers' file says none."""
    import torch

    if all(LORA_KEY.fullmatch(key) for key in tensors):
        return dict(tensors)
    two_encoders = any(key.startswith("text_encoder_2.") for key in tensors)
    prefixes = {"unet": "unet", "text_encoder": "te1" if two_encoders else "te", "text_encoder_2": "te2"}
    converted: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _DIFFUSERS_KEY.fullmatch(key)
        if match is None:
            raise LikenessError(
                f"{path} holds '{key}', which is neither a kohya nor a diffusers LoRA; "
                "convert it to one of these with the tool that wrote it"
            )
        module = match["module"] + (
            f".{match['leaf']}{'.0' * (match['leaf'] == 'to_out')}" if match["leaf"] else ""
        )
        if match["part"] != "unet" and not module.startswith("text_model."):
            module = f"text_model.{module}"  # transformers 5 dropped that level
        name = f"lora_{prefixes[match['part']]}_{module.replace('.', '_')}"
        way = match["way"] or match["old"] or {"A": "down", "B": "up", None: ""}[match["letter"]]
        converted[f"{name}.lora_{way}.weight" if way else f"{name}.alpha"] = tensor
    for key in [key for key in converted if key.endswith(".lora_down.weight")]:
        if not converted[key].ndim:
            raise LikenessError(f"{path}: {key} holds a single number, no matrix; get it again")
        rank = converted[key].shape[0]
        converted.setdefault(key.replace(".lora_down.weight", ".alpha"), torch.tensor(float(rank)))
    return converted


def _family_of(lora: "Mapping[str, Tensor]", path: Path) -> str:
    """The base family, from the width of what cross-attention reads."""
    if any(key.startswith(("lora_te1_", "lora_te2_")) for key in lora):
        return "sdxl"
    widths = {
        tensor.shape[1] for key, tensor in lora.items() if "attn2_to_k.lora_down" in key and tensor.ndim == 2
    }
    widths |= {
        tensor.shape[1] for key, tensor in lora.items() if "lora_te_" in key and "q_proj.lora_down" in key
    }
    found = {row.key for row in FAMILIES.values() if row.context_width in widths}
    if len(found) != 1:
        raise LikenessError(
            f"{path} does not fit SD 1.x, SD 2.x, SDXL or the Miniature; it is for another base"
        )
    return found.pop()


def _rows_of_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """An embedding file's rows by text encoder: clip_l, clip_g, or the only tensor there is."""
    for key, rows in tensors.items():
        if not rows.ndim:
            raise LikenessError(f"{path}: {key} holds a single number, no vectors; get it again")
    named = {key: tensor for key, tensor in tensors.items() if key in ("clip_l", "clip_g", "clip_h")}
    if named:
        return named
    if len(tensors) != 1:
        raise LikenessError(f"{path} is neither a LoRA nor an embedding; give one of these")
    rows = next(iter(tensors.values()))
    rows = rows[None] if rows.ndim == 1 else rows
    return {"clip_h" if rows.shape[-1] == 1024 else "clip_g" if rows.shape[-1] == 1280 else "clip_l": rows}


def _rows_of_pickle(path: Path) -> "dict[str, Tensor]":
    """Rows from A1111's .pt or diffusers' .bin; nothing but tensors and plain containers is read."""
    import torch

    content = read_pickle(path, "ask for a .safetensors of it")
    inner = content.get("string_to_param", content) if isinstance(content, dict) else None
    if not isinstance(inner, Mapping) or not all(isinstance(value, torch.Tensor) for value in inner.values()):
        raise LikenessError(f"{path} is not an embedding; give a .safetensors or an A1111 embedding")
    return _rows_of_tensors(path, {str(key): value.detach() for key, value in inner.items()})


def _whole_table(path: Path, tables: "Mapping[str, Tensor]", class_words: str, all_rows: bool) -> Artifact:
    """Placeholders behind the vocabulary; `class_words`: what they show, separated by commas."""
    count = min(len(table) for table in tables.values()) - CLIP_WORDS
    words = [word.strip() for word in class_words.split(",")] if class_words else [""] * count
    if not count:
        raise LikenessError(f"{path} holds a token table without new words; choose that of a training run")
    if len(words) != count:
        raise LikenessError(
            f"{path} holds {count} new words, but {len(words)} class words are given; give one for each"
        )
    tensors: dict[str, Tensor] = {}
    for encoder, table in tables.items():
        for number in range(count):
            tensors[f"token.v{number}.{encoder}"] = table[CLIP_WORDS + number :][:1]
        if all_rows:
            tensors[f"table.{encoder}"] = table[:CLIP_WORDS]
    tokens = [
        Token(token=f"<v{number}>", class_word=word, role="component" if number else "subject")
        for number, word in enumerate(words)
    ]
    family = "sd2" if "clip_h" in tables else "sd1"
    artifact = Artifact(
        kind="embedding", method="imported", tensors=tensors, tokens=tuple(tokens), base_family=family
    )
    check_tensors(artifact, path)
    return artifact


def _embedding(path: Path, rows: "Mapping[str, Tensor]", token: str | None, class_word: str) -> Artifact:
    placeholder = token or f"<{re.sub(r'[^A-Za-z0-9_-]', '_', path.stem)}>"
    family = family_of_rows({encoder: tensor.shape[-1] for encoder, tensor in rows.items()}).key
    learned = Token(token=placeholder, class_word=class_word, vectors=next(iter(rows.values())).shape[0])
    artifact = Artifact(
        kind="embedding",
        method="imported",
        tensors={f"token.{learned.name}.{encoder}": tensor for encoder, tensor in rows.items()},
        tokens=(learned,),
        base_family=family,
    )
    check_tensors(artifact, path)
    return artifact
