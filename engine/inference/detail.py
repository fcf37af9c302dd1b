"""Faces and regions drawn again by the diffusion model itself, headless: a crop, partly noised, is denoised
anew.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..artifact import Artifact
from ..config import TOKEN
from ..data.faces import AROUND, Face, face_of_mask
from ..data.masks import HALF, Mask, connected_components, dilate
from ..errors import LikenessError
from ..identity.conditioning import IdentityConditioning
from .generate import generate
from .refocus import Focus, Region, fitted, own_prompt_of
from .refocused import Heads, Refocusing
from .restore import (
    Known,
    Pixels,
    Restoration,
    cut_plainly,
    restore_picture,
    square_inside,
    to_pixels,
    to_shades,
)

if TYPE_CHECKING:
    from ..bases.base import BaseModel

log = logging.getLogger(__name__)

DENOISE = 0.4  # share of the schedule: enough for skin and eyes, too little for another pose
_SEAM = 0.08  # of a region's square: half the width over which what was drawn again fades into the picture
AROUND_FOUND = 1.2  # of the square around a face: how much a model sees around a region that was found


@dataclass(kw_only=True)
class Painter(ABC):
    """Draws a crop (S, S, 3) again as a prompt says; who is in it comes from `artifacts` and `people`."""

    prompt: str
    artifacts: Sequence[tuple[Artifact, float]] = field(default=())
    people: Sequence[IdentityConditioning] = field(default=())
    denoise: float = DENOISE
    seed: int = 0

    @property
    @abstractmethod
    def side(self) -> int:
        """The crop's side (pixels) that the model draws best."""

    @abstractmethod
    def __call__(self, face: Pixels) -> Pixels:
        """The crop (S, S, 3) drawn again."""


@dataclass(kw_only=True)
class Detailer(Painter):
    """Draws faces again as the prompt says, with the concepts applied; called with a crop (S, S, 3).

    All faces of all pictures begin from the same noise, as a node of ComfyUI with one seed would have it.
    """

    base: "BaseModel"
    negative: str = ""
    steps: int = 20
    guidance: float = 5.0
    sampler: str = "euler"
    schedule: str = "simple"

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise LikenessError("faces are drawn again from a prompt; write one, such as 'a photo of <v0>'")

    @property
    def side(self) -> int:
        return self.base.resolution

    def __call__(self, face: Pixels) -> Pixels:
        drawn = generate(
            self.base,
            [self.prompt],
            negative=self.negative,
            artifacts=self.artifacts,
            people=self.people,
            steps=self.steps,
            guidance=self.guidance,
            seed=self.seed,
            sampler=self.sampler,
            schedule=self.schedule,
            start=face[None],
            denoise=self.denoise,
        )
        return drawn[0].astype("float32") / 255


# --- regions -------------------------------------------------------------------------------------------


def drawn_in_regions(
    base: "BaseModel",
    prompts: Sequence[str],
    *,
    seed: Sequence[int],
    refocus: Refocusing | None,
    artifacts: Sequence[tuple[Artifact, float]] = (),
    people: Sequence[IdentityConditioning] = (),
    say: Callable[[str], None] = log.info,
    **how: Any,
) -> NDArray[np.uint8]:
    """Pictures as `generate` draws them, then drawn again in the regions of which a focus asks for it.

    A concept that a focus wants `only=redraw` is not there before. `say` hears how often a region was drawn;
    `how` is what `generate` takes besides.
    """
    focuses = [] if refocus is None else refocus.focuses
    if refocus is None or not any(focus.redraw for focus in focuses):
        return generate(base, prompts, seed=seed, refocus=refocus, artifacts=artifacts, people=people, **how)
    _check_tries(refocus)
    early, late = ([focus for focus in focuses if bool(focus.only) == only] for only in (False, True))
    by_range: dict[range, Sequence[Focus]] = {}
    pictures = generate(
        base, prompts, seed=seed, people=people, artifacts=_present(artifacts, late, prompts),
        refocus=replace(refocus, focuses=early, on_regions=by_range.__setitem__) if early else None, **how,
    )  # fmt: skip
    placed = [with_region(focus, [group[n] for group in by_range.values()], pictures.shape[1:3])
              for n, focus in enumerate(early)]  # fmt: skip
    again = Detailer(
        base=base, prompt=prompts[0], artifacts=artifacts, people=people,
        **{part.name: how[part.name] for part in fields(Detailer) if part.name in how},
    )  # fmt: skip
    return regions_redrawn(
        pictures, prompts, seed, [*placed, *late], again, heads=refocus.heads, people=refocus.known, say=say,
        sought=[new for old, new in zip(early, placed) if old.region is None],
    )  # fmt: skip


