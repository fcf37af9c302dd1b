"""MagicTailor's claims: the component comes from its own pictures, everything else from the person's."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ...data.concepts import Concept, Picture
from ...evaluation.metrics import attributes_kept, similarity_to_references
from ...evaluation.people import EXAMPLES_EACH, HEAD, all_shots
from ...miniature import world
from .bench import Arm, Bench, Metrics, arm_of
from .written import claims_of

_WARM_UP, _BALANCE = 80, 120  # steps; all arms have their sum
_STEPS = _WARM_UP + _BALANCE
HAIR = ("hair_style", "hair_colour")
OWN = tuple(name for name in world.IDENTITY_ATTRIBUTES if name not in HAIR)
SUBJECT_PARTS = tuple(part for part in HEAD if part != "hair")
JOINT = "<v0> with <v1>"


_arm = partial(arm_of, "magictailor")


class MagicTailorClaims:
    """A person from four pictures, the hair from four pictures of somebody else, and both in one prompt."""

    name = "magictailor"
    paper = "arXiv 2410.13370"
    arms = (
        Arm(name="textual-inversion", method="textual-inversion", settings={"steps": _STEPS}),
        Arm(
            name="dreambooth-lora, masked",
            method="dreambooth-lora",
            settings={"steps": _STEPS, "masked_loss": True, "prior_weight": 0.0},
        ),
        _arm("magictailor", headline=True),
        _arm("neither", degradation="none", balancing=False),
        _arm("degradation only", balancing=False),
        _arm("balancing only", degradation="none"),
        _arm("masked out", degradation="mask out"),
        _arm("fixed degradation", degradation="fixed"),
        _arm("without joint prompts", joint_share=0.0),
        _arm("without margin", component_margin=0.0),
        _arm("compared as published", area_normalised=False, shared_timestep=False),
    )
    claims = claims_of(
        """
        The component comes from its own pictures, more than with Textual Inversion
            magictailor > textual-inversion in component
        … and more than with DreamBooth-LoRA under a masked loss
            magictailor > dreambooth-lora, masked in component
        The person with that component is recognised, more than with Textual Inversion
            magictailor > textual-inversion in identity
        … and more than with DreamBooth-LoRA under a masked loss
            magictailor > dreambooth-lora, masked in identity
        The rest stays the person's own, more than with Textual Inversion
            magictailor > textual-inversion in subject
        … and more than with DreamBooth-LoRA under a masked loss
            magictailor > dreambooth-lora, masked in subject
        Nothing but the component leaks from its pictures, against DreamBooth-LoRA
            magictailor < dreambooth-lora, masked in leakage
        Prompts are obeyed as with DreamBooth-LoRA, within 5 points
            magictailor >= dreambooth-lora, masked - 0.05 in prompt
        Degradation and balancing together recognise the person better than neither
            magictailor > neither in identity
        Dynamic degradation brings the component out
            degradation only > neither in component
        Balancing brings the component out
            balancing only > neither in component
        Dynamic degradation obeys prompts better than masking out
            magictailor > masked out in prompt
        Dynamic degradation recognises the person better than a fixed one
            magictailor > fixed degradation in identity
        Our addition: prompts that name both bring the component out
            magictailor > without joint prompts in component
        Our addition: a component learned past its edges makes the person recognised
            magictailor > without margin in identity
        Our addition: concepts compared per area and at equal noise make the person recognised
            magictailor > compared as published in identity
        """
    )

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> Metrics:
        concepts = [subject_without_hair(person), hair_of(donor(person))]
        if arm.method == "textual-inversion":  # knows one concept at a time
            learned = [bench.learn(arm.method, arm.settings, [concept], seed) for concept in concepts]
        else:
            assert arm.method is not None
            learned = [bench.learn(arm.method, arm.settings, concepts, seed)]
        used = [(artifact, 1.0) for artifact in learned]
        shots = all_shots(JOINT, (1,) if bench.quick else (1, 2))
        return scores(bench, bench.draw_shots(shots, used), [shot.asked for shot in shots], person)


def scores(
    bench: Bench, pictures: np.ndarray, asked: list[dict[str, str]], person: int
) -> Mapping[str, list[float]]:
    """Per picture (N, H, W, 3), against the person really rendered with the other's hair.

    identity: cosine by the reporting recogniser; component: share of the hair's style and colour that are
    the other's; subject: share of the person's own attributes; leakage: share of the other's remaining
    attributes, of those in which the two differ; prompt: share of what the prompt asks for.
    """
    judges, combined, other = bench.judges, with_hair_of(person, donor(person)), donor(person)
    references = judges.embed_reporting(np.stack([portrait.pixels for portrait in rendered_aim(combined)]))
    read, whose = judges.read(pictures), world.sample_identity(other)
    mine = world.sample_identity(person)
    differ = [name for name in OWN if getattr(whose, name) != getattr(mine, name)]

    def share(of: world.Character, names: tuple[str, ...] | list[str]) -> np.ndarray:
        attributes = {name: getattr(of, name) for name in names}
        return attributes_kept(read, [attributes] * len(pictures)) if names else np.zeros(len(pictures))

    by_metric = {
        "identity": similarity_to_references(judges.embed_reporting(pictures), references),
        "component": share(whose, HAIR),
        "subject": share(mine, OWN),
        "leakage": share(whose, differ),
        "prompt": attributes_kept(read, asked),
    }
    return {name: [round(float(value), 5) for value in values] for name, values in by_metric.items()}


def donor(person: int) -> int:
    """The next held-out person of the same gender whose hair has another style and another colour."""
    people = world.REPORTING_SEEDS if person in world.REPORTING_SEEDS else world.TUNING_SEEDS
    mine = world.sample_identity(person)
    for step in range(1, len(people)):
        seed = people[(person - people.start + step) % len(people)]
        who = world.sample_identity(seed)
        alike = who.hair_style == mine.hair_style or who.hair_colour == mine.hair_colour
        if who.gender == mine.gender and who.hair_style != "bald" and not alike:
            return seed
    raise AssertionError("a hundred people have several kinds of hair")


def with_hair_of(person: int, other: int) -> world.Character:
    """The person with everything about the hair of the other; beard and brows keep the person's colour."""
    mine, hair = world.sample_identity(person), world.sample_identity(other)
    names = (*HAIR, "hair_rgb", "hair_volume", "parting", "fringe")
    taken = {name: getattr(hair, name) for name in names}
    return replace(mine, beard_rgb=mine.facial_hair_rgb, **taken)


def rendered_aim(who: world.Character) -> list[world.Portrait]:
    """Somebody in the test contexts, as references."""
    return [world.render(who, world.test_context(index)) for index in range(len(world.TEST_CONTEXTS))]


def subject_without_hair(person: int) -> Concept:
    """Four pictures of a person whose masks leave the hair out, under <v0>."""
    word = world.class_word(world.sample_identity(person))
    return _concept(person, "<v0>", word, "subject", SUBJECT_PARTS)


def hair_of(person: int) -> Concept:
    """The hair of a person in four pictures, under <v1>."""
    return _concept(person, "<v1>", "hair", "component", ("hair",))


def _concept(person: int, token: str, word: str, role: str, parts: tuple[str, ...]) -> Concept:
    pictures = tuple(
        Picture(f"{number}", portrait.pixels, portrait.mask(parts))
        for number, portrait in enumerate(world.example_pictures(person, EXAMPLES_EACH))
    )
    return Concept(token=token, class_word=word, role=role, pictures=pictures)
