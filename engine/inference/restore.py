"""Restoring faces without losing the person: cut out, restored, judged, and put back without a seam.

Pictures are (H, W, 3) float32 in [0, 1] here; detectors, parsers and judges see them as uint8. What restores
a face is a function from a crop (S, S, 3) to a crop: a restorer's network, or a diffusion model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from ..config import one_of
from ..data.alignment import Points, cut_out, restorer_quad
from ..data.faces import AROUND, Face
from ..data.masks import HALF, Mask, dilate, gaussian_blur
from ..errors import LikenessError

Pixels = NDArray[np.float32]  # (H, W, 3) in [0, 1]
Restore = Callable[[Pixels], Pixels]  # a crop (S, S, 3) to a crop
Sides = tuple[bool, bool, bool, bool]  # left, top, right, bottom
Parse = Callable[[NDArray[np.uint8]], Mask]  # a crop (S, S, 3) to where its face is (S, S)

GATES = ("blend", "reject", "off")
_RIM = 0.06  # share of a crop's side over which every mask fades to nothing at the crop's edge
_TRACE = 1 / 512  # weaker than half a shade of 8 bits: such pixels stay as they are
HARDLY = 0.1  # a face of which less may be restored is left alone
HALVINGS = 5  # of the share of restoration, while looking for the largest that keeps the person
TONES = 64  # pixels a side at which colours are compared: tones, not details
SOFT = 5.0  # standard deviation of that comparison, in those pixels
LEAST_FACE = 0.04  # share of a crop below which a parser has found no face there
VIEW = 2.5  # judges see this many times the face's square


class LikenessJudge(Protocol):
    """Says whose a face is."""

    def embed(self, pixels: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
        """The unit vector (D,) of a face in a picture (H, W, 3)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """Which faces, how strongly, and how far they may move away from the person."""

    number: int | None = None  # None: all faces; else one, counted from 0 by size
    side: int = 512  # pixels of the crops
    around: float = 1.0  # size of the crop's square; 1 as restorers were trained, more shows more around
    strength: float = 1.0  # share of the restored face in the result
    feather: float = 0.04  # width of the soft edge, as a share of the crop's side
    match_colours: bool = True  # tones stay the picture's
    both: bool = False  # what is put back is outlined by the new face too, whose hair may reach further
    plain: bool = False  # an upright square cut out as it is, inside the picture; masks always are
    gate: str = "blend"  # what happens where the likeness drops: blend, reject or off
    allowed_drop: float = 0.05  # of the cosine to the references

    def __post_init__(self) -> None:
        one_of("gate", self.gate, GATES)
        for name in ("strength", "allowed_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise LikenessError(f"{name} is {getattr(self, name)}; give 0 to 1")
        if not 0 <= self.feather <= 0.25:
            raise LikenessError(f"feather is {self.feather}; give a share of the crop's side, 0 to 0.25")
        if self.side < 16:
            raise LikenessError(f"crops of {self.side} pixels show no face; use 16 or more")
        if not 0.5 <= self.around <= 4:
            raise LikenessError(f"a crop {self.around} times the face's square does not help; use 0.5 to 4")


@dataclass(frozen=True)
class PersonReference:
    """Who must stay recognisable: a judge, and the references' vectors (N, D)."""

    judge: LikenessJudge
    references: NDArray[np.float32]

    def similarity(self, pixels: NDArray[np.uint8], face: Face) -> float:
        """Mean cosine of a face in a picture to the references."""
        return float((self.references @ self.judge.embed(pixels, face)).mean())


@dataclass(frozen=True)
class Known:
    """Who a part of a picture is to show: the person, and what finds faces, the largest first."""

    find: Callable[[NDArray[np.uint8]], list[Face]]
    person: PersonReference

    def likeness(self, pixels: NDArray[np.uint8], where: Face) -> float:
        """Of the largest face whose middle lies in a box of a picture (H, W, 3); -1 where there is none."""
        for face in self.find(pixels):
            middle = (face.box[:2] + face.box[2:]) / 2
            if (where.box[:2] <= middle).all() and (middle <= where.box[2:]).all():
                return self.person.similarity(pixels, face)
        return -1.0

    @property
    def enough(self) -> float:
        """As like as the references are to each other, less what the gate allows; 1 for a single one."""
        vectors = self.person.references
        if len(vectors) == 1:
            return 1.0
        alike = (vectors @ vectors.T).sum() - len(vectors)
        return float(alike) / (len(vectors) * (len(vectors) - 1)) - Restoration.allowed_drop


@dataclass(frozen=True)
class RestoreOutcome:
    """What became of one face: the share that was restored, and the likeness before, restored and after."""

    box: tuple[int, int, int, int]
    share: float
    before: float | None
    restored: float | None
    after: float | None
    verdict: str

    def line(self, name: str) -> str:
        left, top, right, bottom = self.box
        where = f"{name}, face from ({left}, {top}) to ({right}, {bottom})"
        if self.before is None or self.restored is None:
            return f"{where}: {self.verdict}"
        return (
            f"{where}: likeness {self.before:.3f}, restored {self.restored:.3f}: {self.verdict}, "
            f"now {self.after:.3f}"
        )


@dataclass(frozen=True)
class Restored:
    """A picture, the mask (H, W) of what was changed in it, and what became of each face."""

    pixels: Pixels
    mask: Mask
    outcomes: tuple[RestoreOutcome, ...]
    report: str


def person_references(
    find: Callable[[NDArray[np.uint8]], list[Face]],
    judge: LikenessJudge,
    pictures: Sequence[NDArray[np.uint8]],
) -> PersonReference:
    """The person whom the largest faces of some pictures show; pictures without a face do not count."""
    vectors = []
    for pixels in pictures:
        faces = find(pixels)
        if faces:
            vectors.append(judge.embed(pixels, faces[0]))
    if not vectors:
        raise LikenessError(
            f"no face in any of the {len(pictures)} reference pictures; choose other pictures, another face "
            "model, or switch the likeness check off"
        )
    return PersonReference(judge, np.stack(vectors))


def restore_picture(
    pixels: Pixels,
    faces: Sequence[Face],
    restore: Restore,
    options: Restoration,
    *,
    parse: Parse | None = None,
    person: PersonReference | None = None,
    canvas: Pixels | None = None,
    drawn: Mask | None = None,
    name: str = "the picture",
) -> Restored:
    """The faces of a picture restored and put back.

    parse: where in a crop the face is; without it, or where it finds none, an oval.
    person: who must stay recognisable; without, the gate stays open.
    canvas: the picture enlarged, where faces shall go into that.
    drawn: a mask (H, W) outside which nothing may change.
    Everything outside the returned mask is bit for bit as in the canvas, or the picture.
    """
    target = (pixels if canvas is None else canvas).copy()
    changed = np.zeros(target.shape[:2], np.float32)
    selected = faces if options.number is None else faces[options.number : options.number + 1]
    if not selected:
        number = "" if options.number is None or not faces else f" number {options.number} of {len(faces)}"
        return Restored(target, changed, (), f"{name}: no face{number} found; it stays as it is")
    shades = to_shades(pixels)
    outcomes = []
    for face in selected:
        patch = _patch(shades, face, restore, options, parse, drawn, target.shape[:2])
        outcomes.append(_put_back(target, changed, patch, face, options, person))
    return Restored(target, changed, tuple(outcomes), "\n".join(made.line(name) for made in outcomes))


# --- cutting out and restoring -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Patch:
    """A restored face in the canvas: its corner, pixels (h, w, 3), weights (h, w), the canvas's scale."""

    top: int
    left: int
    pixels: Pixels
    weights: Mask
    scale: float
    quad: Points


def face_square(face: Face, around: float = 1.0) -> Points:
    """Corners (4, 2) of the square that is cut out; without landmarks, upright around the box."""
    if face.landmarks is not None:
        quad = restorer_quad(face.landmarks.astype(np.float64))
    else:
        middle = (face.box[:2] + face.box[2:]).astype(np.float64) / 2 - 0.5
        half = AROUND * float((face.box[2:] - face.box[:2]).max()) / 2
        quad = middle + half * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
    middle = quad.mean(0)
    return middle + around * (quad - middle)


def _patch(
    shades: NDArray[np.uint8], face: Face, restore: Restore, options: Restoration, parse: Parse | None,
    drawn: Mask | None, size: tuple[int, int],
) -> _Patch:  # fmt: skip
    quad, side = face_square(face, options.around), options.side
    shut = None
    if options.plain or drawn is not None:
        quad = square_inside(face, options.around, shades.shape[:2])
        crop, shut = cut_plainly(shades, quad, side), _inner_sides(quad, shades.shape[:2])
    else:
        crop = cut_out(shades, quad, side, side // 2).pixels  # averaged first where the face is larger
    original = to_pixels(crop)
    restored = restore(original)
    if restored.shape != original.shape:
        raise LikenessError(
            f"the restorer made {restored.shape} of a face of {original.shape}; choose another restorer"
        )
    inside = _where(crop, parse, drawn, quad)
    if options.both and drawn is None and parse is not None:
        inside = np.maximum(inside, (parse(to_shades(restored)) >= HALF).astype(np.float32))
    weights = _feathered(inside, options.feather * side, shut)
    if options.match_colours:
        restored = toned(restored, original, weights)
    return _placed(restored, weights, quad, size[0] / shades.shape[0], size, drawn)


def square_inside(face: Face, around: float, size: tuple[int, int]) -> Points:
    """Corners (4, 2) of the upright square around a face's box that lies in a picture (H, W) where it can.

    Not wider than the picture, unless the box is, and moved to where it overhangs least: what lies beyond is
    made up, and a model draws best what it is shown whole.
    """
    middle, longer = (face.box[:2] + face.box[2:]) / 2 - 0.5, float((face.box[2:] - face.box[:2]).max())
    half = min(AROUND * around * longer, max(longer, min(size))) / 2
    ends = np.array(size[::-1]) - 0.5
    moved = np.maximum(half - 0.5 - middle, 0) - np.maximum(middle + half - ends, 0)
    middle = middle + np.where(2 * half <= ends + 0.5, moved, 0)
    return middle + half * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])


