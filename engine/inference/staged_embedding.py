"""Drawing with a staged embedding (PersonaMagic): from the concept file to words that follow the noise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..artifact import ENCODERS, Artifact
from ..errors import LikenessError
from ..networks.mapper import Mapper
from ..networks.staged import StagedWords
from ..networks.stages import StagePlan

KIND = "staged_embedding"


def staged_words(artifact: Artifact) -> StagedWords:
    """What the concept file of this kind holds, ready for prompts; the pictures' features are averaged."""
    try:
        (token,) = artifact.tokens
        names = [name for name in ENCODERS[artifact.base_family] if f"word.{name}" in artifact.tensors]
        rows = {name: artifact.tensors[f"word.{name}"].float() for name in names}
        weights = {
            key.removeprefix("mapper."): tensor.float()
            for key, tensor in artifact.tensors.items()
            if key.startswith("mapper.")
        }
        mapper = Mapper.from_weights(weights, {name: len(row) for name, row in rows.items()})
        extra = artifact.extra
        low, high = extra["interval"]
        features = artifact.tensors.get("image_features")
        return StagedWords(
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
    except (KeyError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise LikenessError(
            f"this staged embedding is incomplete or damaged ({error}); learn or import it again"
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
    """The same words with another strength of the bypass, or other stages from timestep `start` to `end`."""
    plan = words.plan
    low, high = plan.interval
    span = (low if end is None else end, high if start is None else start)
    count = min(stages or plan.stages, max(span[1] - span[0], 1))
    return replace(
        words,
        bypass=words.bypass * bypass,
        plan=StagePlan(interval=span, stages=count, late=late or plan.late),
    )


def check_width(words: StagedWords, widths: Mapping[str, int]) -> None:
    """Raises unless the words were learned for text encoders of these widths."""
    made_for = {name: len(row) for name, row in words.class_rows.items()}
    if made_for != dict(widths):
        told, here = (" and ".join(map(str, w.values())) or "none" for w in (made_for, widths))
        raise LikenessError(
            f"{words.token} was learned for a text encoder {told} wide, this model's is {here}; "
            "connect the kind of model it was learned on, or learn it on this one"
        )


def check_used(prompts: Sequence[str], words: StagedWords) -> None:
    """Raises where no prompt mentions the placeholder: nothing of what was learned would show."""
    if not any(words.token in prompt for prompt in prompts):
        raise LikenessError(
            f"no prompt mentions {words.token}; write it where the {words.class_word} should be"
        )
