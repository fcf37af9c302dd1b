"""Who there is and where they may stand: attributes, identities and contexts, all by seed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]

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
class Character:
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
    beard_rgb: Colour | None = None  # of beard and brows; None: the hair's, as everybody has it from birth

    @property
    def facial_hair_rgb(self) -> Colour:
        """The colour that beard and brows are drawn with."""
        return self.beard_rgb or self.hair_rgb


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


def sample_identity(seed: int) -> Character:
    """The person number `seed`; the same number always gives the same person."""
    rng = np.random.default_rng([seed, 1])
    pick, between = rng.choice, rng.uniform
    gender = str(pick(ATTRIBUTES["gender"]))
    woman = gender == "woman"
    skin, hair = str(pick(list(SKINS))), str(pick(list(HAIR_COLOURS)))
    style_odds = [0, 0.06, 0.04, 0.2, 0.3, 0.2, 0.2] if woman else [0.17, 0.33, 0.25, 0.15, 0.1, 0, 0]
    shape = FACE_SHAPES[str(pick(list(FACE_SHAPES)))]
    return Character(
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


def class_word(identity: Character) -> str:
    """The word for what somebody is, "man" or "woman": the class word of personalisation."""
    return identity.gender


def attributes(identity: Character, context: Context) -> dict[str, str]:
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


def _jitter(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + rng.uniform(-spread, spread, 3), 0, 255)
    return float(red), float(green), float(blue)