def cut_plainly(shades: NDArray[np.uint8], quad: Points, side: int) -> NDArray[np.uint8]:
    """An upright square (side, side, 3) as it is; beyond the picture mirrored, and nothing is faded there.

    `cut_out` blurs what lies near the picture's border, as FFHQ has it; a region drawn again would show that.
    """
    low, high = quad.min(0) + 0.5, quad.max(0) + 0.5  # as lengths from the picture's corner
    over = max(0, int(np.ceil(max(*-low, *(high - shades.shape[1::-1])))))
    seen = np.pad(shades, ((over, over), (over, over), (0, 0)), "symmetric") if over else shades
    ends = np.tile(seen.shape[1::-1], 2)
    box = np.clip(np.concatenate([low, high]) + over, 0, ends)
    left, top, right, bottom = (float(value) for value in box)
    resized = Image.fromarray(seen).resize(
        (side, side), Image.Resampling.BICUBIC, box=(left, top, right, bottom)
    )
    return np.asarray(resized)


def _inner_sides(quad: Points, size: tuple[int, int]) -> Sides:
    """Which sides of an upright square do not lie on the border of its picture (H, W)."""
    (left, top), (right, bottom) = (quad.min(0) + 0.5).tolist(), (quad.max(0) + 0.5).tolist()
    return left >= 1, top >= 1, right <= size[1] - 1, bottom <= size[0] - 1


