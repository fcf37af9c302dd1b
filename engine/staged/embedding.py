"""Drawing with a staged embedding (PersonaMagic): from the concept file to words that follow the noise."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifact import Artifact, Token
from ..artifact.inert_pickle import read_without_running
from ..bases.families import FAMILIES
from ..config import finite
from ..errors import LikenessError, first_line
from ..files import reading
from .mapper import Mapper
from .stages import LAST_TIMESTEP, StagePlan
from .words import StagedWords

STAGED_KIND = "staged_embedding"


def staged_words(artifact: Artifact) -> StagedWords:
    """What the concept file of this kind holds, ready for prompts; the pictures' features are averaged."""
    try:
        (token,) = artifact.tokens
        names = [
            name for name in FAMILIES[artifact.base_family].encoders if f"word.{name}" in artifact.tensors
        ]
        rows = {name: artifact.tensors[f"word.{name}"].float() for name in names}
        weights = {
            key.removeprefix("mapper."): tensor.float()
            for key, tensor in artifact.tensors.items()
            if key.startswith("mapper.")
        }
        mapper = Mapper.from_weights(weights, {name: len(row) for name, row in rows.items()})
        if mapper.words != token.vectors:
            raise ValueError(f"{mapper.words} words instead of {token.vectors}")
        extra = artifact.extra
        low, high = extra["interval"]
        features = artifact.tensors.get("image_features")
        words = StagedWords(
            token=token.token,
            class_word=token.class_word,
            mapper=mapper,
            class_rows=rows,
            norms={name: float(extra["norms"][name]) for name in names},
            image=torch.zeros(mapper.image_width) if features is None else features.float().mean(0),
            plan=StagePlan(interval=(low, high), stages=extra["stages"], late=extra["late"]),
            fixed=extra["fixed"],
            bypass=float(extra["bypass"]) if features is not None or not mapper.image_width else 0.0,
        )
        words.at(float(high))  # what does not fit together shows here, not while something is drawn
        return words
    except Exception as error:  # the file may hold tensors of any shape, and settings of any kind
        raise LikenessError(
            f"this staged embedding is incomplete or damaged ({first_line(error)}); learn or import it again"
        ) from error


def adjusted(
    words: StagedWords,
    *,
    bypass: float = 1.0,
    start: int | None = None,
    end: int | None = None,
    stages: int | None = None,
    late: str | None = None,
) -> StagedWords:
    """The same words with another strength of the bypass, or other stages from timestep `start` down to
    `end`."""
    finite({f"the strength of {words.token}": bypass})
    plan = words.plan
    low, high = plan.interval
    span = (low if end is None else end, high if start is None else start)
    if span[0] >= span[1] and 0 <= span[1] <= span[0] <= LAST_TIMESTEP + 1:
        raise LikenessError(
            f"the learned words would come at timestep {span[1]} and go at {span[0]}, but drawing counts "
            f"down from {LAST_TIMESTEP}; give a start above the end, such as {high} and {low}"
        )
    count = min(stages or plan.stages, max(span[1] - span[0], 1))
    return replace(
        words,
        bypass=words.bypass * bypass,
        plan=StagePlan(interval=span, stages=count, late=late or plan.late),
    )


def check_width(words: StagedWords, widths: Mapping[str, int], value_width: int | None = None) -> None:
    """Raises unless the words were learned for text encoders of these widths, and for blocks of joint
    attention so wide where there are such."""
    check_widths(words.token, {name: len(row) for name, row in words.class_rows.items()}, widths)
    moved, here = words.mapper.bypass_widths, value_width or sum(widths.values())
    if sum(moved.values()) != here:
        raise LikenessError(
            f"{words.token} was learned for a network {sum(moved.values())} wide, this model's is {here}; "
            "connect the model it was learned on, or learn it on this one"
        )


