"""The instrument catches what is broken: strangers instead of the person, zero LoRAs, shuffled words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.bench.claims.bench import Arm, Bench, Claim
from likeness_portraits.engine.bench.claims.broken import Broken, with_shuffled_tokens, without_lora
from likeness_portraits.engine.bench.claims.run import run_claims
from likeness_portraits.engine.bench.claims.table import Plan
from likeness_portraits.engine.miniature import world


def learned() -> Artifact:
    return Artifact(
        kind="lora",
        method="dreambooth-lora",
        tensors={
            "lora_unet_a.lora_down.weight": torch.ones(2, 3),
            "lora_unet_a.lora_up.weight": torch.ones(4, 2),
            "lora_unet_a.alpha": torch.tensor(2.0),
            "token.v0.clip_l": torch.arange(16.0).reshape(2, 8),
        },
        tokens=(Token(token="<v0>", class_word="man", role="subject", vectors=2),),
    )


def test_a_zero_lora_keeps_its_words_and_changes_nothing_else():
    broken = without_lora(learned())
    assert not broken.tensors["lora_unet_a.lora_up.weight"].any()
    assert torch.equal(broken.tensors["token.v0.clip_l"], learned().tensors["token.v0.clip_l"])
    assert learned().tensors["lora_unet_a.lora_up.weight"].all()


def test_shuffled_words_keep_their_length_and_lose_their_order():
    own, broken = learned().rows("<v0>")["clip_l"], with_shuffled_tokens(learned()).rows("<v0>")["clip_l"]
    assert not torch.equal(own, broken)
    assert torch.equal(own.sort(1).values, broken.sort(1).values)


class Renderer:
    """Arms that need no network: the renderer draws the person, a stranger, or a training picture again."""

    name, paper = "renderer", "none"
    arms = tuple(Arm(name=name) for name in ("person", "stranger", "copy"))
    claims = (
        Claim(claim="who", method="person", against="stranger", metric="identity"),
        Claim(claim="who, second judge", method="person", against="stranger", metric="identity_training"),
        Claim(claim="a stranger is as good", method="stranger", against="person", metric="identity"),
        Claim(claim="obeys", method="person", against="copy", metric="prompt"),
        Claim(claim="is in the prompt's place", method="person", against="copy", metric="text"),
        Claim(claim="copies", method="copy", against="person", metric="memorisation"),
        Claim(claim="brings its place along", method="copy", against="person", metric="leakage"),
        Claim(claim="is always the same", method="copy", against="person", metric="diversity",
              better="lower"),
    )  # fmt: skip

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench):
        concept, shots = bench.person(person), bench.shots("<v0>")
        if arm.name == "copy":
            one = concept.pictures[0].pixels
            return bench.score(np.stack([one] * len(shots)), shots, np.stack([one] * 4), concept)
        who = world.sample_identity(person + 50 * (arm.name == "stranger"))
        asked = [world.render(who, world.test_context(number)).pixels for number in range(len(shots))]
        free = [world.render(who, world.sample_context(person * 7 + number)).pixels for number in range(4)]
        return bench.score(np.stack(asked), shots, np.stack(free), concept)


def test_strangers_copies_and_disobedience_are_seen_by_the_rows_meant_for_them(tmp_path: Path):
    rows = run_claims([Renderer()], Plan(people=6), Bench(tmp_path, quick=True))
    held = {row.claim.claim: row.holds for row in rows}
    assert held.pop("a stranger is as good") is False
    assert all(held.values()), held


def test_the_detector_finds_faces_and_nothing_in_noise(tmp_path: Path):
    bench = Bench(tmp_path)
    faces = np.stack([picture.pixels for picture in bench.person(world.TUNING_SEEDS[0]).pictures])
    noise = np.random.default_rng(0).integers(0, 255, faces.shape, dtype=np.uint8)
    assert bench.portrait_judges.detect(faces).all()
    assert not bench.portrait_judges.detect(noise).any()


@pytest.mark.slow
def test_a_broken_training_is_caught_by_every_row_meant_for_it(tmp_path: Path):
    rows = run_claims([Broken()], Plan(people=2), Bench(tmp_path, quick=True))
    assert [row.claim.claim for row in rows if not row.holds] == []
