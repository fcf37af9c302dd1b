"""Other tools' embeddings as concept files: A1111's, diffusers' and ComfyUI's, MagicTailor's whole tables."""

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bases.families import FAMILIES, Family
from ..config import TOKEN
from ..errors import LikenessError
from ..files import portable
from .concept_file import Artifact, Token, check_tensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
CLIP_WORDS = 49_408  # in the vocabulary that all of SD's text encoders share
ENCODERS = tuple(dict.fromkeys(name for row in FAMILIES.values() for name in row.encoders))
_NAMELESS = ("emb_params", "*")  # what A1111's and kohya's tools call whatever they learned


def read_embedding(
    path: Path, content: Mapping[str, Any], *, token: str | None, class_words: str, all_rows: bool
) -> Artifact:
    """What a file holds, as one placeholder each; `token` instead of the name that the file gives or has.

    `class_words`: what they show, separated by commas where there are several.
    """
    tensors = _tensors_of(path, content)
    named = _by_name(path, tensors)
    if all(len(table) >= CLIP_WORDS for rows in named.values() for table in rows.values()):
        return _whole_table(path, next(iter(named.values())), class_words, all_rows)
    if token is not None and len(named) > 1:
        raise LikenessError(
            f"{path} holds {len(named)} embeddings, {', '.join(sorted(named))}; leave --token away"
        )
    words = [class_words]
    if len(named) > 1:
        words = [word.strip() for word in class_words.split(",")]
    if len(words) not in (1, len(named)):
        raise LikenessError(
            f"{path} holds {len(named)} embeddings, but {len(words)} class words are given; give one for each"
        )
    families = {_family_of(path, rows).key for rows in named.values()}
    kept: dict[str, Tensor] = {}
    tokens = []
    for number, (name, rows) in enumerate(sorted(named.items())):
        placeholder = Token(
            token=token or _placeholder(path, name), class_word=words[min(number, len(words) - 1)],
            vectors=len(next(iter(rows.values()))),
        )  # fmt: skip
        kept |= {f"token.{placeholder.name}.{encoder}": tensor for encoder, tensor in rows.items()}
        tokens.append(placeholder)
    artifact = Artifact(
        kind="embedding", method="imported", tensors=kept, tokens=tuple(tokens), base_family=families.pop(),
        steps=content["step"] if isinstance(content.get("step"), int) else 0,
        extra={"learned_on": content["sd_checkpoint_name"]} if content.get("sd_checkpoint_name") else {},
    )  # fmt: skip
    check_tensors(artifact, path)
    return artifact


def _tensors_of(path: Path, content: Mapping[str, Any]) -> "dict[str, Tensor]":
    """An embedding file's tensors by the names it gives them; A1111 keeps them one level further down."""
    import torch

    inner = content.get("string_to_param", content)
    if not isinstance(inner, Mapping) or not all(isinstance(rows, torch.Tensor) for rows in inner.values()):
        raise LikenessError(f"{path} is not an embedding; give a .safetensors or an A1111 embedding")
    tensors = {}
    for name, rows in inner.items():
        if not rows.ndim:
            raise LikenessError(f"{path}: {name} holds a single number, no vectors; get it again")
        tensors[str(name)] = rows.detach()[None] if rows.ndim == 1 else rows.detach()
    return tensors


def _by_name(path: Path, tensors: "Mapping[str, Tensor]") -> "dict[str, dict[str, Tensor]]":
    """Rows by text encoder, by the name that the file gives them; "" where it gives none."""
    named = {name: rows for name, rows in tensors.items() if name in ENCODERS}
    if named:
        left = sorted(tensors.keys() - named)
        if left:
            log.warning("%s: %s is left out; prompts use the vectors alone", path, " and ".join(left))
        return {"": named}
    if len(tensors) != 1 and not all(TOKEN.fullmatch(name) for name in tensors):
        raise LikenessError(f"{path} is neither a LoRA nor an embedding; give one of these")
    return {
        "" if name in _NAMELESS else name: {_encoder_of(path, rows.shape[-1]): rows}
        for name, rows in tensors.items()
    }


def _encoder_of(path: Path, width: int) -> str:
    """The text encoder that reads vectors of this width."""
    for row in FAMILIES.values():
        for name, encoder_width in row.text_widths.items():
            if encoder_width == width:
                return name
    raise _too_wide(path, width)


def _too_wide(path: Path, width: int) -> LikenessError:
    bases = [f"{row.name} ({' and '.join(map(str, row.text_widths.values()))})" for row in FAMILIES.values()]
    return LikenessError(
        f"{path} holds vectors {width} wide, which no base that we know reads: {', '.join(bases)}; choose "
        "another"
    )


def _family_of(path: Path, rows: "Mapping[str, Tensor]") -> Family:
    """The row of the bases whose text encoders are these, of these widths."""
    widths = {name: tensor.shape[-1] for name, tensor in rows.items()}
    if not all(len(tensor) for tensor in rows.values()):
        raise LikenessError(f"{path} holds no vectors; get it again or choose another")
    fitting = [row for row in FAMILIES.values() if dict(row.text_widths) == widths]
    if fitting:
        return fitting[0]
    parts = [row for row in FAMILIES.values() if widths.items() < row.text_widths.items()]
    if parts:
        missing = " and ".join(row for row in parts[0].text_widths if row not in widths)
        raise LikenessError(
            f"{path} holds vectors for {' and '.join(widths)} alone, but {parts[0].name} reads {missing} "
            "too; ask for a whole embedding"
        )
    if len(widths) == 1:
        raise _too_wide(path, next(iter(widths.values())))
    held = " and ".join(f"{name} ({width} wide)" for name, width in widths.items())
    raise LikenessError(f"{path} holds vectors for {held}, which no base that we know reads; choose another")


def _placeholder(path: Path, name: str) -> str:
    """The placeholder for a name in a file, or for the file's own, in letters that prompts can hold."""
    if TOKEN.fullmatch(name):
        return f"<{portable(name[1:-1])}>"
    text = name or path.stem
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_")
    if sum(map(str.isalnum, plain)) * 2 < sum(map(str.isalnum, text)) or not plain:
        plain = "v0"  # a name in another script: most of it would be lost
    placeholder = f"<{portable(plain)}>"
    if placeholder != f"<{text}>":
        log.warning("%s: its placeholder is %s; another may be given with --token", path, placeholder)
    return placeholder


def _whole_table(path: Path, tables: "Mapping[str, Tensor]", class_words: str, all_rows: bool) -> Artifact:
    """MagicTailor's: placeholders behind the vocabulary; `all_rows` keeps the vocabulary too."""
    count = min(len(table) for table in tables.values()) - CLIP_WORDS
    words: Sequence[str] = [word.strip() for word in class_words.split(",")] if class_words else [""] * count
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
    artifact = Artifact(
        kind="embedding", method="imported", tensors=tensors, tokens=tuple(tokens),
        base_family=_family_of(path, tables).key,
    )  # fmt: skip
    check_tensors(artifact, path)
    return artifact
