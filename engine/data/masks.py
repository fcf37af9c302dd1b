"""What is done to masks once they are found: pieces, edges, holes, algebra, boxes.

A mask is (H, W) float32 in [0, 1], at its picture's size. Nothing here knows where masks come from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import LikenessError

Mask = NDArray[np.float32]  # (H, W) in [0, 1]
HALF = 0.5  # what counts as inside where a yes or no is needed
FAINT = 0.1  # a soft mask's pieces are told apart where it is weaker than this
WIDEST_EDGE = 4096  # pixels that an edge can be meant to move or be blurred over
REACH = 4.0  # standard deviations after which a Gaussian is cut off


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What to do to a found mask, in this order; lengths in pixels of the picture."""

    keep_largest: bool = False  # only the largest connected piece: drops the stranger in the background
    fill_holes: bool = False  # what the mask surrounds belongs to it
    level: float | None = None  # above it 1, below it 0; None keeps the mask soft
    grow: int = 0  # outwards; negative shrinks
    feather: float = 0.0  # standard deviation of the blur of its edge
    invert: bool = False  # mark everything else

    def __post_init__(self) -> None:
        if self.level is not None and not 0 < self.level < 1:
            raise LikenessError(f"level is {self.level}; give a number between 0 and 1, such as 0.5")
        if not 0 <= self.feather <= WIDEST_EDGE:
            raise LikenessError(f"feather is {self.feather}; give 0 or more pixels, {WIDEST_EDGE} at most")
        if abs(self.grow) > WIDEST_EDGE:
            raise LikenessError(f"grow is {self.grow}; give {WIDEST_EDGE} pixels at most")

    def __call__(self, mask: Mask) -> Mask:
        mask = largest_piece(mask) if self.keep_largest else mask
        mask = fill_holes(mask) if self.fill_holes else mask
        mask = mask if self.level is None else thresholded(mask, self.level)
        mask = dilate(mask, self.grow)
        mask = gaussian_blur(mask, self.feather)
        return inverted(mask) if self.invert else mask


def thresholded(mask: Mask, level: float = HALF) -> Mask:
    """1 where the mask reaches the level, 0 elsewhere."""
    return (mask >= level).astype(np.float32)


def inverted(mask: Mask) -> Mask:
    return 1 - mask


def without(mask: Mask, others: Iterable[Mask]) -> Mask:
    """The mask where none of the others is: concept AND NOT components (MagicTailor)."""
    for other in others:
        mask = np.minimum(mask, 1 - other)
    return mask


def union(masks: Iterable[Mask]) -> Mask:
    return np.maximum.reduce(list(masks))


def dilate(mask: Mask, pixels: int) -> Mask:
    """The mask reaching that many pixels further out, an octagon around every point; negative shrinks.

    By hand, for scipy.ndimage.grey_dilation gives the same and takes two and a half times as long.
    """
    if pixels < 0:
        return 1 - dilate(1 - mask, -pixels)
    for step in range(pixels):
        mask = _one_further(mask, diagonal=step % 2 == 1)
    return mask


def _one_further(mask: Mask, diagonal: bool) -> Mask:
    wider = mask.copy()
    np.maximum(wider[1:], mask[:-1], out=wider[1:])
    np.maximum(wider[:-1], mask[1:], out=wider[:-1])
    source = wider.copy() if diagonal else mask
    np.maximum(wider[:, 1:], source[:, :-1], out=wider[:, 1:])
    np.maximum(wider[:, :-1], source[:, 1:], out=wider[:, :-1])
    return wider


def gaussian_blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur over the first two axes; the picture is mirrored at its edges."""
    if sigma <= 0:
        return values
    spread = (sigma, sigma, *[0] * (values.ndim - 2))
    return np.asarray(ndimage.gaussian_filter(values, spread, truncate=REACH), np.float32)


def largest_piece(mask: Mask) -> Mask:
    """The mask's connected piece of the greatest weight; everything else is outside."""
    labels, count = connected_components(mask >= FAINT)
    if count < 2:
        return mask
    weights = np.bincount(labels.ravel(), weights=mask.ravel(), minlength=count + 1)
    weights[0] = 0
    return np.where(labels == weights.argmax(), mask, np.float32(0))


def fill_holes(mask: Mask) -> Mask:
    """What the mask surrounds, and no edge of the picture touches, is marked too."""
    inside = mask >= HALF
    filled = np.asarray(ndimage.binary_fill_holes(inside))
    return np.where(filled & ~inside, np.float32(1), mask)


def connected_components(inside: NDArray[np.bool_], diagonal: bool = True) -> tuple[NDArray[np.int32], int]:
    """Numbers the connected pieces of (H, W) from 1, row by row, 0 outside, and counts them."""
    touching = ndimage.generate_binary_structure(2, 2 if diagonal else 1)
    labels = np.zeros(inside.shape, np.int32)
    count: Any = ndimage.label(inside, touching, output=labels)  # with an output, the number alone
    return labels, int(count)


# --- boxes (MagicTailor's way from detections to masks) ------------------------------------------

SEVERAL = {"brow": 2, "eyebrow": 2, "eye": 2, "ear": 2, "wheel": 2, "window": 3}  # of a thing; others: one


def kept_boxes(
    boxes: NDArray[np.float32], confidence: NDArray[np.float32], words: Sequence[str], overlap: float = 0.8
) -> NDArray[np.int64]:
    """Which detections count: no near doubles of a surer one, and of each word as many as there can be.

    boxes (N, 4) as x1, y1, x2, y2; words: what each detection was taken for.
    """
    free = _without_doubles(boxes, confidence, overlap)
    kept: list[int] = []
    for word in dict.fromkeys(words):
        mine = [int(number) for number in free if words[number] == word]
        kept += sorted(mine, key=lambda number: -confidence[number])[: SEVERAL.get(word, 1)]
    return np.array(sorted(kept), dtype=np.int64)


def _without_doubles(boxes: NDArray, confidence: NDArray, overlap: float) -> NDArray[np.int64]:
    """Greedy suppression, whatever the class."""
    left, kept = np.argsort(-confidence, kind="stable"), []
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(best)
        left = rest[box_overlap(boxes[best], boxes[rest]) <= overlap]
    return np.array(kept, dtype=np.int64)


def box_overlap(box: NDArray, others: NDArray) -> NDArray:
    """Intersection over union of one box (4,) with each of others (N, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = (high - low).clip(0).prod(1)
    return common / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - common)
