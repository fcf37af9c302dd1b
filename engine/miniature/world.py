"""The Miniature's world: procedural portraits whose every attribute, part and landmark is known exactly.

Identity (who somebody is) is sampled apart from context (scene, clothes, pose, style): the same person can
be drawn anywhere.  Everything is deterministic by seed.  Drawing needs Pillow and NumPy only.

Coordinates: x and y in [-1, 1], x to the right, y downwards, (0, 0) in the middle of the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[float, float, float]
Points = NDArray[np.float64]

PARTS = (
    "background", "skin", "hair", "brow", "eye", "nose", "mouth",
    "beard", "ear", "neck", "clothes", "glasses", "hat",
)  # fmt: skip
PART_ID = {name: index for index, name in enumerate(PARTS)}
FACE_PARTS = ("skin", "brow", "eye", "nose", "mouth", "beard")
LANDMARKS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")

SKINS: dict[str, Colour] = {
    "pale": (255, 226, 206), "tan": (232, 184, 138), "brown": (164, 112, 74), "dark": (98, 64, 46),
}  # fmt: skip
HAIR_COLOURS: dict[str, Colour] = {
    "black": (30, 26, 32), "brown": (110, 66, 36), "blonde": (238, 204, 104), "red": (196, 72, 28),
    "gray": (168, 170, 178), "blue": (48, 96, 206), "pink": (238, 112, 176),
}  # fmt: skip
EYE_COLOURS: dict[str, Colour] = {"brown": (92, 52, 26), "blue": (44, 118, 214), "green": (44, 146, 74)}
CLOTHES_COLOURS: dict[str, Colour] = {
    "red": (206, 44, 44), "blue": (44, 86, 200), "green": (44, 146, 76), "yellow": (244, 206, 58),
    "purple": (132, 66, 176), "white": (240, 240, 244), "black": (40, 40, 46),
}  # fmt: skip
FACE_SHAPES = {  # half-width, chin height, jaw exponent: below 1 square, above 1 pointed
    "oval": (0.42, 0.50, 0.86), "round": (0.48, 0.44, 0.78), "square": (0.46, 0.48, 0.52),
    "heart": (0.45, 0.50, 1.25), "long": (0.38, 0.56, 0.72),
}  # fmt: skip

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "skin": tuple(SKINS),
    "hair_style": ("bald", "short", "spiky", "curly", "long", "bob", "bun"),
    "hair_colour": tuple(HAIR_COLOURS),
    "eye_colour": tuple(EYE_COLOURS),
    "beard": ("none", "mustache", "goatee", "full"),
    "freckles": ("none", "freckles"),
    "expression": ("neutral", "smiling", "sad", "surprised"),
    "glasses": ("none", "round", "sunglasses"),
    "hat": ("none", "beanie", "top hat", "crown"),
    "clothes": ("shirt", "hoodie", "suit"),
    "clothes_colour": tuple(CLOTHES_COLOURS),
    "scene": ("plain", "beach", "forest", "city", "mountains", "space"),
    "style": ("photo", "sketch", "poster", "watercolor"),
}
IDENTITY_ATTRIBUTES = ("gender", "skin", "hair_style", "hair_colour", "eye_colour", "beard", "freckles")
CONTEXT_ATTRIBUTES = tuple(name for name in ATTRIBUTES if name not in IDENTITY_ATTRIBUTES)
LAYOUTS = 3  # compositions of each scene

TRAINING_SEEDS = range(0, 100_000)
TUNING_SEEDS = range(100_000, 100_100)  # held-out people on whom settings are chosen
REPORTING_SEEDS = range(200_000, 200_100)  # held-out people on whom results are reported


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who somebody is: words of `ATTRIBUTES`, lengths in picture half-widths, angles in radians."""

    gender: str
    skin: str
    skin_colour: Colour
    hair_style: str
    hair_colour: str
    hair_rgb: Colour
    hair_volume: float
    parting: float  # -1 left to 1 right
    fringe: float  # 0 high to 1 low
    eye_colour: str
    beard: str
    freckles: str
    mole: float  # horizontal place on the cheek, 0: none
    face_width: float
    chin: float
    jaw: float
    ear_size: float
    eye_size: float
    eye_spacing: float
    eye_height: float
    eye_tilt: float
    brow_thickness: float
    brow_slant: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    lips: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything about a portrait that is not the person."""

    expression: str = "neutral"
    glasses: str = "none"
    hat: str = "none"
    hat_colour: str = "red"
    clothes: str = "shirt"
    clothes_colour: str = "red"
    scene: str = "plain"
    layout: int = 0
    style: str = "photo"
    yaw: float = 0.0  # shift of the nearest point, in picture half-widths
    roll: float = 0.0  # radians
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    light: float = 0.0  # -1 from the left to 1 from the right
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A rendered picture: pixels (S, S, 3), part labels (S, S), landmarks (5, 2) in pixels (x, y)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    landmarks: NDArray[np.float32]

    def mask(self, parts: Sequence[str] = FACE_PARTS) -> NDArray[np.float32]:
        """Union of the named parts, (S, S) in {0, 1}."""
        return np.isin(self.labels, [PART_ID[part] for part in parts]).astype(np.float32)


def sample_identity(seed: int) -> Identity:
    """The person number `seed`; the same number always gives the same person."""
    rng = np.random.default_rng([seed, 1])
    pick, between = rng.choice, rng.uniform
    gender = str(pick(ATTRIBUTES["gender"]))
    woman = gender == "woman"
    skin, hair = str(pick(list(SKINS))), str(pick(list(HAIR_COLOURS)))
    style_odds = [0, 0.06, 0.04, 0.2, 0.3, 0.2, 0.2] if woman else [0.17, 0.33, 0.25, 0.15, 0.1, 0, 0]
    shape = FACE_SHAPES[str(pick(list(FACE_SHAPES)))]
    return Identity(
        gender=gender,
        skin=skin,
        skin_colour=_jitter(SKINS[skin], rng, 8),
        hair_style=str(pick(ATTRIBUTES["hair_style"], p=style_odds)),
        hair_colour=hair,
        hair_rgb=_jitter(HAIR_COLOURS[hair], rng, 10),
        hair_volume=between(0.8, 1.25),
        parting=between(-1, 1),
        fringe=between(0, 1),
        eye_colour=str(pick(list(EYE_COLOURS))),
        beard="none" if woman else str(pick(ATTRIBUTES["beard"], p=[0.4, 0.2, 0.2, 0.2])),
        freckles=str(pick(ATTRIBUTES["freckles"], p=[0.75, 0.25])),
        mole=float(pick([0.0, between(0.14, 0.26), -between(0.14, 0.26)], p=[0.7, 0.15, 0.15])),
        face_width=shape[0] * between(0.95, 1.05),
        chin=shape[1] + between(-0.02, 0.03),
        jaw=shape[2] * between(0.9, 1.1),
        ear_size=between(0.7, 1.4),
        eye_size=between(0.085, 0.13) + 0.01 * woman,
        eye_spacing=between(0.165, 0.215),
        eye_height=between(-0.10, -0.01),
        eye_tilt=between(-0.22, 0.22),
        brow_thickness=between(0.02, 0.04) if woman else between(0.03, 0.07),
        brow_slant=between(-0.3, 0.3),
        nose_width=between(0.045, 0.12),
        nose_length=between(0.13, 0.22),
        mouth_width=between(0.13, 0.22),
        mouth_height=between(0.27, 0.33),
        lips=between(0.03, 0.06) if woman else between(0.015, 0.035),
        seed=seed,
    )


def sample_context(seed: int, **fixed: object) -> Context:
    """A random context; keyword arguments fix fields (`style="photo"`)."""
    rng = np.random.default_rng([seed, 2])
    pick, between = rng.choice, rng.uniform
    free: dict[str, object] = {
        "expression": str(pick(ATTRIBUTES["expression"])),
        "glasses": str(pick(ATTRIBUTES["glasses"], p=[0.6, 0.2, 0.2])),
        "hat": str(pick(ATTRIBUTES["hat"], p=[0.55, 0.15, 0.15, 0.15])),
        "hat_colour": str(pick(list(CLOTHES_COLOURS))),
        "clothes": str(pick(ATTRIBUTES["clothes"])),
        "clothes_colour": str(pick(list(CLOTHES_COLOURS))),
        "scene": str(pick(ATTRIBUTES["scene"])),
        "layout": int(rng.integers(LAYOUTS)),
        "style": str(pick(ATTRIBUTES["style"], p=[0.4, 0.2, 0.2, 0.2])),
        "yaw": between(-0.07, 0.07),
        "roll": between(-0.12, 0.12),
        "scale": between(0.94, 1.05),
        "shift": (between(-0.05, 0.05), between(-0.02, 0.04)),
        "light": between(-1, 1),
        "seed": seed,
    }
    unknown = set(fixed) - {field.name for field in fields(Context)}
    if unknown:
        raise ValueError(f"a context has no field {sorted(unknown)}")
    return Context(**{**free, **fixed})  # pyright: ignore[reportArgumentType]


def class_word(identity: Identity) -> str:
    """The word for what somebody is, "man" or "woman": the class word of personalisation."""
    return identity.gender


def attributes(identity: Identity, context: Context) -> dict[str, str]:
    """The value of every entry of `ATTRIBUTES`; a bald person has the hair colour of the brows."""
    return {name: getattr(identity if name in IDENTITY_ATTRIBUTES else context, name) for name in ATTRIBUTES}


def hidden_attributes(context: Context) -> set[str]:
    """Attributes that nobody could tell from a picture in this context, however well it is drawn."""
    hidden = set()
    if context.glasses == "sunglasses":
        hidden.add("eye_colour")
    if context.hat in ("beanie", "top hat"):
        hidden.add("hair_style")  # what is short, spiky or bald above looks the same under it
    return hidden


def example_pictures(seed: int, count: int = 4, size: int = 128) -> list[Portrait]:
    """Pictures as somebody might bring them: bareheaded photos in different scenes and clothes."""
    identity = sample_identity(seed)
    scenes = np.random.default_rng([seed, 3]).permutation(ATTRIBUTES["scene"])
    expressions = ("smiling", "neutral", "smiling", "surprised")
    contexts = [
        sample_context(
            seed * 64 + index, style="photo", hat="none", glasses="none",
            scene=str(scenes[index % len(scenes)]), expression=expressions[index % len(expressions)],
        )
        for index in range(count)
    ]  # fmt: skip
    return [render(identity, context, size) for context in contexts]


# ------------------------------------------------------------------------------------------------- captions

STYLE_WORDS = {
    "photo": ("a photo of", "a portrait photo of"),
    "sketch": ("a pencil sketch of", "a sketch of"),
    "poster": ("a pop art poster of", "a poster of"),
    "watercolor": ("a watercolor painting of", "a watercolor of"),
}
SCENE_WORDS = {
    "plain": "plain background", "beach": "on a beach", "forest": "in a forest", "city": "in a city at night",
    "mountains": "in snowy mountains", "space": "in space",
}  # fmt: skip
BEARD_WORDS = {"mustache": "a mustache", "goatee": "a goatee", "full": "a full beard"}
GLASSES_WORDS = {"round": "round glasses", "sunglasses": "sunglasses"}
HAT_WORDS = {"beanie": "a beanie", "top hat": "a top hat", "crown": "a crown"}


def caption(identity: Identity, context: Context, rng: np.random.Generator | None = None) -> str:
    """A sentence that describes the portrait; with `rng` some facts are left out at random."""

    def keep(probability: float) -> bool:
        return rng is None or rng.random() < probability

    def one_of(choices: Sequence[str]) -> str:
        return choices[0] if rng is None else str(rng.choice(choices))

    text = f"{one_of(STYLE_WORDS[context.style])} a "
    if context.expression != "neutral" and keep(0.8):
        text += f"{context.expression} "
    text += identity.gender if keep(0.9) else "person"
    looks = identity_phrases(identity, keep)
    if looks:
        text += " with " + " and ".join(looks)
    return text + context_phrase(context, keep)


def altered_caption(identity: Identity, context: Context, name: str, value: str) -> str:
    """The full caption of the portrait with one attribute said differently."""
    if name in IDENTITY_ATTRIBUTES:
        return caption(replace(identity, **{name: value}), context)
    return caption(identity, replace(context, **{name: value}))


def stated_attributes(identity: Identity) -> list[str]:
    """The attributes that a full caption of this person states (a bald head has no hair colour)."""
    return [name for name in ATTRIBUTES if not (name == "hair_colour" and identity.hair_style == "bald")]


def identity_phrases(identity: Identity, keep) -> list[str]:
    """What a caption says about the person, each fact kept with its own probability."""
    phrases = []
    if keep(0.7):
        style = (
            f"{identity.hair_colour} {identity.hair_style} hair"
            if keep(0.85)
            else f"{identity.hair_colour} hair"
        )
        phrases.append("a bald head" if identity.hair_style == "bald" else style)
    if identity.beard != "none" and keep(0.65):
        phrases.append(BEARD_WORDS[identity.beard])
    if keep(0.35):
        phrases.append(f"{identity.skin} skin")
    if keep(0.35):
        phrases.append(f"{identity.eye_colour} eyes")
    if identity.freckles != "none" and keep(0.5):
        phrases.append("freckles")
    return phrases


def context_phrase(context: Context, keep=lambda probability: True) -> str:
    """What a caption says about clothes and scene: ", wearing ..., on a beach"."""
    worn = []
    if context.glasses != "none" and keep(0.9):
        worn.append(GLASSES_WORDS[context.glasses])
    if context.hat != "none" and keep(0.9):
        worn.append(HAT_WORDS[context.hat])
    if keep(0.7):
        worn.append(f"a {context.clothes_colour} {context.clothes}")
    text = ", wearing " + " and ".join(worn) if worn else ""
    return text + (f", {SCENE_WORDS[context.scene]}" if keep(0.8) else "")


TEST_CONTEXTS: tuple[dict[str, str], ...] = (
    {
        "style": "photo",
        "expression": "smiling",
        "clothes": "hoodie",
        "clothes_colour": "red",
        "scene": "beach",
    },
    {"style": "photo", "hat": "top hat", "clothes": "suit", "clothes_colour": "black", "scene": "city"},
    {"style": "photo", "hat": "crown", "clothes": "shirt", "clothes_colour": "purple", "scene": "mountains"},
    {"style": "photo", "glasses": "round", "clothes": "shirt", "clothes_colour": "yellow", "scene": "forest"},
    {"style": "photo", "expression": "sad", "clothes": "hoodie", "clothes_colour": "blue", "scene": "space"},
    {
        "style": "watercolor",
        "expression": "smiling",
        "clothes": "shirt",
        "clothes_colour": "green",
        "scene": "forest",
    },
    {
        "style": "poster",
        "expression": "surprised",
        "clothes": "suit",
        "clothes_colour": "white",
        "scene": "city",
    },
    {"style": "sketch", "hat": "beanie", "clothes": "hoodie", "clothes_colour": "black", "scene": "plain"},
)


def test_context(index: int, seed: int = 0) -> Context:
    """The `index`-th test context with random pose and light (by `seed`)."""
    plain = {"glasses": "none", "hat": "none", "expression": "neutral"}
    return sample_context(9_000_000 + seed * len(TEST_CONTEXTS) + index, **{**plain, **TEST_CONTEXTS[index]})


def test_prompts(subject: str) -> list[tuple[str, dict[str, str]]]:
    """Prompts that put `subject` ("a man", "<v0>") into scenes, each with the attributes that it asks for."""
    prompts = []
    for index, asked in enumerate(TEST_CONTEXTS):
        who = subject if "expression" not in asked else _with_adjective(subject, asked["expression"])
        words = context_phrase(test_context(index))
        prompts.append((f"{STYLE_WORDS[asked['style']][0]} {who}{words}", dict(asked)))
    return prompts


def _with_adjective(subject: str, adjective: str) -> str:
    article, _, noun = subject.rpartition("a ")
    return f"{article}a {adjective} {noun}" if subject.startswith("a ") else f"a {adjective} {subject}"


# ------------------------------------------------------------------------------------------------- drawing


def _jitter(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + rng.uniform(-spread, spread, 3), 0, 255)
    return float(red), float(green), float(blue)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (a * (1 - share) + b * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def _shade(colour: Colour, factor: float) -> Colour:
    return _mix(colour, (0, 0, 0), 1 - factor) if factor <= 1 else _mix(colour, (255, 255, 255), factor - 1)


def _ellipse(
    x: float, y: float, width: float, height: float, tilt: float = 0.0, start=0.0, end=2 * math.pi
) -> Points:
    angle = np.linspace(start, end, 24)
    across, down = width * np.cos(angle), height * np.sin(angle)
    return np.stack(
        [
            x + across * math.cos(tilt) - down * math.sin(tilt),
            y + across * math.sin(tilt) + down * math.cos(tilt),
        ],
        1,
    )


def _curve(points: Sequence[tuple[float, float]], closed: bool = True, steps: int = 6) -> Points:
    """A Catmull-Rom spline through `points`."""
    knots = np.asarray(points, float)
    knots = np.vstack([knots[-1:], knots, knots[:2]] if closed else [knots[:1], knots, knots[-1:]])
    before, start, end, after = (knots[k : len(knots) - 3 + k, None] for k in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    quadratic = 2 * before - 5 * start + 4 * end - after
    cubic = 3 * start - before - 3 * end + after
    spline = 0.5 * (2 * start + (end - before) * t + quadratic * t * t + cubic * t**3)
    return np.vstack([spline.reshape(-1, 2), knots[-2:-1]])


def _mirror(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Completes the right half of an outline, given from top to bottom, with its mirror image."""
    return [*points, *((-x, y) for x, y in reversed(points))]


