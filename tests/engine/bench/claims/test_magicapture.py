"""MagiCapture's experiment: what it asks for, and scores that tell right from wrong pictures."""

import numpy as np
import pytest
import torch

from likeness_portraits.engine.bench.claims.bench import Bench
from likeness_portraits.engine.bench.claims.magicapture import (
    STATED,
    MagiCaptureClaims,
    attention_outside,
    composed_scores,
    composed_shots,
    leakage,
    stranger_shots,
    style_for,
    style_of,
)
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.miniature.styles import STYLES

PERSON = world.TUNING_SEEDS[1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), quick=True, sampling_steps=2)


def rendered(who: world.Character, style: str, shots) -> np.ndarray:
    contexts = [
        world.sample_context(5, **shot.asked, style=style, hat="none", glasses="none") for shot in shots
    ]
    return np.stack([world.render(who, context).pixels for context in contexts])


def test_every_claim_names_arms_of_the_experiment():
    names = {arm.name for arm in MagiCaptureClaims.arms}
    assert {name for claim in MagiCaptureClaims.claims for name in (claim.method, claim.against)} <= names
    wanted = {"without refocusing", "without composed prompts", "without both", "without identity loss"}
    assert wanted <= names


def test_the_person_in_the_style_scores_higher_than_a_stranger_or_a_photo(bench):
    shots, who = composed_shots(quick=True), world.sample_identity(PERSON)
    style = style_for(PERSON)
    right = composed_scores(bench, rendered(who, style, shots), shots, PERSON)
    stranger = rendered(world.sample_identity(PERSON + 1), style, shots)
    wrong = composed_scores(bench, stranger, shots, PERSON)
    photo = composed_scores(bench, rendered(who, "photo", shots), shots, PERSON)
    assert np.mean(right["identity"]) > np.mean(wrong["identity"]) + 0.3
    assert np.mean(right["style"]) > np.mean(photo["style"])
    assert np.mean(right["prompt"]) > 0.8


def test_strangers_differ_from_the_subject_and_leak_only_when_they_look_like_it(bench):
    shots, who = stranger_shots(PERSON, quick=True), world.sample_identity(PERSON)
    assert all(shot.asked[name] != getattr(who, name) for shot in shots for name in STATED)
    assert all(f"a <v1> of a {shot.asked['gender']} with" in shot.prompt for shot in shots)
    themselves = np.stack(
        [
            world.render(
                world.sample_identity(PERSON), world.sample_context(n, style="photo", hat="none")
            ).pixels
            for n in range(len(shots))
        ]
    )
    assert leakage(bench, themselves, shots, PERSON).mean() > 0.6


def test_attention_is_a_share_and_all_of_it_is_outside_where_there_is_no_head(bench, monkeypatch):
    shots = composed_shots(quick=True)[:1]
    from likeness_portraits.engine.artifact import Artifact, Token

    rows = {f"token.{name}.clip_l": torch.randn(1, 128) for name in ("v0", "v1")}
    words = Artifact(
        kind="embedding", method="test", tensors=rows, base_family="miniature",
        tokens=(Token(token="<v0>"), Token(token="<v1>")),
    )  # fmt: skip
    picture = rendered(world.sample_identity(PERSON), "photo", shots)
    share = attention_outside(bench, picture, shots, [(words, 1.0)])
    assert 0 < share[0] < 1
    monkeypatch.setattr(type(bench.judges), "parse", lambda self, pictures: np.zeros((1, 128, 128), np.uint8))
    assert attention_outside(bench, picture, shots, [(words, 1.0)])[0] == pytest.approx(1)


def test_style_pictures_show_strangers_in_the_style_and_masks_leave_heads_out():
    for style in STYLES:
        concept = style_of(style)
        assert concept.role == "style" and len(concept.pictures) == 5
        for picture in concept.pictures:
            assert 0.3 < picture.mask.mean() < 0.95
