"""What is said about portraits: captions, and the test prompts with what they ask for."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .people import ATTRIBUTES, IDENTITY_ATTRIBUTES, Character, Context, sample_context

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


def caption(identity: Character, context: Context, rng: np.random.Generator | None = None) -> str:
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


def altered_caption(identity: Character, context: Context, name: str, value: str) -> str:
    """The full caption of the portrait with one attribute said differently."""
    if name in IDENTITY_ATTRIBUTES:
        return caption(replace(identity, **{name: value}), context)
    return caption(identity, replace(context, **{name: value}))


def stated_attributes(identity: Character) -> list[str]:
    """The attributes that a full caption of this person states (a bald head has no hair colour)."""
    return [name for name in ATTRIBUTES if not (name == "hair_colour" and identity.hair_style == "bald")]


def identity_phrases(identity: Character, keep) -> list[str]:
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
