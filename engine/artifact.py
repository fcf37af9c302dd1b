"""The concept file: tensors and what they mean in one `.safetensors`; read, written, exported and imported.

LoRA tensors have kohya names with explicit alpha (`lora_unet_…`, `lora_te_…`, SDXL `lora_te1_…`,
`lora_te2_…`); a placeholder's rows are `token.<name without brackets>.<encoder>`, (vectors, width), encoder
clip_l, clip_g or clip_h. Where training moved all words of the vocabulary, their table is `table.<encoder>`.
Files come from anywhere: what is read is checked first, and nothing in them is ever executed.
"""

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import TOKEN as PLACEHOLDER
from .config import read
from .errors import LikenessError, nearest
from .files import write_atomically
from .version import VERSION

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
KINDS = ("lora", "embedding", "staged_embedding", "id_adapter")
ENCODERS = {  # the text encoders of each family, in ComfyUI's words, as keys of token rows
    "miniature": ("clip_l",),
    "sd1": ("clip_l",),
    "sd2": ("clip_h",),
    "sdxl": ("clip_l", "clip_g"),
}
ARCHITECTURES = {  # modelspec.architecture, which other tools sort files by
    "miniature": "likeness-miniature",
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}
LARGEST_HEADER = 32 * 2**20  # bytes; the largest real one we know is below 1 MB
_LORA_KEY = re.compile(r"(lora_(?:unet|te|te1|te2)_\w+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_TOKEN_KEY = re.compile(r"token\.([^.]+)\.(clip_[lgh])")
_TABLE_KEY = re.compile(r"table\.(clip_[lgh])")
CLIP_WORDS = 49_408  # in the vocabulary that all of SD's text encoders share


@dataclass(frozen=True, kw_only=True)
class Token:
    """A placeholder that prompts may use, and what it stands for."""

    token: str  # as typed in prompts: <v0>
    class_word: str = ""
    role: str = "subject"
    vectors: int = 1  # rows it takes in the text encoder

    def __post_init__(self) -> None:
        if not PLACEHOLDER.fullmatch(self.token):
            raise LikenessError(f"'{self.token}' cannot be a placeholder; write it like <v0>")

    @property
    def name(self) -> str:
        """Without brackets, for keys and file names."""
        return self.token[1:-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifact:
    """Something learned: its tensors, and everything needed to use and to trace it."""

    kind: str  # one of KINDS
    method: str
    tensors: "Mapping[str, Tensor]"
    tokens: tuple[Token, ...] = ()
    base_family: str = "sd1"  # a key of ENCODERS
    base_fingerprint: str = ""  # of the weights it was trained on; empty: unknown
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0
    digest: str = ""  # of the training set
    licence: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # what only one method knows, JSON-able

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LikenessError(f"unknown kind of concept file '{self.kind}'{nearest(self.kind, KINDS)}")
        if self.base_family not in ENCODERS:
            hint = nearest(self.base_family, ENCODERS)
            raise LikenessError(f"unknown family of base models '{self.base_family}'{hint}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file, whole or not at all."""
        _check_tensors(self, path)
        _write_tensors(path, self.tensors, self._metadata())
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Artifact":
        """Reads and checks a concept file."""
        fields = _artifact_fields(path, _read_header(path)[0])
        artifact = cls(tensors=_read_tensors(path), **fields)
        _check_tensors(artifact, path)
        return artifact

    def lora(self) -> "dict[str, Tensor]":
        """The LoRA's tensors under kohya names; empty where there is none."""
        return {key: tensor for key, tensor in self.tensors.items() if key.startswith("lora_")}

    def rows(self, token: str) -> "dict[str, Tensor]":
        """A placeholder's rows by text encoder, each (vectors, width)."""
        prefix = f"token.{token.strip('<>')}."
        return {key[len(prefix) :]: rows for key, rows in self.tensors.items() if key.startswith(prefix)}

    def tables(self) -> "dict[str, Tensor]":
        """Whole token tables (words, width) by text encoder; empty where only placeholders were learned."""
        matches = {key: _TABLE_KEY.fullmatch(key) for key in self.tensors}
        return {match[1]: self.tensors[key] for key, match in matches.items() if match}

    def _metadata(self) -> dict[str, str]:
        values = {
            "likeness.format_version": FORMAT_VERSION,
            "likeness.written_by": f"likeness-portraits {VERSION}",
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": _architecture(self),
            **{f"likeness.{name}": getattr(self, name) for name in _TEXT_FIELDS + _NUMBER_FIELDS},
            "likeness.tokens": [asdict(token) for token in self.tokens],
            "likeness.settings": dict(self.settings),
            "likeness.extra": dict(self.extra),
        }
        return {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
        }


_TEXT_FIELDS = ("kind", "method", "base_family", "base_fingerprint", "digest", "licence")
_NUMBER_FIELDS = ("seed", "steps")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a concept file says about itself, without reading its tensors; `tokens` are Token objects."""
    metadata, tensors = _read_header(path)
    fields = _artifact_fields(path, metadata)
    written_by = metadata.get("likeness.written_by", "")
    return {
        **fields,
        "written_by": written_by,
        "parameters": sum(math.prod(shape) for shape in tensors.values()),
    }


# --- other tools' files ------------------------------------------------------------


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
    files: dict[Path, tuple[dict[str, Tensor], dict[str, str]]] = {}
    lora = artifact.lora()
    if lora:
        files[Path(folder) / f"{name}.safetensors"] = (lora, _kohya_metadata(artifact, lora))
    if artifact.tables():
        log.warning("training moved all words of the vocabulary; other tools read only the new ones")
    for token in artifact.tokens:
        rows = artifact.rows(token.token)
        if rows:
            files[Path(folder) / f"{token.name}.safetensors"] = (rows, _embedding_metadata(artifact, token))
    if len(files) < bool(lora) + sum(bool(artifact.rows(token.token)) for token in artifact.tokens):
        raise LikenessError(
            f"the LoRA and a placeholder would both be written to {name}.safetensors; change the name"
        )
    for path in files:
        if path.exists() and not overwrite:
            raise LikenessError(f"{path} exists; choose another name or folder, or allow overwriting")
    for path, (tensors, metadata) in files.items():
        _write_tensors(path, tensors, metadata)
    return list(files)


def import_file(
    path: str | os.PathLike[str], *, token: str | None = None, class_word: str = "", all_rows: bool = False
) -> Artifact:
    """Reads our own files, LoRAs with kohya or diffusers names, and embeddings (safetensors, or A1111's .pt);
    MagiCapture's files, in which modules are numbered, give both.

    An embedding becomes the placeholder `token`, by default `<name of the file>`. Of MagicTailor's whole
    token table the rows behind the vocabulary become `<v0>`, `<v1>` …; `all_rows` keeps the others too.
    """
    path = Path(path)
    if path.suffix.lower() in (".pt", ".bin", ".pth", ".ckpt"):
        rows = _rows_of_pickle(path)
        if all(len(table) >= CLIP_WORDS for table in rows.values()):
            return _whole_table(path, rows, class_word, all_rows)
        return _embedding(path, rows, token, class_word)
    metadata, shapes = _read_header(path)
    if "likeness.format_version" in metadata:
        return Artifact.load(path)
    tensors = _read_tensors(path)
    if any(re.match(r"(unet|text_encoder):\d+:", key) for key in shapes):
        return _numbered(path, tensors, class_word)
    if any("lora" in key for key in shapes):
        lora = _to_kohya(tensors, path)
        artifact = Artifact(kind="lora", method="imported", tensors=lora, base_family=_family_of(lora, path))
        _check_tensors(artifact, path)
        return artifact
    return _embedding(path, _rows_of_tensors(path, tensors), token, class_word)


def _numbered(path: Path, tensors: "Mapping[str, Tensor]", class_word: str) -> Artifact:
    """A file of MagiCapture's code; a placeholder with "style" in its name is the style's."""
    from .networks import cloneofsimo

    lora, rows = cloneofsimo.read(tensors, path)
    tokens = [
        Token(token=re.sub(r"[^A-Za-z0-9_<>-]", "_", name), role="style" if "style" in name else "subject")
        for name in sorted(rows)
    ]
    family = _family_of(lora, path)
    (encoder,) = ENCODERS[family]
    words = {f"token.{token.name}.{encoder}": rows[name][None] for token, name in zip(tokens, sorted(rows))}
    artifact = Artifact(
        kind="lora", method="magicapture", tensors={**lora, **words}, base_family=family,
        tokens=tuple(replace(t, class_word="" if t.role == "style" else class_word) for t in tokens),
    )  # fmt: skip
    _check_tensors(artifact, path)
    return artifact


def export_numbered(artifact: Artifact, path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Writes the one file that MagiCapture's and cloneofsimo's code read: LoRA and words together."""
    from .networks import cloneofsimo

    path = Path(path)
    if path.exists() and not overwrite:
        raise LikenessError(f"{path} exists; choose another name or folder, or allow overwriting")
    if artifact.base_family == "sdxl":
        raise LikenessError("files of this kind know one text encoder; export a stock LoRA for SDXL")
    rows = {token.token: next(iter(artifact.rows(token.token).values())) for token in artifact.tokens}
    tensors, metadata = cloneofsimo.write(artifact.lora(), rows)
    _write_tensors(path, tensors, metadata)
    return path


def merge(artifacts: Sequence[Artifact]) -> Artifact:
    """One concept file out of a LoRA and the embeddings that belong to it."""
    families = {artifact.base_family for artifact in artifacts}
    if len(families) != 1:
        raise LikenessError(
            f"these files are for different bases ({', '.join(sorted(families))}); import them apart"
        )
    tensors: dict[str, Tensor] = {}
    for artifact in artifacts:
        twice = tensors.keys() & artifact.tensors.keys()
        if twice:
            raise LikenessError(f"two of the files hold {min(twice)}; import them apart")
        tensors |= artifact.tensors
    first = max(artifacts, key=lambda artifact: artifact.kind == "lora")
    return replace(
        first, tensors=tensors, tokens=tuple(token for artifact in artifacts for token in artifact.tokens)
    )


def _architecture(artifact: Artifact) -> str:
    suffix = {"lora": "lora", "embedding": "textual-inversion"}.get(artifact.kind, artifact.kind)
    return f"{ARCHITECTURES[artifact.base_family]}/{suffix}"


def _kohya_metadata(artifact: Artifact, lora: "Mapping[str, Tensor]") -> dict[str, str]:
    ranks = {tensor.shape[0] for key, tensor in lora.items() if key.endswith("lora_down.weight")}
    alphas = {float(tensor) for key, tensor in lora.items() if key.endswith(".alpha")}
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES[artifact.base_family]}/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(ranks, default=0)),
        "ss_network_alpha": str(max(alphas, default=0.0)),
        "ss_steps": str(artifact.steps),
        "ss_seed": str(artifact.seed),
    }


def _embedding_metadata(artifact: Artifact, token: Token) -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES[artifact.base_family]}/textual-inversion",
        "modelspec.trigger_phrase": token.name,
    }


