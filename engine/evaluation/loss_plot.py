"""The picture of a training run: each loss term over the steps, drawn with Pillow alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INKS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#ec4899")
_PAPER, _GRID, _TEXT = "#ffffff", "#e5e7eb", "#374151"
_MARGIN = (62, 34, 16, 34)  # left, top, right, bottom, in pixels
SMOOTHING = 0.05  # of the run's length: the window of the thick line's running mean


def plot_losses(
    losses: Mapping[str, Sequence[tuple[int, float]]], width: int = 768, height: int = 384
) -> np.ndarray:
    """Curves (H, W, 3) uint8 of loss terms given as (step, value): values thin, their running mean thick."""
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=13)
    values = [value for curve in losses.values() for _, value in curve if np.isfinite(value)]
    last = max((step for curve in losses.values() for step, _ in curve), default=1)
    top = max(float(np.quantile(values, 0.99)) * 1.1, 1e-9) if values else 1.0
    frame = (_MARGIN[0], _MARGIN[1], width - _MARGIN[2], height - _MARGIN[3])
    _draw_axes(draw, font, frame, last, top)
    left = frame[0]
    for ink, (name, curve) in zip(INKS * len(losses), losses.items()):
        steps = np.array([step for step, _ in curve], dtype=float)
        heights = np.array([value for _, value in curve], dtype=float)
        draw.line(_to_pixels(steps, heights, frame, last, top), fill=_pale(ink), width=1)
        draw.line(_to_pixels(steps, _running_mean(heights), frame, last, top), fill=ink, width=3)
        draw.text((left, 10), name.replace("_", " "), fill=ink, font=font)
        left += int(draw.textlength(name, font=font)) + 24
    return np.asarray(image)


def _draw_axes(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    frame: tuple[int, int, int, int], last: int, top: float,
) -> None:  # fmt: skip
    left, upper, right, lower = frame
    for part in range(5):
        y = lower - (lower - upper) * part // 4
        x = left + (right - left) * part // 4
        draw.line([(left, y), (right, y)], fill=_GRID)
        draw.text((left - 8, y), f"{top * part / 4:.3g}", fill=_TEXT, font=font, anchor="rm")
        draw.text((x, lower + 8), f"{last * part // 4}", fill=_TEXT, font=font, anchor="ma")


def _to_pixels(
    steps: np.ndarray, values: np.ndarray, frame: tuple[int, int, int, int], last: int, top: float
) -> list[tuple[float, float]]:
    left, upper, right, lower = frame
    x = left + (right - left) * steps / max(last, 1)
    y = lower - (lower - upper) * np.clip(np.nan_to_num(values, nan=top), 0, top) / top
    return list(zip(x.tolist(), y.tolist()))


def _running_mean(values: np.ndarray) -> np.ndarray:
    window = max(1, round(len(values) * SMOOTHING))
    total = np.cumsum(np.concatenate([[0.0], np.nan_to_num(values)]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def _pale(ink: str) -> tuple[int, int, int]:
    red, green, blue = (int(ink[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(channel + (255 - channel) * 2 // 3 for channel in (red, green, blue))  # type: ignore[return-value]
