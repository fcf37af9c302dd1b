"""Contact sheets: rows of pictures with a title, labels and captions, drawn with Pillow's own font."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER, INK, _QUIET, ACCENT, _LINE = "#ffffff", "#111827", "#6b7280", "#1d4ed8", "#e5e7eb"
MARGIN, GAP, LABEL_WIDTH, CORNER = 40, 12, 190, 10  # pixels
_TITLE, LABEL, SMALL = 30, 18, 14  # font sizes


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One row of the sheet: its label, a quieter line under it, and pictures (N, H, W, 3) uint8."""

    label: str
    pictures: Sequence[np.ndarray]
    detail: str = ""
    notes: Sequence[str] = ()  # one under each picture
    accent: bool = False  # the row that matters
    rule_above: bool = False  # a line that sets it apart from the rows before


def draw_sheet(
    title: str, subtitle: str, rows: Sequence[SheetRow], captions: Sequence[str] = (), tile: int = 176
) -> Image.Image:
    """The rows under a title; `captions`, one per column, stand under the last row."""
    columns = max(len(row.pictures) for row in rows)
    width = 2 * MARGIN + LABEL_WIDTH + columns * (tile + GAP) - GAP
    wrapped = [_wrap(caption, _font(SMALL), tile) for caption in captions]
    below = max((len(lines) for lines in wrapped), default=0) * (SMALL + 5)
    heights = [_row_height(row, tile) for row in rows]
    top = MARGIN + _TITLE + LABEL + 34
    sheet = Image.new("RGB", (width, top + sum(heights) + below + MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=_font(_TITLE))
    draw.text((MARGIN, MARGIN + _TITLE + 12), subtitle, fill=_QUIET, font=_font(LABEL))
    for row, height in zip(rows, heights):
        _draw_row(sheet, draw, row, top, tile)
        top += height
    for column, lines in enumerate(wrapped):
        left = MARGIN + LABEL_WIDTH + column * (tile + GAP)
        for number, line in enumerate(lines):
            draw.text((left, top + number * (SMALL + 5)), line, fill=_QUIET, font=_font(SMALL))
    return sheet


def _row_height(row: SheetRow, tile: int) -> int:
    return tile + GAP + (SMALL + 8) * bool(row.notes) + (2 * GAP) * row.rule_above


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, top: int, tile: int) -> None:
    if row.rule_above:
        draw.line([(MARGIN, top + GAP // 2), (sheet.width - MARGIN, top + GAP // 2)], fill=_LINE, width=2)
        top += 2 * GAP
    _draw_label(draw, row, top, tile)
    for column, pixels in enumerate(row.pictures):
        left = MARGIN + LABEL_WIDTH + column * (tile + GAP)
        picture = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, top), _rounded(tile))
        if column < len(row.notes):
            ink = ACCENT if row.accent else _QUIET
            draw.text(
                (left + tile / 2, top + tile + 4), row.notes[column], fill=ink, font=_font(SMALL), anchor="ma"
            )


def _draw_label(draw: ImageDraw.ImageDraw, row: SheetRow, top: int, tile: int) -> None:
    """The label and its detail, centred on the row's pictures."""
    lines = [
        (line, LABEL, ACCENT if row.accent else INK)
        for line in _wrap(row.label, _font(LABEL), LABEL_WIDTH - 24)
    ]
    lines += [(line, SMALL, _QUIET) for line in _wrap(row.detail, _font(SMALL), LABEL_WIDTH - 24)]
    y = top + (tile - sum(size + 6 for _, size, _ in lines)) // 2
    for line, size, ink in lines:
        draw.text((MARGIN, y), line, fill=ink, font=_font(size))
        y += size + 6


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _rounded(tile: int) -> Image.Image:
    """A mask with round corners, smooth because it is drawn larger."""
    mask = Image.new("L", (tile * 4, tile * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, tile * 4 - 1, tile * 4 - 1), CORNER * 4, fill=255)
    return mask.resize((tile, tile), Image.Resampling.LANCZOS)


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """The text in lines no wider than `width` pixels, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