def _check_tries(refocus: Refocusing) -> None:
    """Raises for tries that nothing could choose among."""
    for focus in refocus.focuses:
        if focus.tries > 1 and focus.token not in refocus.known:
            raise LikenessError(
                f"tries={focus.tries} keeps what is most like somebody's pictures; name their folder with "
                f"like=FOLDER, or draw {focus.token} again once"
            )


def _present(
    artifacts: Sequence[tuple[Artifact, float]], late: Sequence[Focus], prompts: Sequence[str]
) -> list[tuple[Artifact, float]]:
    """The concepts without those that come with a region's drawing again only."""
    waiting = {focus.inside for focus in late} - {name for text in prompts for name in TOKEN.findall(text)}
    return [
        (artifact, strength)
        for artifact, strength in artifacts
        if not {token.token for token in artifact.tokens} & waiting
    ]


def with_region(focus: Focus, groups: Sequence[Focus], size: tuple[int, int]) -> Focus:
    """The focus with the regions (N, H, W) that were found while drawing; empty where none was."""
    if focus.region is not None or not focus.redraw:
        return focus
    regions = []
    for group in groups:
        region = group.region
        assert region is not None and not isinstance(region, tuple)  # a drawing ends with all known
        somewhere = ~region.flatten(1).all(1)
        wide = F.interpolate(region[:, None].float(), size=size, mode="bilinear")[:, 0]
        regions.append(wide * somewhere[:, None, None])
    return replace(focus, region=torch.cat(regions))


