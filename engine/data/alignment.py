"""Geometry of faces: landmarks to upright crops (FFHQ's quad, ArcFace's 112 x 112) and to boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..devices import to_device
from .masks import Mask, gaussian_blur

Points = NDArray[np.float64]  # (N, 2) as x, y in pixels of the picture
ARCFACE_SIDE = 112
# eyes, nose and mouth corners in ArcFace's 112 x 112 crop
ARCFACE_POINTS: Points = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# the same five points in FFHQ's 512 x 512 crop: what face restorers were trained on (GFP-GAN's template)
FFHQ_SIDE = 512
FFHQ_POINTS: Points = np.array(
    [[192.981, 239.947], [318.903, 240.194], [256.634, 314.019], [201.261, 371.41], [313.089, 371.151]]
)
SHRINK_TARGET = 1024  # FFHQ: pictures with larger faces are made smaller first


def similarity(points: Points, template: Points = ARCFACE_POINTS) -> Points:
    """(2, 3): the turn, scale and shift that bring `points` nearest to `template` (Umeyama 1991)."""
    points, template = np.asarray(points, np.float64), np.asarray(template, np.float64)
    middle, goal = points.mean(0), template.mean(0)
    spread = points - middle
    u, strengths, v = np.linalg.svd((template - goal).T @ spread / len(points))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])  # no mirror images
    turn = u @ np.diag(signs) @ v
    scale = (strengths * signs).sum() / spread.var(0).sum()
    return np.concatenate([scale * turn, (goal - scale * turn @ middle)[:, None]], axis=1)


def warped(pixels: Tensor, matrix: Points, side: int = ARCFACE_SIDE) -> Tensor:
    """Pixels (B, C, H, W) carried by `matrix` (2, 3) into crops (B, C, side, side); differentiable.

    Bilinear, zero outside the picture; a pixel's centre is at its whole-numbered position.
    """
    batch, _, height, width = pixels.shape
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    across = np.arange(side, dtype=np.float64)
    x, y = np.meshgrid(across, across)
    source = np.stack([x, y, np.ones_like(x)], -1) @ back.T  # (side, side, 2)
    grid = torch.from_numpy(source * 2 / np.array([width - 1, height - 1]) - 1)
    grid = to_device(grid.to(pixels.dtype), pixels.device)
    return F.grid_sample(
        pixels, grid.expand(batch, -1, -1, -1), mode="bilinear", padding_mode="zeros", align_corners=True
    )


def arcface_crop(pixels: NDArray[np.uint8], points: Points, side: int = ARCFACE_SIDE) -> NDArray[np.uint8]:
    """The face with five landmarks (5, 2), upright, (side, side, 3): what recognisers were trained on."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    crop = warped(image, similarity(points, ARCFACE_POINTS * side / ARCFACE_SIDE), side)
    return crop[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def ffhq_quad(landmarks: Points) -> Points:
    """Corners (4, 2) of the upright square around a face with 68 or 5 landmarks.

    In the order top left, bottom left, bottom right, top right, seen from the face.
    """
    left_eye, right_eye, left_mouth, right_mouth = _eyes_and_mouth(np.asarray(landmarks, np.float64))
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    between, down = right_eye - left_eye, mouth - eyes
    x = between + np.array([down[1], -down[0]])
    x *= max(2.0 * np.hypot(*between), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    middle = eyes + 0.1 * down
    return np.stack([middle - x - y, middle - x + y, middle + x + y, middle + x - y])


def restorer_quad(landmarks: Points) -> Points:
    """Corners (4, 2), in the order of `ffhq_quad`, of the square in which restorers expect five landmarks.

    All five points count, so a nose or mouth turned aside moves it less than FFHQ's own rule would have it.
    """
    low, high = -0.5, FFHQ_SIDE - 0.5  # the outer edges of the first and last pixel
    corners = np.array([[low, low], [low, high], [high, high], [high, low]])
    there = similarity(landmarks, FFHQ_POINTS)
    return (corners - there[:, 2]) @ np.linalg.inv(there[:, :2]).T


def _eyes_and_mouth(landmarks: Points) -> tuple[Points, Points, Points, Points]:
    if len(landmarks) == len(ARCFACE_POINTS):
        return landmarks[0], landmarks[1], landmarks[3], landmarks[4]
    return landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[48], landmarks[54]


@dataclass(frozen=True)
class Aligned:
    """An upright face; quad (4, 2) in the picture, crop box and padding as left, top, right, bottom."""

    pixels: NDArray[np.uint8]
    quad: Points
    crop: tuple[int, int, int, int]
    padding: tuple[int, int, int, int]


def ffhq_aligned(
    pixels: NDArray[np.uint8], landmarks: Points, size: int = 512, shrink_target: int = SHRINK_TARGET
) -> Aligned:
    """The face as FFHQ aligns it, (size, size, 3); what lies outside the picture is mirrored and faded."""
    return cut_out(pixels, ffhq_quad(landmarks), size, shrink_target)


def cut_out(
    pixels: NDArray[np.uint8], corners: Points, size: int = 512, shrink_target: int = SHRINK_TARGET
) -> Aligned:
    """The square with these corners (4, 2), ordered as `ffhq_quad`'s, cut out as `ffhq_aligned` does it."""
    image, original = Image.fromarray(pixels), corners
    quad, side = original.copy(), float(np.hypot(*(original[3] - original[0])))
    shrink = int(side / shrink_target * 0.5)
    if shrink > 1:
        smaller = (round(image.width / shrink), round(image.height / shrink))
        image, quad, side = image.resize(smaller, Image.Resampling.LANCZOS), quad / shrink, side / shrink
    border = max(round(side * 0.1), 3)
    around = _around(quad)
    crop = (
        max(around[0] - border, 0),
        max(around[1] - border, 0),
        min(around[2] + border, image.width),
        min(around[3] + border, image.height),
    )
    image, quad = image.crop(crop), quad - crop[:2]
    padding = _padding(quad, image.size, border, round(side * 0.3))
    if any(padding):
        image, quad = _padded(image, padding, side * 0.02), quad + padding[:2]
    seen = tuple(float(value) for value in (quad + 0.5).ravel())
    upright = image.transform((size, size), Image.Transform.QUAD, seen, Image.Resampling.BILINEAR)
    return Aligned(np.asarray(upright), original, crop, padding)


def _around(quad: Points) -> tuple[int, int, int, int]:
    low, high = np.floor(quad.min(0)), np.ceil(quad.max(0))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _padding(quad: Points, size: tuple[int, int], border: int, least: int) -> tuple[int, int, int, int]:
    """Nothing where the quad fits; else on every side what overhangs, and never too little to fade in."""
    left, top, right, bottom = _around(quad)
    over = [max(amount + border, 0) for amount in (-left, -top, right - size[0], bottom - size[1])]
    if max(over) <= border - 4:
        return 0, 0, 0, 0
    wide = [max(amount, least) for amount in over]
    return wide[0], wide[1], wide[2], wide[3]


def _padded(image: Image.Image, padding: tuple[int, int, int, int], sigma: float) -> Image.Image:
    """Mirrored beyond its edges, there blurred, and further out faded to the median colour."""
    left, top, right, bottom = padding
    values = np.pad(np.asarray(image, np.float32), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = values.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    with np.errstate(divide="ignore"):
        outside = np.maximum(
            1 - np.minimum(x / left, (width - 1 - x) / right),
            1 - np.minimum(y / top, (height - 1 - y) / bottom),
        )[..., None]
    values += (gaussian_blur(values, sigma) - values) * np.clip(3 * outside + 1, 0, 1)
    values += (np.median(values, axis=(0, 1)) - values) * np.clip(outside, 0, 1)
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


# --- boxes and choices ------------------------------------------------------------------------------


def face_box(faces: Sequence[Points], size: tuple[int, int]) -> Mask:
    """Mask (H, W) of a generous box around each face's landmarks: forehead and hair too (MasterWeaver)."""
    mask = np.zeros(size, dtype=np.float32)
    for landmarks in faces:
        low, high = landmarks.min(0).astype(int), landmarks.max(0).astype(int)
        (cx, cy), (rx, ry) = ((low + high) / 2).astype(int), ((high - low) / 2).astype(int)
        rows = slice(max(0, int(cy - 2.2 * ry)), max(0, int(cy + 1.5 * ry)))
        columns = slice(max(0, int(cx - 1.5 * rx)), max(0, int(cx + 1.5 * rx)))
        mask[rows, columns] = 1
    return mask


def central_face(boxes: NDArray, size: tuple[int, int]) -> int:
    """The number of the box (N, 4) that is large and near the middle of a picture (H, W) (MagiCapture)."""
    low, high = boxes[:, :2], boxes[:, 2:4]
    away = (low + high) / 2 - np.array([size[1], size[0]]) / 2
    return int(np.argmax((high - low).prod(1) - 2 * (away**2).sum(1)))


def largest_face(boxes: NDArray) -> int:
    """The number of the largest of boxes (N, 4)."""
    return int(np.argmax((boxes[:, 2:4] - boxes[:, :2]).prod(1)))
