"""Faces without a face parser: an oval around the landmarks that a face pack's detector finds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import LikenessError, nearest
from ..alignment import ARCFACE_POINTS, similarity
from ..faces import Face, load_faces
from ..masks import Mask
from ..packs import PACKS, packs_in
from .base import Found

_WORDS = ("face", "faces", "head")
# in ArcFace's 112 x 112 crop: middle and half axes, from the hairline to below the chin
MIDDLE, AXES = (56.0, 62.0), (40.0, 58.0)


def _oval(face: Face, size: tuple[int, int]) -> Mask:
    """Where a face is in a picture (H, W): 1 inside an oval that turns and grows with its landmarks."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    if face.landmarks is None:
        low, high = face.box[:2].astype(np.float64), face.box[2:].astype(np.float64)
        across, down = ((x, y)[axis] - (low + high)[axis] / 2 for axis in (0, 1))
        inside = (across / max((high - low)[0] / 2, 1)) ** 2 + (down / max((high - low)[1] / 2, 1)) ** 2 <= 1
    else:
        (a, b, c), (d, e, f) = similarity(face.landmarks.astype(np.float64), ARCFACE_POINTS)
        across, down = a * x + b * y + c - MIDDLE[0], d * x + e * y + f - MIDDLE[1]
        inside = (across / AXES[0]) ** 2 + (down / AXES[1]) ** 2 <= 1
    return inside.astype(np.float32)


class FaceOval:
    """`face` marks an oval for each face of a picture."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        for word in words:
            if word.strip().lower() not in _WORDS:
                hint = nearest(word.strip().lower(), _WORDS)
                raise LikenessError(
                    f"the back end 'face-oval' finds faces only, no '{word}'{hint}; for parts of a face and "
                    "hair use face-parts"
                )
        faces = self.finder(pixels)
        size = (pixels.shape[0], pixels.shape[1])
        ovals = [_oval(face, size) for face in faces]
        mask = np.maximum.reduce(ovals) if ovals else np.zeros(size, np.float32)
        surest = max((float(face.score) for face in faces), default=0.0)
        return Found(np.stack([mask] * len(words)), (surest,) * len(words))


def load(models: Path, device: str = "cpu") -> FaceOval:
    """With the first face pack beside the helper models: those that we name first."""
    root = models.with_name("insightface")
    there = sorted(packs_in(root), key=lambda name: (name not in PACKS, name))
    return FaceOval(load_faces(there[0] if there else "auraface", root, device))
