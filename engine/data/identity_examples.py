"""What adapter training sees of a sample: reference pictures in slots, dropped conditions, the face's box.

All of it is drawn from a generator that is given, so that a sample's position decides everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import LikenessError
from .alignment import face_box
from .segmenters.face_parts import MASTERWEAVER_KEEPS, PARSED_PARTS
from .shards import ShardFace, ShardSample, decode_picture

_SLOTS = 3
# reference types (MasterWeaver, datasets_laion.py): 0 the faces; 1 the faces without hair and mouth, and an
# edited one; 2 an edited face only
IDENTITY_KINDS = (1.0, 0.0, 0.0)
EDITING_KINDS = (1 / 6, 1 / 2, 1 / 3)
_KEEPS = {
    kind: np.array([PARSED_PARTS.index(part) for part in MASTERWEAVER_KEEPS[name]])
    for kind, name in ((0, "type 0"), (1, "type 1"), (2, "type 0"))
}
ENLARGED = 1.48  # a randomly cropped copy of a face is cut from a picture so much larger


@dataclass(frozen=True)
class Slot:
    """What a reference slot holds: face number `face`, or an edited twin of the last; None: nothing."""

    face: int | None  # None: the edited twin
    augmented: bool = False


def slots(faces: int, edited: bool, kind: int, fill: bool, count: int = _SLOTS) -> list[Slot | None]:
    """Which pictures stand in the slots of a sample with so many faces (MasterWeaver's dataset)."""
    filled: list[Slot | None] = [] if kind == 2 else [Slot(face) for face in range(faces)]
    if kind > 0 and edited:
        filled.append(Slot(None))
    first = filled[0] if filled else None
    while len(filled) < count:
        filled.append(Slot(first.face, augmented=True) if fill and first is not None else None)
    return filled[:count]


def dropped(draw: float, each: float = 0.05) -> tuple[bool, bool]:
    """Whether (picture, text) are left out, for one uniform draw; thrice `each` in all: one, other, both."""
    both = 2 * each <= draw < 3 * each
    return draw < each or both, each <= draw < 2 * each or both


def masked(face: ShardFace, kind: int) -> NDArray[np.uint8]:
    """The face with the parts that this kind of reference keeps, all else black; whole without labels."""
    if face.labels is None:
        return face.pixels
    keep = np.isin(face.labels, _KEEPS[kind])
    if keep.shape != face.pixels.shape[:2]:
        size = (face.pixels.shape[1], face.pixels.shape[0])
        keep = np.asarray(Image.fromarray(keep).resize(size, Image.Resampling.NEAREST))
    return face.pixels * keep[..., None].astype(np.uint8)


def resized(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """Pixels (H, W, 3) as (3, side, side) in [-1, 1], bilinear."""
    image = Image.fromarray(pixels)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def augmented(pixels: NDArray[np.uint8], side: int, rng: np.random.Generator) -> Tensor:
    """A copy of a face, (3, side, side) in [-1, 1]: mirrored, turned up to 45°, cropped, each or not."""
    image = Image.fromarray(pixels)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        image = image.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR, expand=rng.random() < 0.5)
    if rng.random() < 0.5:
        large = round(side * ENLARGED)
        image = image.resize((large, large), Image.Resampling.BILINEAR)
        left, top = (int(value) for value in rng.integers(0, large - side + 1, 2))
        image = image.crop((left, top, left + side, top + side))
    return resized(np.asarray(image), side)


@dataclass(frozen=True, kw_only=True)
class References:
    """The slots' pictures (S, 3, side, side) in [-1, 1], and which of them hold one (S,) bool."""

    pixels: Tensor
    filled: Tensor
    wanted_edit: bool  # an edited face was called for and there was none


def references(
    sample: ShardSample,
    side: int,
    rng: np.random.Generator,
    *,
    kinds: Sequence[float] = IDENTITY_KINDS,
    fill: float = 0.1,
    count: int = _SLOTS,
) -> References:
    """The reference pictures of one training step for a sample."""
    kind = int(rng.choice(3, p=np.asarray(kinds) / sum(kinds)))
    twin = _edited(sample, rng)
    filled_slots = slots(len(sample.faces), twin is not None, kind, bool(rng.random() < fill), count)
    pixels, filled = torch.zeros(count, 3, side, side), torch.zeros(count, dtype=torch.bool)
    for number, slot in enumerate(filled_slots):
        if slot is None:
            continue
        if slot.face is None:
            assert twin is not None
            source = twin
        else:
            source = masked(sample.faces[slot.face], kind)
        if slot.augmented:
            pixels[number] = augmented(source, side, rng)
        else:
            mirrored = rng.random() < 0.5
            pixels[number] = resized(np.ascontiguousarray(source[:, ::-1]) if mirrored else source, side)
        filled[number] = True
    return References(pixels=pixels, filled=filled, wanted_edit=kind > 0 and twin is None)


def _edited(sample: ShardSample, rng: np.random.Generator) -> NDArray[np.uint8] | None:
    """One of the last face's edited twins; None where there is none that can be read."""
    edits = sample.faces[-1].edited if sample.faces else ()
    if not edits:
        return None
    twin = edits[int(rng.integers(len(edits)))]
    try:
        return decode_picture(twin) if isinstance(twin, bytes) else twin
    except LikenessError:
        return None


# --------------------------------------------------------------------------------------- target and box


def target(sample: ShardSample, size: int, squash: bool = False) -> tuple[Tensor, Tensor]:
    """Pixels (3, size, size) in [-1, 1] and the faces' boxes (1, size, size) in {0, 1}.

    Squashed whole into a square (reference), or the square around the faces. Never mirrored.
    """
    points = [face.landmarks for face in sample.faces if face.landmarks is not None]
    pixels = sample.pixels
    box = face_box([p.astype(np.float64) for p in points], pixels.shape[:2])
    if not squash:
        window = square(pixels.shape[:2], points)
        pixels, box = pixels[window], box[window]
    small = Image.fromarray(box.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return cubic(np.ascontiguousarray(pixels), size), torch.from_numpy(np.array(small)).float()[None]


def square(size: tuple[int, int], points: Sequence[NDArray[np.float32]]) -> tuple[slice, slice]:
    """The largest square of a picture (H, W) that has the faces' middle as near to its own as it can."""
    height, width = size
    side = min(height, width)
    middle = np.concatenate(points).mean(0) if points else np.array([width / 2, height / 2])
    left = int(np.clip(round(float(middle[0]) - side / 2), 0, width - side))
    top = int(np.clip(round(float(middle[1]) - side / 2), 0, height - side))
    return slice(top, top + side), slice(left, left + side)


def cubic(pixels: NDArray[np.uint8], size: int) -> Tensor:
    """Pixels (H, W, 3) squeezed into (3, size, size) in [-1, 1], cubic, rounded to bytes as OpenCV does."""
    whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    if pixels.shape[:2] != (size, size):
        whole = F.interpolate(whole, size=(size, size), mode="bicubic", align_corners=False)
    return whole[0].round().clamp(0, 255) / 127.5 - 1


def sample_of(
    key: str, pixels: NDArray[np.uint8], caption: str, mask: NDArray[np.float32] | None
) -> ShardSample:
    """A sample of a picture (H, W, 3) whose person is where a mask (H, W) says: learning without shards."""
    if mask is None or not (mask >= 0.5).any():
        height, width = pixels.shape[:2]
        corners = np.array([[0, 0], [width - 1, height - 1]], np.float32)
        return ShardSample(key, pixels, caption, (ShardFace(pixels, None, corners),))
    rows, columns = np.flatnonzero((mask >= 0.5).any(1)), np.flatnonzero((mask >= 0.5).any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    face = np.where(mask[..., None] >= 0.5, pixels, 0).astype(np.uint8)[box]
    side = max(face.shape[:2])
    down, across = (side - face.shape[0]) // 2, (side - face.shape[1]) // 2
    whole = np.zeros((side, side, 3), np.uint8)
    whole[down : down + face.shape[0], across : across + face.shape[1]] = face
    corners = np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]], np.float32)
    return ShardSample(key, pixels, caption, (ShardFace(np.ascontiguousarray(whole), None, corners),))
