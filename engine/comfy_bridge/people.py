"""Several people in one picture of the graph: likenesses applied, regions, each drawn again alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..artifact import Artifact
from ..bases.families import FAMILIES
from ..data.segment import load_segmenter
from ..errors import LikenessError
from ..inference.detail import Painter, regions_redrawn, with_region
from ..inference.people import boxes_of, names_in
from ..inference.refocus import Focus, Region, own_prompt_of
from ..inference.refocus_options import marked
from ..inference.restore import Pixels
from .pictures import image_of, pictures_of
from .refocus import Aim, ComfyConditioning, refocused_prompt
from .restore import Redraw
from .weights import kind_of, own_side
from .words import apply


@dataclass(frozen=True)
class Alone:
    """One of them, as drawn alone: a MODEL with this likeness, and the prompt that names nobody else."""

    focus: Focus
    model: Any
    clip: Any
    prompt: str

    @cached_property
    def positive(self) -> ComfyConditioning:
        """What the prompt says to this likeness; asked for only where they are drawn again."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(self.prompt))


@dataclass(frozen=True)
class Gathering:
    """Those in a picture, in the order of their likenesses."""

    prompt: str
    persons: tuple[Alone, ...]

    def __str__(self) -> str:
        names = " and ".join(person.focus.token for person in self.persons)
        return f"{names} in '{self.prompt}'"


def people_in_regions(
    model: Any,
    clip: Any,
    prompt: str,
    likenesses: Sequence[Artifact],
    layout: str,
    *,
    masks: torch.Tensor | None = None,
    vae: Any = None,
) -> tuple[Any, ComfyConditioning, Gathering, Any]:
    """MODEL and CONDITIONING that draw each likeness in its region; the people; CLIP with all words.

    Equal placeholders are renamed to what the prompt says. Regions go to the people in the order in which
    their words stand in the prompt: shares of the picture's width, MASK (n, H, W), or, with the layout `find
    faces`, where their heads are seen while drawing.
    """
    names = names_in(prompt, [[token.token for token in one.tokens] for one in likenesses])
    people = [one.renamed(words) for one, words in zip(likenesses, names)]
    spoken = [next((word for word in words if word in prompt), words[0]) for words in names]
    regions = dict(zip(sorted(spoken, key=prompt.index), _regions(layout, len(people), masks)))
    together, taught = model, clip
    for one in people:
        together, taught = apply(together, taught, one, 1.0, 1.0)
    written: ComfyConditioning | None = None
    persons = []
    for word, one in zip(spoken, people):
        focus = Focus(token=word, region=regions[word])
        together, written = refocused_prompt(together, taught, prompt, focus, conditioning=written, vae=vae)
        persons.append(_alone(model, clip, prompt, focus, one))
    assert written is not None  # there is one person at least
    return together, written, Gathering(prompt, tuple(persons)), taught


def _regions(layout: str, count: int, masks: torch.Tensor | None) -> list[Region | None]:
    if layout == "find faces":
        return [None] * count
    if layout != "masks":
        return list(boxes_of(layout, count))
    if masks is None or len(masks) != count:
        there = "none is connected" if masks is None else f"there are {len(masks)}"
        raise LikenessError(
            f"masks wants one mask for each of {count} people, but {there}; connect them in the order in "
            "which the prompt names the people, or choose side by side"
        )
    return [mask[None] for mask in masks]


def _alone(model: Any, clip: Any, prompt: str, focus: Focus, likeness: Artifact) -> Alone:
    drawn, taught = apply(model, clip, likeness, 1.0, 1.0)
    return Alone(focus, drawn, taught, own_prompt_of(prompt, focus) or prompt)


# ------------------------------------------------------------------------------------- each drawn again


@dataclass(kw_only=True)
class _PaintsAlone(Painter):
    """Draws a crop again as the person whose prompt is asked for."""

    persons: Mapping[str, Alone]  # by their prompts
    sampling: Mapping[str, Any] = field(default_factory=dict)  # what `Redraw` is told besides
    pixels: int = 512

    @property
    def side(self) -> int:
        return self.pixels

    def __call__(self, face: Pixels) -> Pixels:
        who = self.persons[self.prompt]
        redraw = Redraw(model=who.model, positive=who.positive, denoise=self.denoise, seed=self.seed,
                        **self.sampling)  # fmt: skip
        return redraw(face)


def each_drawn_again(
    images: torch.Tensor,
    people: Gathering,
    share: float,
    by_aim: Mapping[Aim, torch.Tensor],
    *,
    seed: int,
    **sampling: Any,
) -> torch.Tensor:
    """IMAGE (B, H, W, 3) with every person drawn once more by themselves, for a share of the schedule.

    As `likeness generate --refocus "<v0>=left;redraw=0.6"` does: in a square of the size that the model draws
    best, from the prompt that names that person alone. `by_aim`: regions (B, h, w) that were found while
    drawing; `sampling`: what `Redraw` takes of negative, VAE, steps, guidance, sampler and scheduler.
    """
    pictures = np.stack(pictures_of(images))
    regions = {aim.focus: region for aim, region in by_aim.items()}
    again, looked_for = [], []
    for person in people.persons:
        focus = replace(person.focus, redraw=share)
        if focus.region is None:
            seen = regions.get(person.focus, torch.ones(1, *pictures.shape[1:3]))
            focus = with_region(focus, [replace(focus, region=seen.float().cpu())], pictures.shape[1:3])
            looked_for.append(focus)
        again.append(focus)
    model = people.persons[0].model
    painter = _PaintsAlone(
        prompt="", persons={person.prompt: person for person in people.persons}, sampling=sampling,
        pixels=own_side(model),
    )  # fmt: skip
    count = len(pictures)
    done = regions_redrawn(
        pictures, [people.prompt] * count, [seed] * count, again, painter, sought=looked_for,
        heads=_heads(model) if looked_for else None,
    )  # fmt: skip
    return image_of(list(done))


def _heads(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    segmenter = load_segmenter(FAMILIES.get(kind_of(model), FAMILIES["sd1"]).segmenter)
    return lambda pictures: np.stack([marked(segmenter, pixels) for pixels in pictures])
