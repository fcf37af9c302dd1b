"""What was learned and what it means, in one `.safetensors` file: written, read and checked.

LoRA tensors have kohya names with explicit alpha (`lora_unet_…`, `lora_te_…`, SDXL `lora_te1_…`,
`lora_te2_…`), its relatives LyCORIS' endings; those of transformers PEFT's names beside it
(`transformer.<diffusers' path>.lora_A.weight`). A placeholder's rows are
`token.<name without brackets>.<encoder>`, (vectors, width), encoder clip_l, clip_g, clip_h, qwen3_4b,
qwen3_8b or qwen3vl_4b. Where training moved all words of the vocabulary, their table is
`table.<encoder>`. Files come from anywhere: what is read is checked first, and nothing in them is ever
executed.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bases.families import FAMILIES
from ..config import TOKEN as PLACEHOLDER
from ..config import from_json, one_of, read
from ..errors import LikenessError
from ..version import VERSION
from .card import THUMBNAIL, as_uri, from_uri, trigger_words
from .tensors import read_header, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
MOST_VECTORS = 1000  # of one placeholder: text encoders read 75 at a time
ARTIFACT_KINDS = ("lora", "embedding", "staged_embedding", "id_adapter")
LORA_PARTS = (  # LoRA and LoCon, with DoRA's magnitudes; LoHa; LoKr; OFT; a whole difference
    "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
    "oft_blocks", "diff", "diff_b",
)  # fmt: skip
LORA_KEY = re.compile(rf"(lora_(?:unet|te|te1|te2)_\w+)\.({'|'.join(map(re.escape, LORA_PARTS))})")
_PEFT_KEY = re.compile(r"((?:transformer|text_encoders)\.[\w.]+?)\.(lora_A\.weight|lora_B\.weight|alpha)")
_PEFT_PARTS = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight", "alpha": "alpha"}
_SIGNS = {"lora_": "LoRA", "hada_": "LoHa", "lokr_": "LoKr", "oft_": "OFT", "diff": "difference"}
_NEEDED = {  # by kind, the tensors of which a layer must have one in each group
    "LoRA": (("lora_down.weight",), ("lora_up.weight",)),
    "LoHa": (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",)),
    "LoKr": (
        ("lokr_w1", "lokr_w1_a"), ("lokr_w1", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a"),
        ("lokr_w2", "lokr_w2_b"),
    ),
    "OFT": (("oft_blocks",),),
    "difference": (("diff", "diff_b"),),
}  # fmt: skip
_TOKEN_KEY = re.compile(r"token\.([^.]+)\.(\w+)")
_TABLE_KEY = re.compile(r"table\.(\w+)")
_TEXT_FIELDS = ("kind", "method", "base_family", "base_fingerprint", "digest", "licence")
_NUMBER_FIELDS = ("seed", "steps")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A placeholder that prompts may use, and what it stands for."""

    token: str  # as typed in prompts: <v0>
    class_word: str = ""
    role: str = "subject"
    vectors: int = 1  # rows it takes in the text encoder; an identity adapter's people take none

    def __post_init__(self) -> None:
        if not PLACEHOLDER.fullmatch(self.token):
            raise LikenessError(f"'{self.token}' cannot be a placeholder; write it like <v0>")
        if not 0 <= self.vectors <= MOST_VECTORS:  # none: an adapter's people are no rows of the encoder
            raise LikenessError(f"{self.token} has {self.vectors} vectors; it must be 0 to {MOST_VECTORS}")

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
    base_family: str = "sd1"  # a key of FAMILIES
    base_fingerprint: str = ""  # of the weights it was trained on; empty: unknown
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0
    digest: str = ""  # of the training set
    licence: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # what only one method knows, JSON-able
    about: Mapping[str, Any] = field(default_factory=dict)  # for people: base, pictures, size, scores
    thumbnail: bytes = field(default=b"", repr=False)  # a JPEG of at most 64 KiB, or nothing

    def __post_init__(self) -> None:
        one_of("kind of concept file", self.kind, ARTIFACT_KINDS)
        one_of("family of base models", self.base_family, FAMILIES)

    def __str__(self) -> str:
        """As nodes show it: not all of its numbers."""
        parts = (
            f"{self.kind} {trigger_words(self.tokens)}".strip(),
            self.method,
            self.base_family,
            f"{self.steps} steps",
        )
        return ", ".join(parts)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file, whole or not at all."""
        check_tensors(self, path)
        write_tensors(path, self.tensors, self.metadata())
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Artifact":
        """Reads and checks a concept file."""
        metadata = read_header(path)[0]
        _artifact_fields(path, metadata)  # before tensors are read, which may be many
        return cls.of(path, metadata, read_tensors(path))

    @classmethod
    def of(
        cls, path: str | os.PathLike[str], metadata: Mapping[str, str], tensors: "Mapping[str, Tensor]"
    ) -> "Artifact":
        """What a file says and holds, checked; `path` is named where it is wrong."""
        artifact = cls(tensors=tensors, **_artifact_fields(path, metadata))
        check_tensors(artifact, path)
        return artifact

    def lora(self) -> "dict[str, Tensor]":
        """The LoRA's tensors under the names that its family's have; empty where there is none."""
        return {
            key: tensor
            for key, tensor in self.tensors.items()
            if key.startswith("lora_") or _PEFT_KEY.fullmatch(key)
        }

    def rows(self, token: str) -> "dict[str, Tensor]":
        """A placeholder's rows by text encoder, each (vectors, width)."""
        prefix = f"token.{token.strip('<>')}."
        return {key[len(prefix) :]: rows for key, rows in self.tensors.items() if key.startswith(prefix)}

    def tables(self) -> "dict[str, Tensor]":
        """Whole token tables (words, width) by text encoder; empty where only placeholders were learned."""
        matches = {key: _TABLE_KEY.fullmatch(key) for key in self.tensors}
        return {match[1]: self.tensors[key] for key, match in matches.items() if match}

    def renamed(self, words: Sequence[str]) -> "Artifact":
        """The same under other placeholders: words such as `<anna>`, for its tokens in their order."""
        if len(words) > len(self.tokens):
            had = " ".join(token.token for token in self.tokens) or "none"
            raise LikenessError(
                f"{len(words)} placeholders are named, but it has {had}; name no more than that"
            )
        names = {token.name: replace(token, token=word).name for token, word in zip(self.tokens, words)}
        tokens = [replace(token, token=f"<{names.get(token.name, token.name)}>") for token in self.tokens]
        if len({token.token for token in tokens}) < len(tokens):
            raise LikenessError(f"two placeholders would be {' '.join(words)}; give each a name of its own")
        tensors = {}
        for key, tensor in self.tensors.items():
            match = _TOKEN_KEY.fullmatch(key)
            new = names.get(match[1], match[1]) if match else ""
            tensors[key.replace(f"token.{match[1]}.", f"token.{new}.", 1) if match else key] = tensor
        return replace(self, tokens=tuple(tokens), tensors=tensors)

    def metadata(self) -> dict[str, str]:
        """Everything but the tensors, as the file's header holds it."""
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
        shown = {  # what other tools show of it; no date, for equal runs are equal files
            "likeness.about": dict(self.about),
            "modelspec.trigger_phrase": trigger_words(self.tokens),
            THUMBNAIL: as_uri(self.thumbnail),
        }
        values |= {name: value for name, value in shown.items() if value}
        return {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
        }


