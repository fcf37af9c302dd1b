"""The people themselves, part by part, from behind to the front: hair, body, head, face, glasses, hat."""

import math

import numpy as np

from .canvas import Canvas, Polygon, box, curve, ellipse, mirror, mix, shade
from .people import CLOTHES_COLOURS, EYE_COLOURS, Character

CROWN = -0.62  # top of the skull
SKULL = -0.2  # height at which the skull is widest


def draw_person(canvas: Canvas, who: Character) -> None:
    """Everything of the person, in the order in which one part hides another."""
    _draw_hair_behind(canvas, who)
    _draw_body(canvas, who)
    _draw_head(canvas, who)
    _draw_beard(canvas, who)
    _draw_eyes(canvas, who)
    _draw_nose(canvas, who)
    _draw_mouth(canvas, who)
    _draw_hair_front(canvas, who)
    _draw_glasses(canvas, who)
    _draw_hat(canvas, who)


def _face_outline(who: Character, grow: float = 0.0) -> Polygon:
    """Half an ellipse above the widest line, a superellipse below it whose exponent makes the jaw."""
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    below = sin > 0
    exponent = np.where(below, who.jaw, 0.9)
    x = (who.face_width + grow) * np.sign(cos) * np.abs(cos) ** exponent
    y = np.where(below, (who.chin - SKULL + grow) * sin, (SKULL - CROWN + grow) * sin)
    return np.stack([x, SKULL + y], 1)


def _draw_hair_behind(canvas: Canvas, who: Character) -> None:
    colour, width, volume = (
        shade(who.hair_rgb, 0.82),
        who.face_width + 0.1 * who.hair_volume,
        who.hair_volume,
    )
    if who.hair_style == "long":
        half = [
            (0, -0.70),
            (width * 0.7, -0.60),
            (width, -0.2),
            (width + 0.04, 0.3),
            (width, 0.85),
            (width * 0.4, 0.88),
        ]
        canvas.fill(curve(mirror(half)), colour, "hair", -0.3)
    elif who.hair_style == "bob":
        half = [
            (0, -0.70),
            (width * 0.7, -0.60),
            (width + 0.02, -0.2),
            (width + 0.1, 0.2),
            (width + 0.06, 0.38),
            (width * 0.4, 0.36),
        ]
        canvas.fill(curve(mirror(half)), colour, "hair", -0.3)
    elif who.hair_style == "curly":
        for angle in np.linspace(-math.pi * 1.22, math.pi * 0.22, 11):
            x, y = (who.face_width + 0.04) * math.cos(angle), -0.26 + 0.42 * math.sin(angle)
            canvas.fill(ellipse(x, y, 0.17 * volume, 0.17 * volume), who.hair_rgb, "hair", -0.2)
        canvas.fill(ellipse(0, -0.3, who.face_width, 0.42), who.hair_rgb, "hair", -0.2, outline=False)
    elif who.hair_style == "bun":
        canvas.fill(ellipse(0.1 * who.parting, -0.80, 0.19 * volume, 0.17 * volume), colour, "hair", -0.1)


def _draw_body(canvas: Canvas, who: Character) -> None:
    context = canvas.context
    colour = CLOTHES_COLOURS[context.clothes_colour]
    neck = 0.17 if who.gender == "woman" else 0.23
    shoulders = 0.78 if who.gender == "woman" else 0.92
    canvas.fill(box(-neck, 0.3, neck, 0.85), shade(who.skin_colour, 0.8), "neck", 0.1)
    half = [(0, 0.78), (neck, 0.68), (0.45, 0.74), (shoulders, 0.88), (shoulders + 0.1, 1.4)]
    canvas.fill(curve(mirror(half)), colour, "clothes")
    trim = shade(colour, 0.72) if sum(colour) > 200 else shade(colour, 1.3)
    if context.clothes == "hoodie":
        for side in (-1, 1):
            canvas.fill(
                curve([(side * neck, 0.6), (side * (neck + 0.18), 0.68), (side * 0.22, 0.9),
                        (side * 0.02, 0.98), (side * 0.06, 0.84)]),
                trim, "clothes",
            )  # fmt: skip
    elif context.clothes == "suit":
        canvas.fill(np.array([(-0.17, 0.7), (0.17, 0.7), (0, 1.15)]), (246, 246, 248), "clothes")
        canvas.fill(
            np.array([(-0.05, 0.8), (0.05, 0.8), (0.06, 1.2), (-0.06, 1.2)]), (196, 40, 60), "clothes"
        )
        for side in (-1, 1):
            canvas.fill(
                np.array([(side * 0.17, 0.64), (side * 0.34, 0.74), (side * 0.02, 1.2)]), trim, "clothes"
            )
    else:
        canvas.stroke(curve([(-neck, 0.68), (0, 0.8), (neck, 0.68)], closed=False), trim, 0.05, "clothes")