def _where(crop: NDArray[np.uint8], parse: Parse | None, drawn: Mask | None, quad: Points) -> Mask:
    """What of a crop shall change: what was drawn, what the parser calls a face, or an oval."""
    if drawn is not None:
        painted = np.repeat(np.round(drawn * 255).astype(np.uint8)[..., None], 3, -1)
        return (cut_plainly(painted, quad, len(crop))[..., 0] >= HALF * 255).astype(np.float32)
    if parse is not None:
        parsed = parse(crop)
        if (parsed >= HALF).mean() >= LEAST_FACE:
            return (parsed >= HALF).astype(np.float32)
    return _oval(len(crop))


def _oval(side: int) -> Mask:
    """Where the face of an aligned crop (S, S) is: from the brows' upper edge to below the chin."""
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    return ((x / 0.62) ** 2 + ((y - 0.05) / 0.8) ** 2 <= 1).astype(np.float32)


def _feathered(inside: Mask, width: float, shut: Sides | None = None) -> Mask:
    """The mask with an edge that is soft inwards, so that nothing outside it changes.

    At the crop's rim it is 0; with `shut`, at those sides only: the others are the picture's own border,
    where nothing has to be hidden.
    """
    if shut is not None:
        margin = round(3 * width) + 1
        wider = _softened(_with_margin(inside, margin, shut), width)
        return wider[margin:-margin, margin:-margin]
    side = len(inside)
    away = np.minimum(np.arange(side), np.arange(side)[::-1]) / max(_RIM * side, 1.0)
    ramp = away.clip(0, 1).astype(np.float32)
    return _softened(inside, width) * np.minimum(ramp[:, None], ramp)


