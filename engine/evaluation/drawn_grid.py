"""A grid drawn without ComfyUI: files of any trainer, each at several strengths, prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..bases.sampling import OnStep
from ..data.concepts import Concept
from ..errors import LikenessError
from ..inference.generate import generate
from .backends import FaceSimilarity, LookJudge, TextJudge
from .grid import Grid
from .judged_file import progress_of_part
from .measure import measure

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..bases.base import BaseModel

BASE_ALONE = "base alone"


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """One of the files that are compared, and what stands for {} in prompts with it."""

    name: str
    artifact: "Artifact | None"  # None: the base without any
    subject: str


@dataclass(frozen=True, kw_only=True)
class DrawnAs:
    """How every picture of a grid is drawn."""

    steps: int = 25
    guidance: float = 5.0
    negative: str = ""


def rows_of(drawers: Sequence[Drawer], strengths: Sequence[float]) -> list[tuple[Drawer, float | None]]:
    """The rows of each prompt: every file at every strength; words, and the base alone, have none."""
    return [
        (drawer, strength)
        for drawer in drawers
        for strength in (strengths if drawer.artifact is not None and drawer.artifact.lora() else [None])
    ]


def drawn_rows(
    base: "BaseModel", rows: Sequence[tuple[Drawer, float | None]], prompts: Sequence[str],
    seeds: Sequence[int], manner: DrawnAs, on_step: OnStep | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Pictures (H, W, 3) uint8 by prompt, row and seed; {} in a prompt is what calls the row's file."""
    drawn: list[np.ndarray] = []  # by row: (prompts, seeds, H, W, 3)
    for number, (drawer, strength) in enumerate(rows):
        worded = [prompt.replace("{}", drawer.subject) for prompt in prompts for _ in seeds]
        used = [] if drawer.artifact is None else [(drawer.artifact, 1.0 if strength is None else strength)]
        pictures = generate(
            base, worded, negative=manner.negative, artifacts=used, seed=[*seeds] * len(prompts),
            steps=manner.steps, guidance=manner.guidance,
            on_step=progress_of_part(on_step, number, len(rows)),
        )  # fmt: skip
        drawn.append(pictures.reshape(len(prompts), len(seeds), *pictures.shape[1:]))
    return [picture for place in range(len(prompts)) for row in drawn for picture in row[place]]


def judged_grid(
    pictures: Sequence[np.ndarray], rows: Sequence[tuple[Drawer, float | None]], prompts: Sequence[str],
    seeds: Sequence[int], concept: Concept, class_word: str,
    judges: tuple[FaceSimilarity, TextJudge | None, Sequence[LookJudge]], cards: Sequence[str] = (),
) -> Grid:  # fmt: skip
    """The pictures with their scores; identity is to the held-out pictures where the concept has some."""
    faces, text, looks = judges
    spoken = [prompt.replace("{}", f"a {class_word}") for prompt in prompts for _ in rows for _ in seeds]
    references = [picture.pixels for picture in concept.held or concept.pictures]
    return Grid(
        prompts=prompts, strengths=(), seeds=seeds, pictures=pictures,
        measures=measure(pictures, references, faces, prompts=spoken, text=text, looks=looks),
        likenesses=[drawer.name for drawer, _ in rows], cards=cards,
        rows=[(drawer.name, strength) for drawer, strength in rows],
    )  # fmt: skip


def drawers_of(
    names: Sequence[str], artifacts: "Sequence[Artifact]", triggers: Sequence[str], class_word: str
) -> list[Drawer]:
    """The files by their names, numbered where two are alike. What calls each: a trigger, one for all or one
    for each; else its placeholder, else the class word.

    LikenessError where they are for different bases, or there are other triggers than files.
    """
    if len(triggers) > 1 and len(triggers) != len(artifacts):
        raise LikenessError(
            f"there are {len(artifacts)} files and {len(triggers)} triggers; give one for all, or for each"
        )
    families = list(dict.fromkeys(artifact.base_family for artifact in artifacts))
    if len(families) > 1:
        raise LikenessError(
            f"these files are for different bases ({', '.join(families)}); compare those of one"
        )
    words = list(triggers or [""]) * (1 if len(triggers) > 1 else len(artifacts))
    drawers = []
    for number, (name, artifact, word) in enumerate(zip(names, artifacts, words)):
        before = list(names[:number]).count(name)
        placeholder = next((token.token for token in artifact.tokens), f"a {class_word}")
        drawers.append(
            Drawer(
                name=f"{name} {before + 1}" if before else name,
                artifact=artifact,
                subject=word or placeholder,
            )
        )
    return drawers
