"""PersonaMagic's claims: words that follow the noise level keep more of the person at the same obedience."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...artifact import Artifact
from ...data.concepts import Concept
from ...identity.adapter import encode_identity, id_adapter, miniature_adapter
from ...identity.conditioning import IdentityConditioning
from ...identity.references import OfTheMiniature, miniature_tower
from .bench import Arm, Bench, Metrics
from .written import claims_of

_STEPS = 300  # of all arms: the same number of U-Net passes


def _ablation(name: str, changes: Mapping[str, Any], headline: bool = False) -> Arm:
    return Arm(name=name, method="personamagic", settings={"steps": _STEPS, **changes}, headline=headline)


class PersonaMagicClaims:
    """One person from four pictures: against Textual Inversion, without each ingredient, and as a plug-in."""

    name = "personamagic"
    paper = "arXiv 2412.15674"
    arms = (
        Arm(name="base"),
        Arm(name="textual-inversion", method="textual-inversion", settings={"steps": _STEPS}),
        _ablation("personamagic", {}, headline=True),
        _ablation("without Tandem Equilibrium", {"balance_weight": 0.0}),
        _ablation("a single stage", {"single_stage": True}),
        _ablation("without bypass", {"bypass": False}),
        _ablation("all timesteps", {"interval": [0, 1000]}),
        Arm(name="dreambooth-lora", method="dreambooth-lora", settings={"steps": 200}, headline=False),
        Arm(
            name="personamagic on dreambooth-lora",
            method="personamagic",
            settings={"steps": _STEPS},
            options={"host": {"steps": 200}},
            also=("dreambooth-lora",),
            headline=False,
        ),
        Arm(name="identity adapter", options={"adapter": True}, headline=False),
        Arm(
            name="personamagic on an identity adapter",
            method="personamagic",
            settings={"steps": _STEPS},
            options={"adapter": True},
            headline=False,
        ),
    )
    claims = claims_of(
        """
        Staged words keep more of the person than plain words at equal steps
            personamagic > textual-inversion in identity
        … and obey prompts as well, within 5 points
            personamagic >= textual-inversion - 0.05 in prompt
        Prompts are obeyed as by the base, within 5 points
            personamagic >= base - 0.05 in prompt
        Tandem Equilibrium raises prompt accuracy
            personamagic > without Tandem Equilibrium in prompt
        … at no loss of identity, within 0.03
            personamagic >= without Tandem Equilibrium - 0.03 in identity
        Stages raise identity over one set of words for all noise levels
            personamagic > a single stage in identity
        The interval raises prompt accuracy over words at all timesteps
            personamagic > all timesteps in prompt
        The picture's bypass raises identity
            personamagic > without bypass in identity
        As a plug-in, staged words raise the identity of a LoRA
            personamagic on dreambooth-lora > dreambooth-lora in identity
        … while prompts are obeyed as before, within 5 points
            personamagic on dreambooth-lora >= dreambooth-lora - 0.05 in prompt
        As a plug-in, staged words raise the identity of an identity adapter
            personamagic on an identity adapter > identity adapter in identity
        … while prompts are obeyed as before, within 5 points
            personamagic on an identity adapter >= identity adapter - 0.05 in prompt
        """
    )

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> Metrics:
        if arm.options.get("adapter"):
            return self._on_adapter(arm, bench.person(person), seed, bench)
        host = arm.options.get("host")
        if host is None:
            return bench.portrait(arm, person, seed)
        concept = bench.person(person)
        lora = bench.train("dreambooth-lora", host, [concept], seed)
        words = replace(concept, token="<v1>")  # the LoRA's own placeholder stays free
        staged = bench.learn("personamagic", arm.settings, [words], seed, on=[lora])
        return bench.portrait_of(words.token, [(Artifact.load(lora), 1.0), (staged, 1.0)], concept)

    def _on_adapter(self, arm: Arm, concept: Concept, seed: int, bench: Bench) -> Metrics:
        """With the adapter that comes with the Miniature, which looks at as many pictures as it can."""
        adapter = id_adapter(miniature_adapter())
        prepare = OfTheMiniature()
        seen = [prepare(picture.pixels, picture.name) for picture in concept.pictures[: adapter.slots]]
        people = [IdentityConditioning(identity=encode_identity(adapter, seen, miniature_tower()))]
        if arm.method is None:
            return bench.portrait_of(f"a {concept.class_word}", [], concept, people)
        staged = bench.learn(arm.method, arm.settings, [concept], seed, people=people)
        return bench.portrait_of(concept.token, [(staged, 1.0)], concept, people)