def lora_layer(key: str) -> tuple[str, str]:
    """The layer that a LoRA's tensor is for, and which of `LORA_PARTS` it is."""
    match = _PEFT_KEY.fullmatch(key)
    if match is not None:
        return match[1], _PEFT_PARTS[match[2]]
    name, _, part = key.partition(".")
    return name, part


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a concept file says about itself, without reading its tensors; `tokens` are Token objects."""
    metadata, tensors = read_header(path)
    fields = _artifact_fields(path, metadata)
    written_by = metadata.get("likeness.written_by", "")
    return {
        **fields,
        "written_by": written_by,
        "parameters": sum(math.prod(shape) for shape in tensors.values()),
    }


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


def placeholders(artifacts: Iterable[Artifact]) -> list[str]:
    """The placeholders that prompts may use with these artifacts."""
    return [token.token for artifact in artifacts for token in artifact.tokens]


def _architecture(artifact: Artifact) -> str:
    suffix = {"lora": "lora", "embedding": "textual-inversion"}.get(artifact.kind, artifact.kind)
    return f"{FAMILIES[artifact.base_family].architecture}/{suffix}"


def _artifact_fields(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The artifact's fields but its tensors, from a file's metadata."""
    version = metadata.get("likeness.format_version")
    if version is None:
        raise LikenessError(
            f"{path} is not one of our concept files; bring it in with `likeness import {path}`"
        )
    if not re.fullmatch(r"[0-9]{1,9}", version):
        raise LikenessError(f"{path} has a format without a number; get it again or choose another")
    if int(version) > FORMAT_VERSION:
        raise LikenessError(
            f"{path} has format {version}, written by a newer version of Likeness; update the pack"
        )
    try:
        fields: dict[str, Any] = {name: metadata[f"likeness.{name}"] for name in _TEXT_FIELDS}
        fields |= {name: int(metadata[f"likeness.{name}"]) for name in _NUMBER_FIELDS}
        fields |= {
            name: from_json(metadata[f"likeness.{name}"], f"'{name}'") for name in ("settings", "extra")
        }
        tokens = from_json(metadata["likeness.tokens"], "'tokens'")
        if not all(isinstance(fields[name], dict) for name in ("settings", "extra")):
            raise TypeError("not a mapping")
        fields["about"] = _plain_mapping(metadata.get("likeness.about", "{}"))
        fields["thumbnail"] = from_uri(metadata.get(THUMBNAIL, ""))
        fields["tokens"] = tuple(read(Token, token, "token") for token in tokens)
        one_of("kind of concept file", fields["kind"], ARTIFACT_KINDS)
        one_of("family of base models", fields["base_family"], FAMILIES)
    except Exception as error:  # it may say anything
        raise LikenessError(
            f"{path} describes itself wrongly ({error}); get it again or choose another"
        ) from error
    return fields