def check_widths(token: str, made_for: Mapping[str, int], widths: Mapping[str, int]) -> None:
    """Raises unless a placeholder's vectors, by text encoder so wide, are for encoders of these widths."""
    if dict(made_for) != dict(widths):
        learned, here = (" and ".join(map(str, w.values())) or "none" for w in (made_for, widths))
        raise LikenessError(
            f"{token} was learned for a text encoder {learned} wide, this model's is {here}; "
            "connect the kind of model it was learned on, or learn it on this one"
        )


def check_used(prompts: Sequence[str], words: StagedWords) -> None:
    """Raises where no prompt mentions the placeholder: nothing of what was learned would show."""
    if not any(words.token in prompt for prompt in prompts):
        raise LikenessError(
            f"no prompt mentions {words.token}; write it where the {words.class_word} should be"
        )


# ------------------------------------------------------------------------------- the reference's own files


def import_reference(
    mapper: Path,
    embeds: Path,
    *,
    token: str = "<v0>",
    class_word: str = "",
    image_features: Tensor | None = None,
) -> Artifact:
    """A staged embedding from the reference's `mapper-*.pt` and `learned_embeds-*.bin`; no pickle is run.

    These files hold no picture: without `image_features` (N, W) of one, drawing goes without the bypass.
    """
    with reading(mapper, "is not a mapper of PersonaMagic that can be read; get it again"):
        return _imported(mapper, embeds, token, class_word, image_features)


def _imported(
    mapper: Path, embeds: Path, token: str, class_word: str, image_features: Tensor | None
) -> Artifact:
    content = read_without_running(mapper)
    weights, config = _weights_of(content, mapper), content.get("cfg")
    row = _class_row(read_without_running(embeds), embeds)
    norm = _entry(config, "model", "target_norm")
    word = class_word or _entry(config, "data", "super_category_token") or ""
    if not word:
        raise LikenessError(f"{mapper} does not say what it shows; name it with --class-word")
    network = Mapper.from_weights(weights, {"clip_l": len(row)})
    tensors = {"word.clip_l": row, **{f"mapper.{name}": weight for name, weight in weights.items()}}
    if image_features is not None:
        tensors["image_features"] = image_features
    return Artifact(
        kind=STAGED_KIND, method="imported", tensors=tensors, base_family="sd1",
        tokens=(Token(token=token, class_word=str(word), vectors=network.words),),
        extra={
            "interval": [400, 800], "stages": 50, "late": "hold", "bypass": 1.0, "fixed": None,
            "norms": {"clip_l": float(row.norm() if norm is None else norm)},
        },
    )  # fmt: skip


def is_reference_mapper(path: Path) -> bool:
    """Whether a file is a mapper of the reference."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        content = read_without_running(path)
    except LikenessError:  # whoever reads it next says what is wrong with it
        return False
    weights = content.get("state_dict") if isinstance(content, dict) else None
    return isinstance(weights, dict) and "input_layer.weight" in weights


def _weights_of(content: Any, path: Path) -> dict[str, Tensor]:
    weights = content.get("state_dict") if isinstance(content, dict) else None
    names = Mapper(text_widths={"clip_l": 8}, image_width=8).state_dict()
    if not isinstance(weights, dict) or not names.keys() <= weights.keys():
        raise LikenessError(f"{path} is not a mapper of PersonaMagic; give its mapper-*.pt")
    by_name = {name: weights[name] for name in names}  # `encoder.w`, where it is, was never used
    if not all(isinstance(weight, Tensor) for weight in by_name.values()):
        raise LikenessError(f"{path} holds no plain tensors; choose another file")
    return {name: weight.detach().float() for name, weight in by_name.items()}


def _class_row(content: Any, path: Path) -> Tensor:
    """The class word's vector (D,): what all rows of the reference's embeddings file are."""
    rows = [row for row in content.values() if isinstance(row, Tensor)] if isinstance(content, dict) else []
    if not rows or rows[0].ndim != 1:
        raise LikenessError(f"{path} holds no learned embeddings; give the mapper's learned_embeds-*.bin")
    return rows[0].detach().float()


def _entry(config: Any, group: str, name: str) -> Any:
    inner = config.get(group) if isinstance(config, dict) else None
    return inner.get(name) if isinstance(inner, dict) else None
