"""What a file of any trainer does on its base: pictures drawn with it and without it, from the same noise.

identity   cosine to the person's held-out pictures; 0 where no face was drawn
copying    how much nearer faces come to a learned picture than the person's own come to each other
prompt     how well picture and prompt agree, class word for placeholder
leakage    identity in pictures whose prompts say the class word alone, with the file loaded
diversity  mean distance (1 - cosine) to the other pictures of the same prompt
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bases.sampling import OnStep
from ..data.concepts import Concept
from ..errors import LikenessError
from ..inference.generate import generate
from .backends import FaceSimilarity, LookJudge, MiniatureBackend, Pictures, TextJudge
from .intervals import mean_interval
from .metrics import copying, distances_within, similarity_to_references

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..bases.base import BaseModel

Interval = tuple[float, float, float]  # mean, and the ends of its 95 % interval over pictures


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is drawn: each prompt, with {} for the subject, `count` times; without the file by class word."""

    prompts: Sequence[str]
    subject: str  # what stands for {} with the file: <v0>, or words
    class_word: str
    count: int = 2
    seed: int = 0
    steps: int = 25
    guidance: float = 5.0
    strength: float = 1.0

    @property
    def plain(self) -> str:
        """What stands for {} without the file."""
        return f"a {self.class_word}"

    def worded(self, subject: str) -> list[str]:
        """A prompt for each picture, those of one prompt together."""
        return [prompt.format(subject) for prompt in self.prompts for _ in range(self.count)]

    @property
    def seeds(self) -> list[int]:
        return [self.seed + number for _ in self.prompts for number in range(self.count)]


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Who judges; without somebody for text or looks there is no such row."""

    faces: FaceSimilarity
    text: TextJudge | None = None
    look: LookJudge | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One score, with the file, by the base alone, and the difference picture by picture."""

    score: str
    file: Interval
    base: Interval
    difference: Interval


def judged_against_base(
    artifact: "Artifact", base: "BaseModel", concept: Concept, asked: Asked, judges: Judging,
    on_step: OnStep | None = None,
) -> list[ScoreRow]:  # fmt: skip
    """The rows that can be told; `concept` holds what was learned from, and what was held out.

    Without held-out pictures identity is to the learned ones. LikenessError where no face is in them.
    """
    learned = _faces_in(judges.faces, concept, held=False)
    references = _faces_in(judges.faces, concept, held=True) if concept.held else learned
    real = np.concatenate([learned, references]) if concept.held else learned
    used = [(artifact, asked.strength)]
    plain, tells_apart = asked.worded(asked.plain), asked.subject != asked.plain
    wishes = [(asked.worded(asked.subject), used), (plain, [])] + ([(plain, used)] if tells_apart else [])
    drawn = [
        generate(base, prompts, artifacts=artifacts, seed=asked.seeds, steps=asked.steps,
                 guidance=asked.guidance, on_step=progress_of_part(on_step, number, len(wishes)))
        for number, (prompts, artifacts) in enumerate(wishes)
    ]  # fmt: skip
    scores = [
        _scores(list(pictures), plain, asked.count, references, learned, real, judges) for pictures in drawn
    ]
    rows = [_row(name, scores[0][name], scores[1][name]) for name in scores[0]]
    if tells_apart:
        rows.append(_row("leakage", scores[2]["identity"], scores[1]["identity"]))
    return [row for row in rows if row is not None]


def _scores(
    pictures: Pictures, spoken: Sequence[str], count: int,
    references: np.ndarray, learned: np.ndarray, real: np.ndarray, judges: Judging,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Each score of each picture: (N,), NaN where there is none."""
    vectors, detected = judges.faces.faces(pictures)
    identity, copied = np.zeros(len(pictures)), np.full(len(pictures), np.nan)
    if detected.any():
        identity[detected] = similarity_to_references(vectors[detected], references)
        if len(real) > 1:
            copied[detected] = copying(vectors[detected], learned, real)
    scores = {"identity": identity, "copying": copied}
    if judges.text is not None:
        scores["prompt"] = np.asarray(judges.text.text(pictures, spoken), float)
    if judges.look is not None and count > 1:
        looks = judges.look.look(pictures)
        groups = looks.reshape(-1, count, looks.shape[-1])
        scores["diversity"] = np.concatenate([distances_within(group) for group in groups])
    return scores


def _row(score: str, file: np.ndarray, base: np.ndarray) -> ScoreRow | None:
    both = np.isfinite(file) & np.isfinite(base)
    parts = (file[np.isfinite(file)], base[np.isfinite(base)], (file - base)[both])
    if not all(len(part) for part in parts):
        return None
    first, second, third = map(mean_interval, parts)
    return ScoreRow(score=score, file=first, base=second, difference=third)


def _faces_in(faces: FaceSimilarity, concept: Concept, held: bool) -> np.ndarray:
    pictures = [picture.pixels for picture in (concept.held if held else concept.pictures)]
    if isinstance(faces, MiniatureBackend):
        faces.check(pictures, "the reference pictures")
    vectors, there = faces.faces(pictures)
    if not there.any():
        which = "held-out" if held else "reference"
        raise LikenessError(
            f"no face was found in any of the {len(pictures)} {which} pictures; crop closer, turn them "
            "upright, or choose another judge"
        )
    return vectors[there]


def progress_of_part(on_step: OnStep | None, number: int, parts: int) -> OnStep | None:
    """Progress of one of several equal jobs."""
    if on_step is None:
        return None
    return lambda done, total: on_step(number * total + done, parts * total)


def as_table(rows: Sequence[ScoreRow]) -> str:
    """The rows in columns, mean and interval in each."""
    heads = ("", "with the file", "base alone", "difference")
    lines = [(row.score, *map(_in_words, (row.file, row.base, row.difference))) for row in rows]
    widths = [max(len(line[column]) for line in (heads, *lines)) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in (heads, *lines)
    )


def as_plain(rows: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """The rows as JSON has them."""
    names = ("mean", "low", "high")
    return [
        {"score": row.score} | {
            part: dict(zip(names, (round(number, 4) for number in getattr(row, part))))
            for part in ("file", "base", "difference")
        }
        for row in rows
    ]  # fmt: skip


def _in_words(interval: Interval) -> str:
    mean, low, high = interval
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
