"""What everything is drawn with: shapes, colours, and a canvas that remembers which part each pixel shows."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .people import PART_ID, Colour, Context

Polygon = NDArray[np.float64]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (a * (1 - share) + b * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    return mix(colour, (0, 0, 0), 1 - factor) if factor <= 1 else mix(colour, (255, 255, 255), factor - 1)


def ellipse(
    x: float, y: float, width: float, height: float, tilt: float = 0.0, start=0.0, end=2 * math.pi
) -> Polygon:
    angle = np.linspace(start, end, 24)
    across, down = width * np.cos(angle), height * np.sin(angle)
    return np.stack(
        [
            x + across * math.cos(tilt) - down * math.sin(tilt),
            y + across * math.sin(tilt) + down * math.cos(tilt),
        ],
        1,
    )


def curve(points: Sequence[tuple[float, float]], closed: bool = True, steps: int = 6) -> Polygon:
    """A Catmull-Rom spline through `points`."""
    knots = np.asarray(points, float)
    knots = np.vstack([knots[-1:], knots, knots[:2]] if closed else [knots[:1], knots, knots[-1:]])
    before, start, end, after = (knots[k : len(knots) - 3 + k, None] for k in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    quadratic = 2 * before - 5 * start + 4 * end - after
    cubic = 3 * start - before - 3 * end + after
    spline = 0.5 * (2 * start + (end - before) * t + quadratic * t * t + cubic * t**3)
    return np.vstack([spline.reshape(-1, 2), knots[-2:-1]])


def mirror(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Completes the right half of an outline, given from top to bottom, with its mirror image."""
    return [*points, *((-x, y) for x, y in reversed(points))]


class Canvas:
    """Polygons in picture coordinates on a supersampled picture, with a part label for every pixel."""

    OUTLINES: dict[str, tuple[float, Colour]] = {
        "sketch": (0.018, (58, 56, 62)),
        "poster": (0.02, (22, 18, 28)),
    }

    def __init__(self, context: Context, size: int, oversample: int = 2) -> None:
        self.context, self.size, self.oversample = context, size, oversample
        side = size * oversample
        self.half = side / 2
        self.image, self.parts = Image.new("RGB", (side, side)), Image.new("L", (side, side))
        self._draw, self._label = ImageDraw.Draw(self.image), ImageDraw.Draw(self.parts)
        self._outline = self.OUTLINES.get(context.style)

    def place(self, points: Polygon, depth: float) -> Polygon:
        """Moves head coordinates into the picture: yaw by depth, then scale, roll about the neck, shift."""
        pose = self.context
        x, y = points[:, 0] + pose.yaw * depth, points[:, 1] - 0.6
        x, y = x * pose.scale, y * pose.scale
        cos, sin = math.cos(pose.roll), math.sin(pose.roll)
        return np.stack([x * cos - y * sin + pose.shift[0], x * sin + y * cos + 0.6 + pose.shift[1]], 1)

    def pixels(self, points: Polygon) -> list[tuple[float, float]]:
        return [(x, y) for x, y in ((points + 1) * self.half).tolist()]

    def fill(self, points: Polygon, colour: Colour, part: str | None = None, depth=0.0, outline=True) -> None:
        """A filled polygon of the head or body."""
        corners = self.pixels(self.place(np.asarray(points, float), depth))
        self._draw.polygon(corners, fill=self.ink(colour))
        if part:
            self._label.polygon(corners, fill=PART_ID[part])
        if outline and self._outline:
            width, ink = self._outline
            self._draw.line(
                [*corners, corners[0]], fill=self.ink(ink, raw=True), width=round(width * self.half)
            )

    def stroke(
        self, points: Polygon, colour: Colour, width: float, part: str | None = None, depth=0.0
    ) -> None:
        """A line of the head or body, `width` in picture half-widths."""
        corners = self.pixels(self.place(np.asarray(points, float), depth))
        thick = max(1, round(width * self.half * self.context.scale))
        self._draw.line(corners, fill=self.ink(colour), width=thick, joint="curve")
        if part:
            self._label.line(corners, fill=PART_ID[part], width=thick)

    def backdrop(self, points: Polygon, colour: Colour) -> None:
        """A polygon of the scene: it does not move with the pose."""
        self._draw.polygon(self.pixels(np.asarray(points, float)), fill=self.ink(colour))

    def ink(self, colour: Colour, raw: bool = False) -> tuple[int, int, int]:
        """The colour as the art style renders it."""
        style = "raw" if raw else self.context.style
        grey = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
        if style == "sketch":  # coloured pencil: pale, half of the colour left
            colour = mix(mix((grey, grey, grey), colour, 0.5), (246, 244, 238), 0.3)
        elif style == "poster":
            colour = mix((grey, grey, grey), colour, 1.4)
        elif style == "watercolor":
            colour = mix(colour, (255, 250, 240), 0.28)
        red, green, blue = (int(min(255, max(0, channel))) for channel in colour)
        return red, green, blue


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def gradient(canvas: Canvas, top: Colour, bottom: Colour, start=-1.0, end=1.0, bands: int = 12) -> None:
    for band in range(bands):
        upper, lower = (start + (end - start) * (band + k) / bands for k in (0, 1))
        canvas.backdrop(box(-1, upper, 1, lower + 0.02), mix(top, bottom, band / (bands - 1)))