class _Canvas:
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

    def place(self, points: Points, depth: float) -> Points:
        """Moves head coordinates into the picture: yaw by depth, then scale, roll about the neck, shift."""
        pose = self.context
        x, y = points[:, 0] + pose.yaw * depth, points[:, 1] - 0.6
        x, y = x * pose.scale, y * pose.scale
        cos, sin = math.cos(pose.roll), math.sin(pose.roll)
        return np.stack([x * cos - y * sin + pose.shift[0], x * sin + y * cos + 0.6 + pose.shift[1]], 1)

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        return [(x, y) for x, y in ((points + 1) * self.half).tolist()]

    def fill(self, points: Points, colour: Colour, part: str | None = None, depth=0.0, outline=True) -> None:
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
        self, points: Points, colour: Colour, width: float, part: str | None = None, depth=0.0
    ) -> None:
        """A line of the head or body, `width` in picture half-widths."""
        corners = self.pixels(self.place(np.asarray(points, float), depth))
        thick = max(1, round(width * self.half * self.context.scale))
        self._draw.line(corners, fill=self.ink(colour), width=thick, joint="curve")
        if part:
            self._label.line(corners, fill=PART_ID[part], width=thick)

    def backdrop(self, points: Points, colour: Colour) -> None:
        """A polygon of the scene: it does not move with the pose."""
        self._draw.polygon(self.pixels(np.asarray(points, float)), fill=self.ink(colour))

    def ink(self, colour: Colour, raw: bool = False) -> tuple[int, int, int]:
        """The colour as the art style renders it."""
        style = "raw" if raw else self.context.style
        grey = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
        if style == "sketch":  # coloured pencil: pale, half of the colour left
            colour = _mix(_mix((grey, grey, grey), colour, 0.5), (246, 244, 238), 0.3)
        elif style == "poster":
            colour = _mix((grey, grey, grey), colour, 1.4)
        elif style == "watercolor":
            colour = _mix(colour, (255, 250, 240), 0.28)
        red, green, blue = (int(min(255, max(0, channel))) for channel in colour)
        return red, green, blue