def _softened(inside: Mask, width: float) -> Mask:
    """The mask from nothing at its edge to all of it about twice the width further in."""
    shrunk = dilate(inside, -round(width))
    return gaussian_blur(shrunk if shrunk.any() else inside, width / 2) * inside


def _with_margin(inside: Mask, margin: int, shut: Sides) -> Mask:
    """The mask with a margin all around: empty beyond the sides that are shut, going on beyond the others."""
    wider = np.pad(inside, margin, mode="edge")
    edges = np.s_[:, :margin], np.s_[:margin], np.s_[:, -margin:], np.s_[-margin:]
    for edge, empty in zip(edges, shut):
        if empty:
            wider[edge] = 0
    return wider


def toned(restored: Pixels, original: Pixels, weights: Mask) -> Pixels:
    """The restored crop with the original's tones: what both are when seen from afar is made the same.

    Compared inside the mask only, so that a background the restorer invented does not count.
    """
    small = _resized(weights[..., None], (TONES, TONES)) + 1e-4
    apart = _resized((original - restored) * weights[..., None], (TONES, TONES))
    shift = gaussian_blur(apart, SOFT) / gaussian_blur(small, SOFT)
    return (restored + _resized(shift, (restored.shape[0], restored.shape[1]))).clip(0, 1)


def _resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, C) at another size, averaged where it shrinks."""
    x = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]
    x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return x[0].permute(1, 2, 0).numpy()


# --- putting back --------------------------------------------------------------------------------------


def _placed(
    restored: Pixels, weights: Mask, quad: Points, scale: float, size: tuple[int, int], drawn: Mask | None
) -> _Patch:
    """The crop where its square is on the canvas; only that part of the canvas is ever looked at."""
    corners = (quad + 0.5) * scale  # as lengths from the canvas's corner
    low = np.floor(corners.min(0)).astype(int).clip(0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int), size[::-1])
    width, height = np.maximum(high - low, 0)
    side = float(np.hypot(*(corners[3] - corners[0])))
    layers = np.concatenate([restored, weights[..., None]], -1)
    if side < len(restored):  # made smaller first: sampling alone would leave details out
        smaller = max(round(side), 4)
        layers = _resized(layers, (smaller, smaller))
    x, y = np.meshgrid(np.arange(width) + low[0] + 0.5, np.arange(height) + low[1] + 0.5)
    across, down = corners[3] - corners[0], corners[1] - corners[0]
    away = np.stack([x, y], -1) - corners[0]
    grid = np.stack([away @ across, away @ down], -1) / side**2 * 2 - 1
    sampled = F.grid_sample(
        torch.from_numpy(np.ascontiguousarray(layers)).permute(2, 0, 1)[None],
        torch.from_numpy(grid.astype(np.float32))[None],
        mode="bicubic" if side > len(restored) else "bilinear", padding_mode="border", align_corners=False,
    )[0].permute(1, 2, 0).clamp(0, 1).numpy()  # fmt: skip
    share = sampled[..., 3] * (np.abs(grid) < 1).all(-1)
    if drawn is not None:
        share = share * _allowed(drawn, scale, low, (height, width))
    return _Patch(int(low[1]), int(low[0]), sampled[..., :3], share.astype(np.float32), scale, quad)


def _allowed(drawn: Mask, scale: float, low: NDArray, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a part of the canvas a drawn mask marks."""
    rows = ((np.arange(size[0]) + low[1] + 0.5) / scale).astype(int).clip(0, drawn.shape[0] - 1)
    columns = ((np.arange(size[1]) + low[0] + 0.5) / scale).astype(int).clip(0, drawn.shape[1] - 1)
    return drawn[rows[:, None], columns] >= HALF


def _blend(target: Pixels, patch: _Patch, share: float) -> tuple[Pixels, Mask]:
    """The canvas's part under a patch with this share of it blended in, and the weights used."""
    height, width = patch.weights.shape
    part = target[patch.top : patch.top + height, patch.left : patch.left + width].copy()
    weights = patch.weights * np.float32(share)
    inside = weights >= _TRACE
    weight = weights[inside][:, None]
    part[inside] = part[inside] * (1 - weight) + patch.pixels[inside] * weight
    return part, np.where(inside, weights, np.float32(0))


