"""The places behind the people, each in several layouts."""

import math

import numpy as np

from .canvas import Canvas, box, curve, ellipse, gradient, shade


def draw_scene(canvas: Canvas) -> None:
    rng = np.random.default_rng([canvas.context.seed, 4])
    side = (-1, 1, 1)[canvas.context.layout]
    _SCENES[canvas.context.scene](canvas, rng, side, canvas.context.layout)


def _scene_plain(canvas: Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    base = [(216, 190, 156), (150, 186, 196), (198, 170, 198)][layout]
    gradient(canvas, shade(base, 1.15), shade(base, 0.85))


def _scene_beach(canvas: Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    horizon = (-0.05, 0.05, 0.15)[layout]
    gradient(canvas, (112, 192, 244), (206, 236, 248), -1, horizon)
    canvas.backdrop(ellipse(side * 0.72, -0.72, 0.17, 0.17), (255, 232, 110))
    canvas.backdrop(box(-1, horizon, 1, horizon + 0.42), (36, 132, 196))
    canvas.backdrop(box(-1, horizon + 0.4, 1, 1), (244, 216, 150))
    if layout != 1:
        canvas.backdrop(
            curve([(-side * 0.92, -0.3), (-side * 0.84, -0.3), (-side * 0.78, 0.6), (-side * 0.9, 0.6)]),
            (132, 90, 48),
        )
        for angle in (-2.7, -2.0, -1.1, -0.4, 0.3):
            x, y = -side * 0.88 + 0.2 * math.cos(angle), -0.32 + 0.18 * math.sin(angle)
            canvas.backdrop(ellipse(x, y, 0.24, 0.07, angle), (38, 140, 66))


def _scene_forest(canvas: Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    gradient(canvas, (186, 222, 164), (112, 166, 104), -1, 0.5)
    canvas.backdrop(box(-1, 0.4, 1, 1), (72, 114, 54))
    for x in (-0.9, -0.55, 0.55, 0.9) if layout else (-0.95, -0.65, -0.3, 0.3, 0.7):
        x, height = x + rng.uniform(-0.06, 0.06), rng.uniform(1.1, 1.4)
        canvas.backdrop(box(x - 0.05, 0.3, x + 0.05, 0.6), (92, 62, 38))
        for tier in range(3):
            width, base = 0.3 - 0.06 * tier, 0.4 - height * 0.27 * tier
            canvas.backdrop(
                np.array([(x - width, base), (x + width, base), (x, base - height * 0.4)]),
                (30, 96 + 12 * tier, 50),
            )


def _scene_city(canvas: Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    gradient(canvas, (22, 20, 66), (132, 66, 124), -1, 0.6)
    canvas.backdrop(ellipse(side * 0.45, -0.8, 0.12, 0.12), (252, 244, 206))
    for column in range(6):
        left, top = -1 + column / 3, rng.uniform(-0.65, -0.1) + 0.15 * layout
        canvas.backdrop(box(left, top, left + 0.31, 1), (38, 36, 72))
        for window in range(6):
            x, y = left + 0.06 + 0.13 * (window % 2), top + 0.1 + 0.2 * (window // 2)
            canvas.backdrop(box(x, y, x + 0.07, y + 0.1), (255, 220, 118))


def _scene_mountains(canvas: Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    gradient(canvas, (140, 184, 240), (234, 242, 252), -1, 0.3)
    peaks = [((-0.75, 1.15), (0.75, 1.0)), ((-0.6, 0.9), (0.7, 1.25)), ((-0.9, 1.2), (0.45, 1.1))][layout]
    for x, height in peaks:
        top = 0.5 - height
        canvas.backdrop(np.array([(x - 0.7, 0.55), (x, top), (x + 0.7, 0.55)]), (104, 118, 150))
        canvas.backdrop(
            np.array([(x - 0.22, top + height * 0.32), (x, top), (x + 0.22, top + height * 0.32)]),
            (252, 252, 255),
        )
    canvas.backdrop(box(-1, 0.45, 1, 1), (238, 244, 250))


def _scene_space(canvas: Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    gradient(canvas, (10, 8, 36), (46, 20, 78))
    for x, y in rng.uniform(-1, 1, (24, 2)):
        canvas.backdrop(ellipse(x, y, 0.018, 0.018), (255, 255, 228))
    height = (-0.6, -0.55, 0.1)[layout]
    canvas.backdrop(ellipse(side * 0.74, height, 0.22, 0.22), (226, 138, 74))
    canvas.backdrop(ellipse(side * 0.74, height, 0.36, 0.05, -0.35), (246, 216, 162))


_SCENES = {
    "plain": _scene_plain, "beach": _scene_beach, "forest": _scene_forest, "city": _scene_city,
    "mountains": _scene_mountains, "space": _scene_space,
}  # fmt: skip