def _draw_head(canvas: Canvas, who: Character) -> None:
    skin = who.skin_colour
    for side in (-1, 1):
        x = side * (who.face_width + 0.01)
        canvas.fill(
            ellipse(x, -0.02, 0.065 * who.ear_size, 0.1 * who.ear_size), shade(skin, 0.92), "ear", -0.1
        )
    canvas.fill(_face_outline(who), skin, "skin", 0.15)
    if who.freckles != "none":
        rng = np.random.default_rng([who.seed, 5])
        for x, y in rng.uniform((0.08, 0.06), (0.32, 0.2), (7, 2)):
            for side in (-1, 1):
                canvas.fill(ellipse(side * x, y, 0.017, 0.017), shade(skin, 0.66), None, 0.5, outline=False)
    if who.mole:
        canvas.fill(ellipse(who.mole, 0.22, 0.026, 0.026), shade(skin, 0.35), None, 0.5, outline=False)


def _draw_beard(canvas: Canvas, who: Character) -> None:
    colour, mouth, width = shade(who.facial_hair_rgb, 0.9), who.mouth_height, who.mouth_width
    if who.beard == "full":
        outline = _face_outline(who, 0.03)
        below = outline[outline[:, 1] > 0.06]
        order = np.argsort(np.arctan2(below[:, 1] - 0.06, below[:, 0]))
        inner = [
            (-who.face_width * 0.72, 0.12),
            (-width, mouth - 0.1),
            (0, mouth - 0.11),
            (width, mouth - 0.1),
            (who.face_width * 0.72, 0.12),
        ]
        canvas.fill(np.vstack([below[order], curve(inner, closed=False)]), colour, "beard", 0.2)
    elif who.beard == "goatee":
        half = [(0, mouth + 0.05), (0.13, mouth + 0.03), (0.13, who.chin - 0.02), (0.06, who.chin + 0.07)]
        canvas.fill(curve(mirror(half)), colour, "beard", 0.35)
    if who.beard in ("mustache", "full"):
        half = [
            (0, mouth - 0.1),
            (width * 0.8, mouth - 0.07),
            (width * 1.25, mouth + 0.03),
            (width * 0.6, mouth - 0.015),
            (0, mouth - 0.03),
        ]
        canvas.fill(curve(mirror(half)), shade(colour, 0.85), "beard", 0.45)


def _draw_eyes(canvas: Canvas, who: Character) -> None:
    expression, size, y = canvas.context.expression, who.eye_size, who.eye_height
    openness = {"surprised": 1.0, "smiling": 0.68, "sad": 0.7, "neutral": 0.8}[expression]
    brow_colour = mix(shade(who.facial_hair_rgb, 0.7), (40, 28, 24), 0.3)
    raised = {"surprised": 0.09, "sad": 0.03}.get(expression, 0.0)
    for side in (-1, 1):
        x, tilt = side * who.eye_spacing, side * who.eye_tilt
        canvas.fill(ellipse(x, y, size, size * openness, tilt), (252, 250, 248), "eye", 0.55, outline=False)
        iris = min(size * 0.66, size * openness * 0.95)
        centre = x + canvas.context.yaw * 0.35
        canvas.fill(ellipse(centre, y, iris, iris), EYE_COLOURS[who.eye_colour], "eye", 0.55, outline=False)
        canvas.fill(ellipse(centre, y, iris * 0.45, iris * 0.45), (16, 12, 14), "eye", 0.55, outline=False)
        lid = ellipse(x, y, size * 1.04, size * openness * 1.04, tilt, math.pi, 2 * math.pi)
        canvas.stroke(lid, (34, 24, 26), 0.035 if who.gender == "woman" else 0.022, "eye", 0.55)
        slant = who.brow_slant + (0.55 if expression == "sad" else 0.0)
        height = y - size - 0.055 - raised
        brow = [
            (x - side * size, height - slant * 0.07),
            (x, height - 0.03),
            (x + side * size * 1.15, height + slant * 0.1),
        ]
        canvas.stroke(curve(brow, closed=False), brow_colour, who.brow_thickness, "brow", 0.5)


