"""Faces in pictures of the Miniature's world: found by its parser, recognised by its recogniser, no download.

A picture may show several people beside or above one another: it is looked at through overlapping squares.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..miniature import world
from ..miniature.judges import load_judge, to_tensor
from ..miniature.model import RESOLUTION
from .faces import Face
from .masks import box_overlap, connected_components

_LEAST = 0.02  # of a square, below which skin is no face; portraits have 0.1 to 0.3
_SURE = 0.65  # the parser's mean share on a face; 0.76 and more on renders, 0.58 and less on noise
_DOUBLES = 0.3  # boxes that overlap more are the same face
_WIDTH, BOTTOM = (
    53.3 / 128,
    97.5 / 128,
)  # a face's width and lower edge in portraits, which judges know


class MiniatureFaces:
    """Finds the boxes of faces and says whose they are; the same calls as `FaceFinder` has."""

    provider = "CPU"
    turns = False  # its world's heads are upright

    def __init__(self) -> None:
        self._parser, self._recogniser = load_judge("parser"), load_judge("recogniser")

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """All faces of a picture (H, W, 3), the largest first."""
        faces = []
        for left, top, side in _squares(pixels.shape[0], pixels.shape[1]):
            face = self._in_square(pixels[top : top + side, left : left + side])
            if face is not None:
                faces.append(_moved(face, left, top))
        surest = sorted(faces, key=lambda face: -face.score)
        kept: list[Face] = []
        for face in surest:
            if not kept or box_overlap(face.box, np.stack([other.box for other in kept])).max() <= _DOUBLES:
                kept.append(face)
        return sorted(kept, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))

    @torch.no_grad()
    def _in_square(self, pixels: NDArray[np.uint8]) -> Face | None:
        """The largest face that lies whole in a square picture; in the middle it scores highest."""
        shares = self._parser(to_tensor(_small(pixels)[None]))[0].softmax(0)
        surest, labels = (values.numpy() for values in shares.max(0))
        numbers, count = connected_components(
            np.isin(labels, [world.PART_ID[part] for part in world.FACE_PARTS])
        )
        if not count:
            return None
        sizes = np.bincount(numbers.ravel())[1:]
        inside = numbers == 1 + int(sizes.argmax())
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        cut_off = columns[0] == 0 or columns[-1] == RESOLUTION - 1
        sure = float(surest[inside].mean())
        small = sizes.max() < _LEAST * inside.size
        if small or cut_off or sure < _SURE or not _has_features(labels, inside):
            return None
        scale = pixels.shape[0] / RESOLUTION
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
        away = np.abs((box[:2] + box[2:]) / 2 - RESOLUTION / 2).max() / RESOLUTION
        return Face(box * scale, None, sure * float(1 - away))

    @torch.no_grad()
    def embed(self, pixels: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
        """The unit vector (128,) of a face in a picture (H, W, 3), seen in the portrait around its box."""
        side = float(face.box[2] - face.box[0]) / _WIDTH
        left = float(face.box[0] + face.box[2] - side) / 2
        top = float(face.box[3]) - BOTTOM * side
        portrait = _portrait(pixels, left, top, max(side, 1.0))
        return self._recogniser(to_tensor(portrait[None]))[0].numpy()


def _squares(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Left, top and side of squares as large as fit, each half over the one before."""
    side, longest = min(height, width), max(height, width)
    count = 1 + int(np.ceil((longest - side) / (side / 2)))
    for number in range(count):
        start = round(number * (longest - side) / max(count - 1, 1))
        yield (start, 0, side) if width >= height else (0, start, side)


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(pixels).resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX))


def _portrait(pixels: NDArray[np.uint8], left: float, top: float, side: float) -> NDArray[np.uint8]:
    """The square, (128, 128, 3); what lies outside the picture repeats its edge."""
    low_x, low_y, reach = int(np.floor(left)), int(np.floor(top)), int(np.ceil(side)) + 1
    columns = np.arange(low_x, low_x + reach).clip(0, pixels.shape[1] - 1)
    rows = np.arange(low_y, low_y + reach).clip(0, pixels.shape[0] - 1)
    part = Image.fromarray(pixels[rows[:, None], columns])
    box = (left - low_x, top - low_y, left - low_x + side, top - low_y + side)
    return np.array(part.resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR, box=box))


def _moved(face: Face, x: int, y: int) -> Face:
    return Face(face.box + np.array([x, y, x, y], np.float32), None, face.score, face.embedding)


def _has_features(labels: NDArray, inside: NDArray[np.bool_]) -> bool:
    """Eyes or glasses, and a mouth or a beard, in the rows of the face."""
    rows = labels[np.flatnonzero(inside.any(1))]
    return all(np.isin(rows, [world.PART_ID[part] for part in parts]).any()
               for parts in (("eye", "glasses"), ("mouth", "beard")))  # fmt: skip
