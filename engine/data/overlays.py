"""Pictures that show what was found: a mask as a veil over the rest, faces as boxes, many as one sheet."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

VEIL = np.array([38, 16, 64], dtype=np.float32)  # what is outside a mask fades into this colour
VEIL_STRENGTH = 0.7
_LINE = (255, 214, 64)
CELL, _GAP, CAPTION = 192, 8, 16  # pixels of the contact sheet


def veiled(pixels: NDArray[np.uint8], mask: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture with everything outside the mask darkened; soft masks fade."""
    outside = (1 - mask)[..., None] * VEIL_STRENGTH
    return (pixels + (VEIL - pixels) * outside).round().clip(0, 255).astype(np.uint8)


def with_faces(
    pixels: NDArray[np.uint8],
    boxes: Sequence[NDArray],
    points: Sequence[NDArray],
    thickest: int | None = None,
) -> NDArray[np.uint8]:
    """The picture with numbered boxes (4,) and landmarks (N, 2); the lines of face `thickest` are thick."""
    image = Image.fromarray(pixels)
    pen, width = ImageDraw.Draw(image), max(image.width, image.height) // 256 + 1
    for number, box in enumerate(boxes):
        thick = width * (3 if number == thickest else 1)
        pen.rectangle([float(value) for value in box], outline=_LINE, width=thick)
        pen.text((float(box[0]) + thick + 2, float(box[1]) + thick), str(number), fill=_LINE)
    for landmarks in points:
        for x, y in landmarks:
            pen.ellipse([x - 2 * width, y - 2 * width, x + 2 * width, y + 2 * width], fill=_LINE)
    return np.asarray(image)


def thumbnail(pixels: NDArray[np.uint8], side: int = CELL) -> Image.Image:
    """The picture inside a square of that side, its shape kept."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def contact_sheet(cells: Sequence[tuple[str, Image.Image]], columns: int = 5) -> Image.Image:
    """Thumbnails with their names below, row by row."""
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    step_x, step_y = CELL + _GAP, CELL + CAPTION + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), (24, 24, 28))
    pen = ImageDraw.Draw(sheet)
    for number, (name, image) in enumerate(cells):
        x, y = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        sheet.paste(image, (x + (CELL - image.width) // 2, y + (CELL - image.height) // 2))
        pen.text((x, y + CELL + 2), name[:30], fill=(230, 230, 230))
    return sheet