def _draw_nose(canvas: Canvas, who: Character) -> None:
    tip, width = who.eye_height + who.nose_length + 0.06, who.nose_width
    half = [(0.015, tip - who.nose_length), (0.03, tip - 0.06), (width, tip), (width * 0.6, tip + 0.035)]
    canvas.fill(curve(mirror(half)), shade(who.skin_colour, 0.9), "nose", 0.75, outline=False)
    under = [(-width, tip), (-width * 0.5, tip + 0.035), (width * 0.5, tip + 0.035), (width, tip)]
    canvas.stroke(curve(under, closed=False), shade(who.skin_colour, 0.6), 0.022, "nose", 0.75)


def _draw_mouth(canvas: Canvas, who: Character) -> None:
    expression, y, width, lips = canvas.context.expression, who.mouth_height, who.mouth_width, who.lips
    colour = mix(who.skin_colour, (196, 40, 56), 0.7 if who.gender == "woman" else 0.42)
    if expression == "surprised":
        canvas.fill(ellipse(0, y + 0.03, width * 0.5 + 0.02, 0.11), colour, "mouth", 0.6, outline=False)
        canvas.fill(
            ellipse(0, y + 0.03, width * 0.5 - 0.015, 0.08), (74, 20, 28), "mouth", 0.6, outline=False
        )
    elif expression == "smiling":
        top = curve([(-width * 1.15, y - 0.05), (0, y - 0.005), (width * 1.15, y - 0.05)], closed=False)
        bottom = curve([(width * 0.75, y + 0.06), (0, y + 0.105), (-width * 0.75, y + 0.06)], closed=False)
        canvas.fill(np.vstack([top, bottom]), colour, "mouth", 0.6, outline=False)
        teeth = curve(
            [
                (-width * 0.9, y - 0.022),
                (0, y + 0.015),
                (width * 0.9, y - 0.022),
                (width * 0.5, y + 0.05),
                (-width * 0.5, y + 0.05),
            ]
        )
        canvas.fill(teeth, (252, 250, 248), "mouth", 0.6, outline=False)
    else:
        bend = 0.05 if expression == "sad" else 0.0
        corners = [
            (-width, y + bend),
            (0, y - lips * 0.8 - bend * 0.5),
            (width, y + bend),
            (0, y + lips * 1.1 - bend * 0.2),
        ]
        canvas.fill(curve(corners), colour, "mouth", 0.6, outline=False)
        line = [(-width, y + bend), (0, y - bend * 0.4), (width, y + bend)]
        canvas.stroke(curve(line, closed=False), shade(colour, 0.5), 0.022, "mouth", 0.6)


