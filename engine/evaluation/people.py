"""Measures a likeness on the Miniature, where who somebody is and what a picture shows are known exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from ..bases.families import FAMILIES
from ..config import BaseSpec
from ..data.concepts import Concept, Picture
from ..errors import LikenessError
from ..inference.generate import generate
from ..miniature import world
from .metrics import accuracy_by_attribute, attributes_kept, similarity_to_references

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..bases.base import BaseModel
    from ..miniature.judges import Judges

Steps = Callable[[int, int], None]

DEMO_TOKEN = "<v0>"
EXAMPLES_EACH = 4  # that somebody brings
HEAD = (*world.FACE_PARTS, "hair", "ear", "neck")


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture to draw: its prompt, the attributes the prompt asks for, and the seed of its noise."""

    prompt: str
    asked: dict[str, str]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How pictures were judged, one number per picture (N,); identity once by each of the two recognisers."""

    identity: np.ndarray
    identity_second: np.ndarray
    prompt: np.ndarray
    by_attribute: dict[str, float]


def all_shots(subject: str, seeds: Sequence[int]) -> list[Shot]:
    """Every test prompt about `subject` ("a man", "<v0>") with every seed."""
    prompts = world.test_prompts(subject)
    return [Shot(prompt=prompt, asked=asked, seed=seed) for seed in seeds for prompt, asked in prompts]


def asked_in(prompt: str) -> dict[str, str]:
    """The context attributes that a prompt in the Miniature's words names: scene, style, hat, clothes …"""
    text, asked = f" {prompt.lower()} ", {}
    for name, phrases in _PHRASES.items():
        for value, phrase in phrases:
            if f" {phrase}" in text.replace(",", " ,"):
                asked.setdefault(name, value)
    for colour in world.CLOTHES_COLOURS:
        for clothes in world.ATTRIBUTES["clothes"]:
            if f" {colour} {clothes}" in text:
                asked |= {"clothes": clothes, "clothes_colour": colour}
    return asked


_PHRASES: dict[str, list[tuple[str, str]]] = {
    "style": [(value, phrase.removeprefix("a ")) for value, phrases in world.STYLE_WORDS.items()
              for phrase in phrases],
    "scene": list(world.SCENE_WORDS.items()),
    "hat": list(world.HAT_WORDS.items()),
    "glasses": sorted(world.GLASSES_WORDS.items(), key=lambda entry: -len(entry[1])),
    "expression": [(value, value) for value in world.ATTRIBUTES["expression"] if value != "neutral"],
}  # fmt: skip


def draw(
    base: "BaseModel",
    shots: Sequence[Shot],
    artifact: "Artifact | None" = None,
    on_step: Steps | None = None,
) -> np.ndarray:
    """The shots' pictures (N, H, W, 3) uint8, with the artifact's concept where one is given."""
    used = [] if artifact is None else [(artifact, 1.0)]
    prompts = [shot.prompt for shot in shots]
    return generate(base, prompts, artifacts=used, seed=[shot.seed for shot in shots], on_step=on_step)


def concept_of(person: int) -> Concept:
    """Four pictures of a person of the Miniature's world, with masks of the head."""
    portraits = world.example_pictures(person, EXAMPLES_EACH)
    pictures = [
        Picture(f"{index}", portrait.pixels, portrait.mask(HEAD)) for index, portrait in enumerate(portraits)
    ]
    class_word = world.class_word(world.sample_identity(person))
    return Concept(token=DEMO_TOKEN, class_word=class_word, role="subject", pictures=tuple(pictures))


def render_person(seed: int, rounds: int = 1) -> np.ndarray:
    """The person `seed` really rendered in the test contexts, `rounds` times with other poses and light."""
    who = world.sample_identity(seed)
    contexts = [
        world.test_context(index, turn) for turn in range(rounds) for index in range(len(world.TEST_CONTEXTS))
    ]
    return np.stack([world.render(who, context).pixels for context in contexts])


def evaluate_person(
    artifact: "Artifact", concept: "Concept", rounds: int = 2, on_step: Steps | None = None
) -> dict[str, Any]:
    """Means over all test prompts: with the concept, and with the base's own class word instead."""
    from ..bases.base import load_base
    from ..miniature.judges import load_judges

    if not FAMILIES[artifact.base_family].own_world or not artifact.tokens:
        raise LikenessError(
            "only concepts with a placeholder, learned on the Miniature, can be measured this way"
        )
    base, judges = load_base(BaseSpec(kind=artifact.base_family)), load_judges()
    seeds = range(1, rounds + 1)
    references = as_many_as([picture.pixels for picture in concept.pictures], base.resolution)
    before, after = all_shots(f"a {concept.class_word}", seeds), all_shots(artifact.tokens[0].token, seeds)
    half = _halves(on_step)
    scores_before = judge(draw(base, before, None, half(0)), references, before, judges)
    scores_after = judge(draw(base, after, artifact, half(1)), references, after, judges)
    return summary(scores_before, scores_after)


def summary(before: "Scores", after: "Scores") -> dict[str, Any]:
    """A report's figures: means over all pictures."""
    by_attribute = {name: round(share, 3) for name, share in after.by_attribute.items()}
    return {
        "identity_before": _mean(before.identity),
        "identity_after": _mean(after.identity),
        "prompt_accuracy": _mean(after.prompt),
        "prompt_accuracy_base": _mean(before.prompt),
        "identity_before_second_judge": _mean(before.identity_second),
        "identity_after_second_judge": _mean(after.identity_second),
        "prompt_accuracy_by_attribute": by_attribute,
    }


def as_many_as(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Pictures of any size as (N, side, side, 3): the middle square, resized."""
    return np.stack([np.asarray(ImageOps.fit(Image.fromarray(pixels), (side, side))) for pixels in pictures])


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4)


def _halves(on_step: Steps | None) -> Callable[[int], Steps | None]:
    """Progress of two equal jobs as one."""

    if on_step is None:
        return lambda number: None
    return lambda number: lambda done, total: on_step(number * total + done, 2 * total)


def judge(pictures: np.ndarray, references: np.ndarray, shots: Sequence[Shot], judges: "Judges") -> Scores:
    """Scores of pictures (N, H, W, 3) against references (M, H, W, 3) and their prompts."""
    read, asked = judges.read(pictures), [shot.asked for shot in shots]
    return Scores(
        identity=similarity_to_references(judges.embed(pictures), judges.embed(references)),
        identity_second=similarity_to_references(
            judges.embed_reporting(pictures), judges.embed_reporting(references)
        ),
        prompt=attributes_kept(read, asked),
        by_attribute=accuracy_by_attribute(read, asked),
    )