_DIFFUSERS_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<part>unet|text_encoder|text_encoder_2)\.(?:base_model\.model\.)?"
    r"(?P<module>.+?)\.(?:processor\.)?"
    r"(?:lora_(?P<letter>[AB])(?:\.\w+)?\.weight|lora\.(?P<way>down|up)\.weight"
    r"|(?P<leaf>to_[qkv]|to_out)_lora\.(?P<old>down|up)\.weight|(?P<alpha>alpha))"
)


def _to_kohya(tensors: "Mapping[str, Tensor]", path: Path) -> "dict[str, Tensor]":
    """The LoRA under kohya names; alpha equals the rank where diffusers' file says none."""
    import torch

    if all(_LORA_KEY.fullmatch(key) for key in tensors):
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
    families = {128: "miniature", 768: "sd1", 1024: "sd2", 2048: "sdxl"}
    found = {families[width] for width in widths if width in families}
    if len(found) != 1:
        raise LikenessError(
            f"{path} does not fit SD 1.x, SD 2.x, SDXL or the Miniature; it is for another base"
        )
    return found.pop()


def _rows_of_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """An embedding file's rows by text encoder: clip_l, clip_g, or the only tensor there is."""
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
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LikenessError(f"{path} does not exist; check the path") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise LikenessError(
            f"{path} holds more than tensors or is damaged; ask for a .safetensors of it"
        ) from error
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
    _check_tensors(artifact, path)
    return artifact