def render(identity: Identity, context: Context, size: int = 128) -> Portrait:
    """Draws `identity` in `context` as a `size` x `size` picture with exact part labels and landmarks."""
    canvas = _Canvas(context, size)
    _draw_scene(canvas)
    _draw_hair_behind(canvas, identity)
    _draw_body(canvas, identity)
    _draw_head(canvas, identity)
    _draw_beard(canvas, identity)
    _draw_eyes(canvas, identity)
    _draw_nose(canvas, identity)
    _draw_mouth(canvas, identity)
    _draw_hair_front(canvas, identity)
    _draw_glasses(canvas, identity)
    _draw_hat(canvas, identity)
    labels = np.asarray(canvas.parts.resize((size, size), Image.Resampling.NEAREST))
    return Portrait(pixels=_finish(canvas, labels), labels=labels, landmarks=_landmarks(canvas, identity))


def _landmarks(canvas: _Canvas, who: Identity) -> NDArray[np.float32]:
    nose_y = who.eye_height + who.nose_length + 0.06
    near = np.array([[-who.eye_spacing, who.eye_height], [who.eye_spacing, who.eye_height]])
    nose = np.array([[0.0, nose_y]])
    mouth = np.array([[-who.mouth_width, who.mouth_height], [who.mouth_width, who.mouth_height]])
    placed = [canvas.place(near, 0.55), canvas.place(nose, 0.75), canvas.place(mouth, 0.6)]
    return ((np.vstack(placed) + 1) * canvas.size / 2).astype(np.float32)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _gradient(canvas: _Canvas, top: Colour, bottom: Colour, start=-1.0, end=1.0, bands: int = 12) -> None:
    for band in range(bands):
        upper, lower = (start + (end - start) * (band + k) / bands for k in (0, 1))
        canvas.backdrop(_box(-1, upper, 1, lower + 0.02), _mix(top, bottom, band / (bands - 1)))