def _put_back(
    target: Pixels,
    changed: Mask,
    patch: _Patch,
    face: Face,
    options: Restoration,
    person: PersonReference | None,
) -> RestoreOutcome:
    """Blends as much of the patch into the canvas as the gate allows, and says how much that was."""
    box = tuple(round(float(value) * patch.scale) for value in face.box)
    view = None if person is None else _View(target, patch, face, person)
    share, before, restored, verdict = options.strength, None, None, "restored"
    if view is not None:
        before, restored = view.similarity(0), view.similarity(options.strength)
        share, verdict = _gated(view, before, restored, options)
    part, weights = _blend(target, patch, share)
    after = None if view is None else view.similarity(share)
    height, width = weights.shape
    place = slice(patch.top, patch.top + height), slice(patch.left, patch.left + width)
    target[place] = part
    changed[place] = np.maximum(changed[place], weights)
    return RestoreOutcome((box[0], box[1], box[2], box[3]), share, before, restored, after, verdict)


class _View:
    """What the judge sees of a canvas: the face and what is around it, with some share of a patch in it."""

    def __init__(self, target: Pixels, patch: _Patch, face: Face, person: PersonReference) -> None:
        self._target, self._patch, self._person = target, patch, person
        middle = (face.box[:2] + face.box[2:]) / 2 * patch.scale
        half = VIEW * patch.scale * max(
            float(np.hypot(*(patch.quad[3] - patch.quad[0]))), float((face.box[2:] - face.box[:2]).max())
        ) / 2  # fmt: skip
        low = np.floor(middle - half).astype(int).clip(0)
        high = np.minimum(np.ceil(middle + half).astype(int), target.shape[1::-1])
        self._place = slice(low[1], high[1]), slice(low[0], high[0])
        self._low = low
        points = None
        if face.landmarks is not None:
            points = ((face.landmarks + 0.5) * patch.scale - 0.5 - low).astype(np.float32)
        box = (face.box * patch.scale - np.tile(low, 2)).astype(np.float32)
        self._face = Face(box, points, face.score)

    def similarity(self, share: float) -> float:
        seen = self._target[self._place].copy()
        if share > 0:
            part, _ = _blend(self._target, self._patch, share)
            top, left = self._patch.top - self._low[1], self._patch.left - self._low[0]
            seen[top : top + part.shape[0], left : left + part.shape[1]] = part
        return self._person.similarity(to_shades(seen), self._face)


def _gated(view: _View, before: float, restored: float, options: Restoration) -> tuple[float, str]:
    """The share of restoration that keeps the person, and what to call that.

    The likeness need not fall evenly with the share; whatever share is returned has been looked at.
    """
    floor, drop = before - options.allowed_drop, before - restored
    if options.gate == "off" or restored >= floor:
        return options.strength, "kept"
    if options.gate == "reject":
        return 0.0, f"rejected, for the likeness would drop by {drop:.3f}"
    low, high = 0.0, options.strength
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if view.similarity(middle) >= floor else (low, middle)
    if low < HARDLY:
        return 0.0, f"rejected, for the likeness would drop by {drop:.3f}"
    return low, f"blended, {low:.0%} of it, for in full the likeness would drop by {drop:.3f}"


# --- bytes, and before and after -----------------------------------------------------------------------


def to_shades(pixels: Pixels) -> NDArray[np.uint8]:
    """A picture as uint8, row by row to bound the memory."""
    shades = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 256):
        shades[top : top + 256] = np.rint(pixels[top : top + 256].clip(0, 1) * 255)
    return shades


def to_pixels(shades: NDArray[np.uint8]) -> Pixels:
    """The inverse of `to_shades`: its pixels come back as they were."""
    return shades.astype(np.float32) / np.float32(255)


def before_and_after(before: Pixels, after: Pixels, longest: int = 1024, gap: int = 4) -> NDArray[np.uint8]:
    """Both pictures as one (h, w, 3) of uint8, each at most `longest` pixels a side, a white line between."""
    height, width = after.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    halves = [_shown(pixels, size) for pixels in (before, after)]
    line = np.full((size[1], gap, 3), 255, np.uint8)
    return np.concatenate([halves[0], line, halves[1]], 1)


def _shown(pixels: Pixels, size: tuple[int, int]) -> NDArray[np.uint8]:
    image = Image.fromarray(to_shades(pixels))
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))