def _embedding(path: Path, rows: "Mapping[str, Tensor]", token: str | None, class_word: str) -> Artifact:
    placeholder = token or f"<{re.sub(r'[^A-Za-z0-9_-]', '_', path.stem)}>"
    width = rows["clip_l"].shape[-1] if "clip_l" in rows else 0
    family = (
        "sdxl" if "clip_g" in rows else "sd2" if "clip_h" in rows else "miniature" if width == 128 else "sd1"
    )
    learned = Token(token=placeholder, class_word=class_word, vectors=next(iter(rows.values())).shape[0])
    artifact = Artifact(
        kind="embedding",
        method="imported",
        tensors={f"token.{learned.name}.{encoder}": tensor for encoder, tensor in rows.items()},
        tokens=(learned,),
        base_family=family,
    )
    _check_tensors(artifact, path)
    return artifact


# --- reading and checking ------------------------------------------------------------


def _write_tensors(
    path: str | os.PathLike[str], tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]
) -> None:
    from safetensors.torch import save_file

    # copies: safetensors refuses tensors that share memory
    plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in sorted(tensors.items())}
    with write_atomically(path) as temporary:
        save_file(plain, temporary, dict(metadata))


def _read_header(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """A safetensors file's metadata and the shapes of its tensors; reads nothing else."""
    foreign = LikenessError(
        f"{path} is not a .safetensors file, or is damaged; get it again or choose another"
    )
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, os.fstat(file.fileno()).st_size - 8):
                raise foreign
            header = json.loads(file.read(length).decode("utf-8"))
        metadata = header.pop("__metadata__", None) or {}
        shapes = {str(key): tuple(int(side) for side in entry["shape"]) for key, entry in header.items()}
        return {str(key): str(value) for key, value in metadata.items()}, shapes
    except FileNotFoundError as error:
        raise LikenessError(f"{path} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise LikenessError(f"{path} is a folder; give a .safetensors file") from error
    except OSError as error:
        raise LikenessError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise foreign from error


def _read_tensors(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise LikenessError(f"{path} is damaged or cut short; get it again or choose another") from error


def _artifact_fields(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The artifact's fields but its tensors, from a file's metadata."""
    version = metadata.get("likeness.format_version")
    if version is None:
        raise LikenessError(
            f"{path} is not one of our concept files; bring it in with `likeness import {path}`"
        )
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise LikenessError(
            f"{path} has format {version}, written by a newer version of Likeness; update the pack"
        )
    try:
        fields: dict[str, Any] = {name: metadata[f"likeness.{name}"] for name in _TEXT_FIELDS}
        fields |= {name: int(metadata[f"likeness.{name}"]) for name in _NUMBER_FIELDS}
        fields |= {name: json.loads(metadata[f"likeness.{name}"]) for name in ("settings", "extra")}
        tokens = json.loads(metadata["likeness.tokens"])
        if not all(isinstance(fields[name], dict) for name in ("settings", "extra")):
            raise TypeError("not a mapping")
        fields["tokens"] = tuple(read(Token, token, "token") for token in tokens)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, LikenessError) as error:
        raise LikenessError(
            f"{path} describes itself wrongly ({error}); get it again or choose another"
        ) from error
    return fields


def _check_tensors(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Raises unless the tensors are what the kind and the tokens promise."""
    if not artifact.tensors:
        raise LikenessError(f"{path} holds no tensors; learn or export it again")
    for key, tensor in artifact.tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise LikenessError(f"{path}: {key} holds values that are not finite numbers; learn it again")
    if artifact.kind in ("lora", "embedding"):
        known = (_LORA_KEY, _TOKEN_KEY, _TABLE_KEY)
        strange = [key for key in artifact.tensors if not any(kind.fullmatch(key) for kind in known)]
        if strange:
            raise LikenessError(
                f"{path} holds '{strange[0]}', which no {artifact.kind} has; choose another file"
            )
    _check_lora(artifact.lora(), path)
    _check_tokens(artifact, path)
    for encoder, table in artifact.tables().items():
        if table.ndim != 2 or encoder not in ENCODERS[artifact.base_family]:
            raise LikenessError(f"{path}: table.{encoder} fits no text encoder of its base; get it again")


def _check_lora(lora: "Mapping[str, Tensor]", path: str | os.PathLike[str]) -> None:
    for module in {key.split(".")[0] for key in lora}:
        down, up = lora.get(f"{module}.lora_down.weight"), lora.get(f"{module}.lora_up.weight")
        alpha = lora.get(f"{module}.alpha")
        if down is None or up is None or alpha is None or alpha.numel() != 1:
            raise LikenessError(f"{path}: the LoRA of {module} is incomplete; get it again")
        if down.ndim not in (2, 4) or up.ndim != down.ndim:
            raise LikenessError(f"{path}: the LoRA of {module} is for no kind of layer we know; get it again")
        if down.shape[0] != up.shape[1]:
            raise LikenessError(f"{path}: the shapes in the LoRA of {module} disagree; get it again")


def _check_tokens(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    known = {token.name: token for token in artifact.tokens}
    if len(known) < len(artifact.tokens):
        raise LikenessError(f"{path} defines a placeholder twice; get it again or choose another")
    for key, rows in artifact.tensors.items():
        match = _TOKEN_KEY.fullmatch(key)
        if match is None:
            continue
        token = known.get(match[1])
        if token is None or rows.ndim != 2 or rows.shape[0] != token.vectors:
            raise LikenessError(f"{path}: the rows {key} do not fit their placeholder; get it again")
        if match[2] not in ENCODERS[artifact.base_family]:
            raise LikenessError(
                f"{path}: {key} is no text encoder of a {artifact.base_family} base; get it again"
            )


def placeholders(artifacts: Iterable[Artifact]) -> list[str]:
    """The placeholders that prompts may use with these artifacts."""
    return [token.token for artifact in artifacts for token in artifact.tokens]