def _draw_scene(canvas: _Canvas) -> None:
    rng = np.random.default_rng([canvas.context.seed, 4])
    side = (-1, 1, 1)[canvas.context.layout]
    SCENES[canvas.context.scene](canvas, rng, side, canvas.context.layout)


def _scene_plain(canvas: _Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    base = [(216, 190, 156), (150, 186, 196), (198, 170, 198)][layout]
    _gradient(canvas, _shade(base, 1.15), _shade(base, 0.85))


def _scene_beach(canvas: _Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    horizon = (-0.05, 0.05, 0.15)[layout]
    _gradient(canvas, (112, 192, 244), (206, 236, 248), -1, horizon)
    canvas.backdrop(_ellipse(side * 0.72, -0.72, 0.17, 0.17), (255, 232, 110))
    canvas.backdrop(_box(-1, horizon, 1, horizon + 0.42), (36, 132, 196))
    canvas.backdrop(_box(-1, horizon + 0.4, 1, 1), (244, 216, 150))
    if layout != 1:
        canvas.backdrop(
            _curve([(-side * 0.92, -0.3), (-side * 0.84, -0.3), (-side * 0.78, 0.6), (-side * 0.9, 0.6)]),
            (132, 90, 48),
        )
        for angle in (-2.7, -2.0, -1.1, -0.4, 0.3):
            x, y = -side * 0.88 + 0.2 * math.cos(angle), -0.32 + 0.18 * math.sin(angle)
            canvas.backdrop(_ellipse(x, y, 0.24, 0.07, angle), (38, 140, 66))


def _scene_forest(canvas: _Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    _gradient(canvas, (186, 222, 164), (112, 166, 104), -1, 0.5)
    canvas.backdrop(_box(-1, 0.4, 1, 1), (72, 114, 54))
    for x in (-0.9, -0.55, 0.55, 0.9) if layout else (-0.95, -0.65, -0.3, 0.3, 0.7):
        x, height = x + rng.uniform(-0.06, 0.06), rng.uniform(1.1, 1.4)
        canvas.backdrop(_box(x - 0.05, 0.3, x + 0.05, 0.6), (92, 62, 38))
        for tier in range(3):
            width, base = 0.3 - 0.06 * tier, 0.4 - height * 0.27 * tier
            canvas.backdrop(
                np.array([(x - width, base), (x + width, base), (x, base - height * 0.4)]),
                (30, 96 + 12 * tier, 50),
            )


def _scene_city(canvas: _Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    _gradient(canvas, (22, 20, 66), (132, 66, 124), -1, 0.6)
    canvas.backdrop(_ellipse(side * 0.45, -0.8, 0.12, 0.12), (252, 244, 206))
    for column in range(6):
        left, top = -1 + column / 3, rng.uniform(-0.65, -0.1) + 0.15 * layout
        canvas.backdrop(_box(left, top, left + 0.31, 1), (38, 36, 72))
        for window in range(6):
            x, y = left + 0.06 + 0.13 * (window % 2), top + 0.1 + 0.2 * (window // 2)
            canvas.backdrop(_box(x, y, x + 0.07, y + 0.1), (255, 220, 118))


def _scene_mountains(canvas: _Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    _gradient(canvas, (140, 184, 240), (234, 242, 252), -1, 0.3)
    peaks = [((-0.75, 1.15), (0.75, 1.0)), ((-0.6, 0.9), (0.7, 1.25)), ((-0.9, 1.2), (0.45, 1.1))][layout]
    for x, height in peaks:
        top = 0.5 - height
        canvas.backdrop(np.array([(x - 0.7, 0.55), (x, top), (x + 0.7, 0.55)]), (104, 118, 150))
        canvas.backdrop(
            np.array([(x - 0.22, top + height * 0.32), (x, top), (x + 0.22, top + height * 0.32)]),
            (252, 252, 255),
        )
    canvas.backdrop(_box(-1, 0.45, 1, 1), (238, 244, 250))


def _scene_space(canvas: _Canvas, rng: np.random.Generator, side: int, layout: int) -> None:
    _gradient(canvas, (10, 8, 36), (46, 20, 78))
    for x, y in rng.uniform(-1, 1, (24, 2)):
        canvas.backdrop(_ellipse(x, y, 0.018, 0.018), (255, 255, 228))
    height = (-0.6, -0.55, 0.1)[layout]
    canvas.backdrop(_ellipse(side * 0.74, height, 0.22, 0.22), (226, 138, 74))
    canvas.backdrop(_ellipse(side * 0.74, height, 0.36, 0.05, -0.35), (246, 216, 162))


SCENES = {
    "plain": _scene_plain, "beach": _scene_beach, "forest": _scene_forest, "city": _scene_city,
    "mountains": _scene_mountains, "space": _scene_space,
}  # fmt: skip

CROWN = -0.62  # top of the skull
SKULL = -0.2  # height at which the skull is widest


def _face_outline(who: Identity, grow: float = 0.0) -> Points:
    """Half an ellipse above the widest line, a superellipse below it whose exponent makes the jaw."""
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    below = sin > 0
    exponent = np.where(below, who.jaw, 0.9)
    x = (who.face_width + grow) * np.sign(cos) * np.abs(cos) ** exponent
    y = np.where(below, (who.chin - SKULL + grow) * sin, (SKULL - CROWN + grow) * sin)
    return np.stack([x, SKULL + y], 1)


def _draw_hair_behind(canvas: _Canvas, who: Identity) -> None:
    colour, width, volume = (
        _shade(who.hair_rgb, 0.82),
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
        canvas.fill(_curve(_mirror(half)), colour, "hair", -0.3)
    elif who.hair_style == "bob":
        half = [
            (0, -0.70),
            (width * 0.7, -0.60),
            (width + 0.02, -0.2),
            (width + 0.1, 0.2),
            (width + 0.06, 0.38),
            (width * 0.4, 0.36),
        ]
        canvas.fill(_curve(_mirror(half)), colour, "hair", -0.3)
    elif who.hair_style == "curly":
        for angle in np.linspace(-math.pi * 1.22, math.pi * 0.22, 11):
            x, y = (who.face_width + 0.04) * math.cos(angle), -0.26 + 0.42 * math.sin(angle)
            canvas.fill(_ellipse(x, y, 0.17 * volume, 0.17 * volume), who.hair_rgb, "hair", -0.2)
        canvas.fill(_ellipse(0, -0.3, who.face_width, 0.42), who.hair_rgb, "hair", -0.2, outline=False)
    elif who.hair_style == "bun":
        canvas.fill(_ellipse(0.1 * who.parting, -0.80, 0.19 * volume, 0.17 * volume), colour, "hair", -0.1)


def _draw_body(canvas: _Canvas, who: Identity) -> None:
    context = canvas.context
    colour = CLOTHES_COLOURS[context.clothes_colour]
    neck = 0.17 if who.gender == "woman" else 0.23
    shoulders = 0.78 if who.gender == "woman" else 0.92
    canvas.fill(_box(-neck, 0.3, neck, 0.85), _shade(who.skin_colour, 0.8), "neck", 0.1)
    half = [(0, 0.78), (neck, 0.68), (0.45, 0.74), (shoulders, 0.88), (shoulders + 0.1, 1.4)]
    canvas.fill(_curve(_mirror(half)), colour, "clothes")
    trim = _shade(colour, 0.72) if sum(colour) > 200 else _shade(colour, 1.3)
    if context.clothes == "hoodie":
        for side in (-1, 1):
            canvas.fill(
                _curve([(side * neck, 0.6), (side * (neck + 0.18), 0.68), (side * 0.22, 0.9),
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
        canvas.stroke(_curve([(-neck, 0.68), (0, 0.8), (neck, 0.68)], closed=False), trim, 0.05, "clothes")


def _draw_head(canvas: _Canvas, who: Identity) -> None:
    skin = who.skin_colour
    for side in (-1, 1):
        x = side * (who.face_width + 0.01)
        canvas.fill(
            _ellipse(x, -0.02, 0.065 * who.ear_size, 0.1 * who.ear_size), _shade(skin, 0.92), "ear", -0.1
        )
    canvas.fill(_face_outline(who), skin, "skin", 0.15)
    if who.freckles != "none":
        rng = np.random.default_rng([who.seed, 5])
        for x, y in rng.uniform((0.08, 0.06), (0.32, 0.2), (7, 2)):
            for side in (-1, 1):
                canvas.fill(_ellipse(side * x, y, 0.017, 0.017), _shade(skin, 0.66), None, 0.5, outline=False)
    if who.mole:
        canvas.fill(_ellipse(who.mole, 0.22, 0.026, 0.026), _shade(skin, 0.35), None, 0.5, outline=False)


def _draw_beard(canvas: _Canvas, who: Identity) -> None:
    colour, mouth, width = _shade(who.hair_rgb, 0.9), who.mouth_height, who.mouth_width
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
        canvas.fill(np.vstack([below[order], _curve(inner, closed=False)]), colour, "beard", 0.2)
    elif who.beard == "goatee":
        half = [(0, mouth + 0.05), (0.13, mouth + 0.03), (0.13, who.chin - 0.02), (0.06, who.chin + 0.07)]
        canvas.fill(_curve(_mirror(half)), colour, "beard", 0.35)
    if who.beard in ("mustache", "full"):
        half = [
            (0, mouth - 0.1),
            (width * 0.8, mouth - 0.07),
            (width * 1.25, mouth + 0.03),
            (width * 0.6, mouth - 0.015),
            (0, mouth - 0.03),
        ]
        canvas.fill(_curve(_mirror(half)), _shade(colour, 0.85), "beard", 0.45)


def _draw_eyes(canvas: _Canvas, who: Identity) -> None:
    expression, size, y = canvas.context.expression, who.eye_size, who.eye_height
    openness = {"surprised": 1.0, "smiling": 0.68, "sad": 0.7, "neutral": 0.8}[expression]
    brow_colour = _mix(_shade(who.hair_rgb, 0.7), (40, 28, 24), 0.3)
    raised = {"surprised": 0.09, "sad": 0.03}.get(expression, 0.0)
    for side in (-1, 1):
        x, tilt = side * who.eye_spacing, side * who.eye_tilt
        canvas.fill(_ellipse(x, y, size, size * openness, tilt), (252, 250, 248), "eye", 0.55, outline=False)
        iris = min(size * 0.66, size * openness * 0.95)
        centre = x + canvas.context.yaw * 0.35
        canvas.fill(_ellipse(centre, y, iris, iris), EYE_COLOURS[who.eye_colour], "eye", 0.55, outline=False)
        canvas.fill(_ellipse(centre, y, iris * 0.45, iris * 0.45), (16, 12, 14), "eye", 0.55, outline=False)
        lid = _ellipse(x, y, size * 1.04, size * openness * 1.04, tilt, math.pi, 2 * math.pi)
        canvas.stroke(lid, (34, 24, 26), 0.035 if who.gender == "woman" else 0.022, "eye", 0.55)
        slant = who.brow_slant + (0.55 if expression == "sad" else 0.0)
        height = y - size - 0.055 - raised
        brow = [
            (x - side * size, height - slant * 0.07),
            (x, height - 0.03),
            (x + side * size * 1.15, height + slant * 0.1),
        ]
        canvas.stroke(_curve(brow, closed=False), brow_colour, who.brow_thickness, "brow", 0.5)


def _draw_nose(canvas: _Canvas, who: Identity) -> None:
    tip, width = who.eye_height + who.nose_length + 0.06, who.nose_width
    half = [(0.015, tip - who.nose_length), (0.03, tip - 0.06), (width, tip), (width * 0.6, tip + 0.035)]
    canvas.fill(_curve(_mirror(half)), _shade(who.skin_colour, 0.9), "nose", 0.75, outline=False)
    under = [(-width, tip), (-width * 0.5, tip + 0.035), (width * 0.5, tip + 0.035), (width, tip)]
    canvas.stroke(_curve(under, closed=False), _shade(who.skin_colour, 0.6), 0.022, "nose", 0.75)


def _draw_mouth(canvas: _Canvas, who: Identity) -> None:
    expression, y, width, lips = canvas.context.expression, who.mouth_height, who.mouth_width, who.lips
    colour = _mix(who.skin_colour, (196, 40, 56), 0.7 if who.gender == "woman" else 0.42)
    if expression == "surprised":
        canvas.fill(_ellipse(0, y + 0.03, width * 0.5 + 0.02, 0.11), colour, "mouth", 0.6, outline=False)
        canvas.fill(
            _ellipse(0, y + 0.03, width * 0.5 - 0.015, 0.08), (74, 20, 28), "mouth", 0.6, outline=False
        )
    elif expression == "smiling":
        top = _curve([(-width * 1.15, y - 0.05), (0, y - 0.005), (width * 1.15, y - 0.05)], closed=False)
        bottom = _curve([(width * 0.75, y + 0.06), (0, y + 0.105), (-width * 0.75, y + 0.06)], closed=False)
        canvas.fill(np.vstack([top, bottom]), colour, "mouth", 0.6, outline=False)
        teeth = _curve(
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
        canvas.fill(_curve(corners), colour, "mouth", 0.6, outline=False)
        line = [(-width, y + bend), (0, y - bend * 0.4), (width, y + bend)]
        canvas.stroke(_curve(line, closed=False), _shade(colour, 0.5), 0.022, "mouth", 0.6)


def _draw_hair_front(canvas: _Canvas, who: Identity) -> None:
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
    shape = np.vstack([_curve(outer, closed=False), _curve(inner, closed=False)])
    canvas.fill(shape, who.hair_rgb, "hair", 0.1, outline=who.hair_style != "spiky")


def _draw_glasses(canvas: _Canvas, who: Identity) -> None:
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
            canvas.fill(_curve(half), (30, 32, 44), "glasses", 0.62)
        else:
            canvas.stroke(_ellipse(x, y, radius, radius), frame, 0.04, "glasses", 0.62)
        canvas.stroke(
            np.array([(x + side * radius, y), (side * (who.face_width + 0.02), y - 0.03)]),
            frame,
            0.035,
            "glasses",
            0.4,
        )
    canvas.stroke(np.array([(-0.04, y - 0.02), (0.04, y - 0.02)]), frame, 0.04, "glasses", 0.65)


def _draw_hat(canvas: _Canvas, who: Identity) -> None:
    kind, width = canvas.context.hat, who.face_width + 0.09
    colour = CLOTHES_COLOURS[canvas.context.hat_colour]
    if kind == "beanie":
        half = [(0, -0.92), (width * 0.8, -0.74), (width, -0.38)]
        canvas.fill(
            np.vstack([_curve(_mirror(half)[3:] + _mirror(half)[:3], closed=False)]), colour, "hat", 0.05
        )
        canvas.fill(_box(-width - 0.02, -0.48, width + 0.02, -0.32), _shade(colour, 0.72), "hat", 0.05)
    elif kind == "top hat":
        canvas.fill(_box(-width * 0.78, -1.08, width * 0.78, -0.44), (36, 34, 42), "hat", 0.05)
        canvas.fill(_box(-width * 0.79, -0.58, width * 0.79, -0.46), (190, 36, 48), "hat", 0.05)
        canvas.fill(_ellipse(0, -0.43, width * 1.3, 0.09), (36, 34, 42), "hat", 0.05)
    elif kind == "crown":
        half = [(0, -0.98), (0.18, -0.72), (0.42, -0.95), (0.38, -0.48)]
        canvas.fill(np.array(_mirror(half)), (246, 202, 58), "hat", 0.05)
        for x, jewel in ((-0.22, (206, 44, 60)), (0.0, (50, 96, 210)), (0.22, (206, 44, 60))):
            canvas.fill(_ellipse(x, -0.58, 0.05, 0.05), jewel, "hat", 0.05, outline=False)


def _finish(canvas: _Canvas, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The art style's treatment of the whole picture."""
    context, size = canvas.context, canvas.size
    rng = np.random.default_rng([context.seed, 6])
    pixels = np.asarray(canvas.image.reduce(canvas.oversample), np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (2 / size) - 1
    if context.style == "photo":
        head = np.isin(labels, [PART_ID[part] for part in (*FACE_PARTS, "hair", "ear", "hat")])
        shade = 1.04 - 0.22 * np.clip(x * -context.light * 0.9 + 0.3 * (x * x + y * y), -0.6, 1)
        pixels = pixels * np.where(head, shade, 1.0)[..., None] + rng.normal(0, 1.5, (size, size, 1))
    elif context.style == "sketch":
        pixels = pixels * (1.0 - 0.06 * (x * x + y * y)[..., None])
    elif context.style == "watercolor":
        soft = canvas.image.reduce(canvas.oversample).filter(ImageFilter.GaussianBlur(size / 200))
        blots = Image.fromarray(rng.integers(0, 255, (7, 7), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        wash = (np.asarray(blots, np.float32) / 255 - 0.5)[..., None]
        edge = np.clip((np.maximum(np.abs(x), np.abs(y))[..., None] - 0.9 + wash * 0.12) / 0.08, 0, 1)
        pixels = (np.asarray(soft, np.float32) + wash * 30) * (1 - edge) + np.array([253, 250, 243]) * edge
    return np.clip(pixels, 0, 255).astype(np.uint8)
