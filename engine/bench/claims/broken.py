"""Methods that were broken on purpose: the bench is worth something only where it catches them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ...artifact import Artifact
from ...artifact.lora import UP
from .baselines import DREAMBOOTH, TEXTUAL_INVERSION
from .bench import Arm, Bench, Claim, Metrics


def without_lora(artifact: Artifact) -> Artifact:
    """The same concept file with updates of zero; its words stay."""
    tensors = {name: torch.zeros_like(tensor) if name.endswith(UP) else tensor
               for name, tensor in artifact.tensors.items()}  # fmt: skip
    return replace(artifact, tensors=tensors)


def with_shuffled_tokens(artifact: Artifact) -> Artifact:
    """The same concept file with the numbers of each word in another order: their size, not their sense."""
    rng = np.random.default_rng(0)
    tensors = {
        name: tensor[:, torch.from_numpy(rng.permutation(tensor.shape[1]))]
        if name.startswith("token.")
        else tensor
        for name, tensor in artifact.tensors.items()
    }
    return replace(artifact, tensors=tensors)


BREAK: dict[str, Callable[[Artifact], Artifact]] = {
    "zero LoRA": without_lora,
    "shuffled tokens": with_shuffled_tokens,
}


class Broken:
    """Every claim here says that a broken method is seen to be worse than the same method left whole."""

    name = "broken"
    paper = "none: a check of this bench"
    arms = (
        Arm(name="base"),
        TEXTUAL_INVERSION,
        DREAMBOOTH,
        replace(
            TEXTUAL_INVERSION,
            name="textual-inversion, shuffled tokens",
            options={"broken": "shuffled tokens"},
        ),
        replace(DREAMBOOTH, name="dreambooth-lora, shuffled tokens", options={"broken": "shuffled tokens"}),
        replace(DREAMBOOTH, name="dreambooth-lora, zero LoRA", options={"broken": "zero LoRA"}),
    )
    claims = tuple(
        Claim(
            claim=f"{arm.method} with {arm.options['broken']} has lost its likeness",
            method=arm.name, against=str(arm.method), metric=metric, better="lower",
        )
        for arm in arms if "broken" in arm.options
        for metric in ("identity", "identity_training")
    ) + (
        Claim(
            claim="Words with shuffled numbers are no better than no words, within 0.1",
            method="textual-inversion, shuffled tokens", against="base", metric="identity",
            better="not higher", margin=0.1,
        ),
    )  # fmt: skip

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> Metrics:
        if "broken" not in arm.options:
            return bench.portrait(arm, person, seed)
        assert arm.method is not None
        concept = bench.person(person)
        learned = bench.learn(arm.method, arm.settings, [concept], seed)
        broken = BREAK[str(arm.options["broken"])](learned)
        return bench.portrait_of(concept.token, [(broken, 1.0)], concept)