@dataclass(frozen=True)
class _Place:
    """What of a picture is drawn again, and how much around it is cut out, as `Restoration` counts it."""

    face: Face
    drawn: Mask | None  # (H, W); without it the head in the face's box, as a parser outlines it
    around: float

    def square(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """The corners of what is cut out of a picture (H, W)."""
        return square_inside(self.face, self.around, size)


def regions_redrawn(
    pictures: NDArray[np.uint8],
    prompts: Sequence[str],
    seeds: Sequence[int],
    focuses: Sequence[Focus],
    detailer: Painter,
    *,
    sought: Collection[Focus] = (),
    heads: Heads | None = None,
    people: Mapping[str, Known] | None = None,
    say: Callable[[str], None] = log.info,
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, 3) whose regions are drawn again one by one, where a focus asks for `redraw`.

    A region is cut out as a square of the size that the base draws best, and read nothing but its own prompt
    then, by the concepts that are in it: on a canvas larger than that, two people keep each other's faces
    from being finished. Outside the regions nothing changes, and towards their rims less and less, but for
    those on the picture's own border. Styles that frame pictures frame a region too: there the rim keeps the
    one picture that was drawn. Around regions that were `sought` more is seen. `heads` finds those that have
    no region; `people`: who a word is to be like, of which the most similar of a focus's `tries` is kept.
    """
    made, wished = pictures.copy(), [focus for focus in focuses if focus.redraw]
    if not wished:
        return made
    places = _places(pictures, wished, sought, heads)
    inside = {focus.inside for focus in wished if focus.inside}
    size = (made.shape[1], made.shape[2])
    for focus in wished:
        for number, place in places[focus].items():
            prompt, seed = prompts[number], seeds[number]
            own_prompt = own_prompt_of(prompt, replace(focus, scope="apart")) or prompt
            draw = replace(
                detailer, prompt=own_prompt, seed=seed, denoise=focus.redraw,
                artifacts=_of_prompt(detailer.artifacts, own_prompt, {*TOKEN.findall(prompt), *inside}),
                people=_people_at(detailer.people, number, place.square(size), size),
            )  # fmt: skip
            who = (people or {}).get(focus.token)
            made[number] = _tried(made[number], place, draw, focus, who, heads, say)
    return made


def _places(
    pictures: NDArray[np.uint8], focuses: Sequence[Focus], sought: Collection[Focus], heads: Heads | None
) -> dict[Focus, dict[int, _Place]]:
    """Where, by the pictures' numbers, each focus is drawn again; nowhere in a picture without a region."""
    places: dict[Focus, dict[int, _Place]] = {focus: {} for focus in focuses}
    wanting = [focus for focus in focuses if focus.region is None]
    for focus in focuses:
        if focus.region is None or (focus in sought and not _somewhere(focus.region)):
            continue
        regions = fitted(focus.region, pictures.shape[1:3], len(pictures), focus.token).cpu().numpy()
        around = AROUND_FOUND if focus in sought else 1 / AROUND  # else just the square around it
        for number in range(len(pictures)):
            region = regions[number % len(regions)]
            if focus in sought and not _holds_a_head(region, pictures[number], heads):
                log.warning("%s stays as it was drawn in a picture: no head lies in the region found for it",
                            focus.token)  # fmt: skip
            elif (region >= HALF).any():
                places[focus][number] = _Place(face_of_mask(region), region, around)
    if not wanting:
        return places
    if heads is None:
        raise LikenessError(f"nobody looks for {wanting[0].token} here; give a half, a box or a mask")
    for number, mask in enumerate(heads(pictures)):
        for focus, head in zip(wanting, _heads_apart(mask, len(wanting))):
            places[focus][number] = _Place(face_of_mask(head), None, AROUND_FOUND)
    for focus in wanting:
        without = len(pictures) - len(places[focus])
        if without:
            log.warning("no head was found for %s in %d of %d pictures: they stay as they were drawn",
                        focus.token, without, len(pictures))  # fmt: skip
    return places


def _holds_a_head(region: Mask, pixels: NDArray[np.uint8], heads: Heads | None) -> bool:
    """Whether most of some head of a finished picture lies in a region (H, W): scraps of one do not do."""
    if heads is None:
        return True
    numbers, count = connected_components(heads(pixels[None])[0] >= HALF)
    return any((region[numbers == 1 + head] >= HALF).mean() > HALF for head in range(count))


def _somewhere(region: Region) -> bool:
    return isinstance(region, tuple) or bool(region.any())


def _heads_apart(mask: Mask, most: int) -> list[Mask]:
    """The largest heads of a mask (H, W), at most so many, each by itself, from left to right."""
    numbers, count = connected_components(mask >= HALF)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    largest = np.argsort(-sizes, kind="stable")[:most]
    heads = [(numbers == 1 + head).astype(np.float32) for head in largest]
    return sorted(heads, key=lambda head: float(np.nonzero(head)[1].mean()))


def _of_prompt(
    artifacts: Sequence[tuple[Artifact, float]], own_prompt: str, elsewhere: set[str]
) -> list[tuple[Artifact, float]]:
    """The concepts without those whose placeholders are `elsewhere` in a picture and not in a prompt."""
    absent = elsewhere - set(TOKEN.findall(own_prompt))
    kept = []
    for artifact, strength in artifacts:
        names = {token.token for token in artifact.tokens}
        if names - absent or not names:
            kept.append((artifact, strength))
    return kept


def _people_at(
    people: Sequence[IdentityConditioning], number: int, square: NDArray[np.float64], size: tuple[int, int]
) -> list[IdentityConditioning]:
    """Those whom picture `number` (H, W) shows in a square of it, with what their regions have there."""
    there = []
    for one in people:
        if one.among is not None and not one.among[number]:
            continue
        region = one.region
        if region is not None:
            wide = F.interpolate(region[None, None].float(), size=size, mode="bilinear")[0, 0]
            shades = (wide.clamp(0, 1) * 255).byte().cpu().numpy()[..., None].repeat(3, -1)
            cut = cut_plainly(shades, square, max(round(float(np.ptp(square[:, 0]))), 1))[..., 0]
            region = torch.from_numpy(cut / np.float32(255)).to(region)
        if region is None or region.max() >= HALF:
            there.append(replace(one, region=region, among=None))
    return there


def _tried(
    shades: NDArray[np.uint8], place: _Place, draw: Painter, focus: Focus, who: Known | None,
    heads: Heads | None, say: Callable[[str], None],
) -> NDArray[np.uint8]:  # fmt: skip
    """A picture (H, W, 3) with a place drawn again, until it is like who is wanted or the tries are over."""
    if who is None or focus.tries == 1:
        return _redrawn(shades, place, draw, heads)
    best, likeness, count = shades, -float("inf"), 0
    while count < focus.tries and likeness < who.enough:
        one = _redrawn(shades, place, replace(draw, seed=draw.seed + count), heads)
        alike, count = who.likeness(one, place.face), count + 1
        if alike > likeness:
            best, likeness = one, alike
    say(f"region of {focus.inside or focus.token} drawn again {count} times; likeness {likeness:.3f}")
    return best


def _redrawn(
    shades: NDArray[np.uint8], place: _Place, draw: Painter, heads: Heads | None
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with the square around a place drawn again, inside the place only."""
    options = Restoration(
        side=draw.side, around=place.around, match_colours=False, gate="off", plain=True,
        both=place.drawn is None, feather=Restoration.feather if place.drawn is None else _SEAM,
    )  # fmt: skip
    parse = None if heads is None or place.drawn is not None else partial(_outlined, heads, options)
    done = restore_picture(to_pixels(shades), [place.face], draw, options, parse=parse, drawn=place.drawn)
    return to_shades(done.pixels)


def _outlined(heads: Heads, options: Restoration, crop: NDArray[np.uint8]) -> Mask:
    """The head of a crop (S, S, 3) and its rim: an edge that is soft inwards has to begin outside a head."""
    return dilate(heads(crop[None])[0], round(2 * options.feather * len(crop)))
