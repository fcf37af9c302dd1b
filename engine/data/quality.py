"""What is good and bad about the pictures somebody wants to learn from, in numbers and in words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..miniature.model import RESOLUTION as MINIATURE_SIDE
from .concepts import Picture
from .masks import HALF

_GREY = (0.299, 0.587, 0.114)
LOOK_SIDE = 512  # sharpness is measured at this size, so that cameras compare
BLURRED = 40.0  # variance of the Laplacian below which a photograph looks soft
SMALL_PICTURE = 512  # pixels on the shorter side
SMALL_FACE = 128  # pixels on the shorter side of a face
THIN_MASK, FULL_MASK = 0.02, 0.95  # shares of the picture
ALIKE = 4.0  # grey levels between the thumbnails of two pictures that are one


@dataclass(frozen=True)
class Quality:
    """One picture: sizes in pixels, coverage as a share, and what to do about it in sentences."""

    name: str
    size: tuple[int, int]  # height, width
    sharpness: float
    face: float | None  # the shorter side of its face; None where nobody looked or nothing was found
    coverage: float | None
    like: str | None  # an earlier picture that it repeats
    looked: bool = False  # somebody looked for its face; else the mask says how large it may be
    advice: tuple[str, ...] = field(default=())


def examine_pictures(
    pictures: Sequence[Picture],
    faces: Sequence[float | None] | None = None,
    *,
    smallest: int | None = None,
    heads: Sequence[Sequence[str]] | None = None,
) -> list[Quality]:
    """A report per picture; `faces` are the sides of their faces where somebody looked for them.

    `heads` is what else is to be said of each picture's faces.
    """
    smallest = wanted_side(pictures) if smallest is None else smallest
    prints = [picture_hash(picture.pixels) for picture in pictures]
    turned = [print_[:, ::-1] for print_ in prints]
    reports = []
    for number, picture in enumerate(pictures):
        twin = next((i for i in range(number) if apart(prints[i], prints[number]) <= ALIKE), None)
        mirrors = (i for i in range(number) if twin is None and apart(turned[i], prints[number]) <= ALIKE)
        mirror = next(mirrors, None)
        side = _mask_side(picture) if faces is None else faces[number]
        more = [] if mirror is None else [f"it repeats {pictures[mirror].name}, mirrored; drop one of them"]
        more += [] if heads is None else heads[number]
        report = Quality(
            picture.name,
            picture.size,
            sharpness(picture.pixels),
            side,
            None if picture.mask is None else float(picture.mask.mean()),
            None if twin is None else pictures[twin].name,
            faces is not None,
        )
        reports.append(_advised(report, smallest, faces is not None, more))
    return reports


def near_repeats(pictures: Sequence[Picture]) -> list[tuple[str, str]]:
    """Names of pictures that repeat an earlier one, mirrored or not, and of that one."""
    prints = [picture_hash(picture.pixels) for picture in pictures]
    pairs = []
    for number, picture in enumerate(pictures):
        alike = (
            earlier
            for earlier in range(number)
            for print_ in (prints[earlier], prints[earlier][:, ::-1])
            if apart(print_, prints[number]) <= ALIKE
        )
        if (first := next(alike, None)) is not None:
            pairs.append((picture.name, pictures[first].name))
    return pairs


def wanted_side(pictures: Sequence[Picture]) -> int:
    """How large pictures should be: the Miniature's are right as they are, photographs should be larger."""
    return MINIATURE_SIDE if own_world(pictures) else SMALL_PICTURE


def own_world(pictures: Sequence[Picture]) -> bool:
    """Whether the pictures have the size of those of the Miniature's world."""
    return {picture.size for picture in pictures} == {(MINIATURE_SIDE,) * 2}


def advice_in_words(reports: Sequence[Quality]) -> str:
    """What to do about the pictures, or that nothing is to be done."""
    lines = [f"{report.name}: {advice}" for report in reports for advice in report.advice]
    lines += advice_on_all(reports)
    return "\n".join(lines) or "the pictures look good"


def _mask_side(picture: Picture) -> float | None:
    """The shorter side of what the mask surrounds: an upper bound of the face's."""
    if picture.mask is None or not (picture.mask >= HALF).any():
        return None
    inside = picture.mask >= HALF
    spans = [np.flatnonzero(inside.any(axis)) for axis in (0, 1)]
    return float(min(span[-1] - span[0] + 1 for span in spans))


def _advised(report: Quality, smallest: int, looked: bool, more: Sequence[str]) -> Quality:
    advice = []
    if report.like is not None:
        advice.append(f"it repeats {report.like}; drop one of them")
    if min(report.size) < smallest:
        advice.append(
            f"it is small ({report.size[1]} x {report.size[0]}); find a larger copy if there is one"
        )
    if report.sharpness < BLURRED:
        advice.append("it is blurred; take a sharper one if you can")
    if looked and report.face is None:
        advice.append("no face was found in it; crop closer, or drop it if a face is to be learned")
    elif report.face is not None and report.face < SMALL_FACE * smallest / SMALL_PICTURE:
        advice.append(f"its face is small ({report.face:.0f} pixels); crop closer")
    if report.coverage is not None and report.coverage < THIN_MASK:
        advice.append(f"its mask marks only {report.coverage:.1%} of it; crop closer or mend the mask")
    if report.coverage is not None and report.coverage > FULL_MASK:
        advice.append("its mask marks nearly all of it, so that its background is learned too; mend the mask")
    return replace(report, advice=(*advice, *more))


def advice_on_all(reports: Sequence[Quality]) -> list[str]:
    """What concerns the set, not one picture."""
    said = []
    if len(reports) - sum(report.like is not None for report in reports) < 3:
        said.append("fewer than three different pictures; three to eight varied ones learn better")
    masked = sum(report.coverage is not None for report in reports)
    if 0 < masked < len(reports):
        said.append(f"only {masked} of {len(reports)} pictures have masks; mask all or none")
    elif not masked:
        said.append("no masks: backgrounds are learned too; `likeness masks` or a mask node makes some")
    return said


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey picture, its longer side scaled to LOOK_SIDE at most."""
    image = Image.fromarray(pixels)
    image.thumbnail((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX)
    grey = np.asarray(image, np.float32) @ np.array(_GREY, np.float32)
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(edges.var())


def picture_hash(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A thumbnail (16, 16, 3), which survives scaling and saving again."""
    small = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def apart(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Root mean square difference of two fingerprints in grey levels."""
    return float(np.sqrt(((first - second) ** 2).mean()))