def _draw_hair_front(canvas: Canvas, who: Character) -> None:
    if who.hair_style == "bald":
        return
    width, lift = who.face_width, 0.06 * who.hair_volume
    low = -0.38 + 0.1 * who.fringe
    sides = {"long": 0.1, "bob": 0.12, "curly": -0.1, "bun": -0.15}.get(who.hair_style, -0.02)
    outer = [(-width - 0.02, sides), (-width - lift, -0.25), (-width * 0.7, -0.60 - lift * 0.5),
             (0, CROWN - 0.05 - lift), (width * 0.7, -0.60 - lift * 0.5), (width + lift, -0.25),
             (width + 0.02, sides)]  # fmt: skip
    part = who.parting * 0.45 * width
    inner = [(width * 0.88, sides - 0.1), (width * 0.78, -0.28), (part + 0.16, low), (part, low - 0.1),
             (part - 0.16, low), (-width * 0.78, -0.28), (-width * 0.88, sides - 0.1)]  # fmt: skip
    if who.hair_style == "bob":
        inner = [
            (width * 0.86, 0.0),
            (width * 0.8, low + 0.1),
            (0, low + 0.12),
            (-width * 0.8, low + 0.1),
            (-width * 0.86, 0.0),
        ]
    if who.hair_style == "spiky" and canvas.context.hat in ("none", "crown"):
        for angle in np.linspace(-math.pi * 0.93, -math.pi * 0.07, 7):
            x, y = math.cos(angle), math.sin(angle)
            root = np.array([width * 0.98 * x, -0.25 + 0.4 * y])
            tip = root + np.array([0.1 * x, -0.22]) * who.hair_volume
            canvas.fill(
                np.array([root + (-0.12, 0.06), tip, root + (0.12, 0.06)]), who.hair_rgb, "hair", 0.05
            )
    shape = np.vstack([curve(outer, closed=False), curve(inner, closed=False)])
    canvas.fill(shape, who.hair_rgb, "hair", 0.1, outline=who.hair_style != "spiky")


def _draw_glasses(canvas: Canvas, who: Character) -> None:
    kind = canvas.context.glasses
    if kind == "none":
        return
    frame, radius, y = (26, 26, 32), who.eye_size * 1.5, who.eye_height
    for side in (-1, 1):
        x = side * max(who.eye_spacing, radius + 0.02)
        if kind == "sunglasses":
            half = [
                (x - radius, y - radius * 0.7),
                (x + radius, y - radius * 0.7),
                (x + radius * 0.8, y + radius * 0.75),
                (x - radius * 0.8, y + radius * 0.75),
            ]
            canvas.fill(curve(half), (30, 32, 44), "glasses", 0.62)
        else:
            canvas.stroke(ellipse(x, y, radius, radius), frame, 0.04, "glasses", 0.62)
        canvas.stroke(
            np.array([(x + side * radius, y), (side * (who.face_width + 0.02), y - 0.03)]),
            frame,
            0.035,
            "glasses",
            0.4,
        )
    canvas.stroke(np.array([(-0.04, y - 0.02), (0.04, y - 0.02)]), frame, 0.04, "glasses", 0.65)


def _draw_hat(canvas: Canvas, who: Character) -> None:
    kind, width = canvas.context.hat, who.face_width + 0.09
    colour = CLOTHES_COLOURS[canvas.context.hat_colour]
    if kind == "beanie":
        half = [(0, -0.92), (width * 0.8, -0.74), (width, -0.38)]
        canvas.fill(
            np.vstack([curve(mirror(half)[3:] + mirror(half)[:3], closed=False)]), colour, "hat", 0.05
        )
        canvas.fill(box(-width - 0.02, -0.48, width + 0.02, -0.32), shade(colour, 0.72), "hat", 0.05)
    elif kind == "top hat":
        canvas.fill(box(-width * 0.78, -1.08, width * 0.78, -0.44), (36, 34, 42), "hat", 0.05)
        canvas.fill(box(-width * 0.79, -0.58, width * 0.79, -0.46), (190, 36, 48), "hat", 0.05)
        canvas.fill(ellipse(0, -0.43, width * 1.3, 0.09), (36, 34, 42), "hat", 0.05)
    elif kind == "crown":
        half = [(0, -0.98), (0.18, -0.72), (0.42, -0.95), (0.38, -0.48)]
        canvas.fill(np.array(mirror(half)), (246, 202, 58), "hat", 0.05)
        for x, jewel in ((-0.22, (206, 44, 60)), (0.0, (50, 96, 210)), (0.22, (206, 44, 60))):
            canvas.fill(ellipse(x, -0.58, 0.05, 0.05), jewel, "hat", 0.05, outline=False)