def _plain_mapping(text: str) -> dict[str, Any]:
    mapping = from_json(text, "'about'")
    if not isinstance(mapping, dict):
        raise TypeError("'about' is not a mapping")
    return mapping


def check_tensors(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    """Raises unless the tensors are what the kind and the tokens promise."""
    if not artifact.tensors:
        raise LikenessError(f"{path} holds no tensors; learn or export it again")
    for key, tensor in artifact.tensors.items():
        if str(tensor.dtype).startswith(("torch.float8", "torch.float4")):
            raise LikenessError(
                f"{path}: {key} is stored as {str(tensor.dtype)[6:]}, too coarse to use; get it in fp16"
            )
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise LikenessError(f"{path}: {key} holds values that are not finite numbers; learn it again")
    if artifact.kind in ("lora", "embedding"):
        peft = FAMILIES[artifact.base_family].peft_names
        patterns = (_PEFT_KEY if peft else LORA_KEY, _TOKEN_KEY, _TABLE_KEY)
        strange = [key for key in artifact.tensors if not any(kind.fullmatch(key) for kind in patterns)]
        if strange:
            raise LikenessError(
                f"{path} holds '{strange[0]}', which no {artifact.kind} has; choose another file"
            )
    _check_lora(artifact.lora(), path)
    _check_tokens(artifact, path)
    for encoder, table in artifact.tables().items():
        if table.ndim != 2 or encoder not in FAMILIES[artifact.base_family].encoders:
            raise LikenessError(f"{path}: table.{encoder} fits no text encoder of its base; get it again")


def _check_lora(lora: "Mapping[str, Tensor]", path: str | os.PathLike[str]) -> None:
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in lora.items():
        module, part = lora_layer(key)
        modules.setdefault(module, {})[part] = tensor
    for module, parts in modules.items():
        kind = next((kind for sign, kind in _SIGNS.items() if any(sign in part for part in parts)), "LoRA")
        named = f"{path}: the {kind} of {module}"
        needed, alpha = _NEEDED[kind], parts.get("alpha")
        if not all(any(name in parts for name in names) for names in needed):
            raise LikenessError(f"{named} is incomplete; get it again")
        if (alpha is None and kind == "LoRA") or (alpha is not None and alpha.numel() != 1):
            raise LikenessError(f"{named} is incomplete; get it again")
        if kind == "LoRA":
            down, up = parts["lora_down.weight"], parts["lora_up.weight"]
            if down.ndim not in (2, 4) or up.ndim not in (2, 4):
                raise LikenessError(f"{named} is for no kind of layer we know; get it again")
            if down.shape[0] != up.shape[1]:
                raise LikenessError(f"{path}: the shapes in the LoRA of {module} disagree; get it again")
        blocks = parts.get("oft_blocks")
        if blocks is not None and (blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2]):
            raise LikenessError(f"{named} is a BOFT or damaged; ask for a plain LoRA of it")


def _check_tokens(artifact: Artifact, path: str | os.PathLike[str]) -> None:
    by_name = {token.name: token for token in artifact.tokens}
    if len(by_name) < len(artifact.tokens):
        raise LikenessError(f"{path} defines a placeholder twice; get it again or choose another")
    for key, rows in artifact.tensors.items():
        match = _TOKEN_KEY.fullmatch(key)
        if match is None:
            continue
        token = by_name.get(match[1])
        if token is None or rows.ndim != 2 or rows.shape[0] != token.vectors:
            raise LikenessError(f"{path}: the rows {key} do not fit their placeholder; get it again")
        if match[2] not in FAMILIES[artifact.base_family].encoders:
            raise LikenessError(
                f"{path}: {key} is no text encoder of a {artifact.base_family} base; get it again"
            )
