"""The card's figures, by hand."""

import numpy as np
import pytest

from likeness_portraits.engine.bench import card
from likeness_portraits.engine.miniature import model, world


def test_a_perfect_recogniser_scores_one():
    vectors, person = np.eye(4)[[0, 0, 1, 1, 2, 2]], np.array([0, 0, 1, 1, 2, 2])
    scores = card.recogniser_scores(vectors, person)
    assert scores == {"auc": 1.0, "tar_at_1_far": 1.0, "same_person": 1.0, "strangers": 0.0}


def test_a_recogniser_that_confuses_people_scores_low():
    vectors, person = np.eye(2)[[0, 1, 0, 1]], np.array([0, 0, 1, 1])
    assert card.recogniser_scores(vectors, person)["auc"] < 0.5


def test_two_recognisers_that_see_the_same_agree():
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    assert card.agreement(vectors, vectors) == 1.0
    assert card.agreement(vectors, -vectors) == 1.0  # cosines, not vectors, are compared


def test_decibels_of_a_hundredth_are_twenty():
    assert card.decibels(0.01) == pytest.approx(20)


def test_renders_come_with_their_truths():
    renders = card.render_people(range(200_000, 200_002))
    assert renders.pixels.shape == (12, 128, 128, 3) and renders.labels.shape == (12, 128, 128)
    assert len(renders.captions) == len(renders.truths) == 12
    assert renders.truths[0]["style"] in renders.captions[0] or "pop art" in renders.captions[0]


def test_gates_tell_what_is_met_and_what_is_missed():
    shipped = model.card()
    perfect = {**shipped, "autoencoder": {"face_psnr": 30.0}, "learnability": None}
    found = {gate.figure: gate for gate in card.gates(perfect)}
    assert found["face PSNR, dB"].met and "met" in str(found["face PSNR, dB"])
    assert not found["learned, identity"].met and "MISSED" in str(found["learned, identity"])
    assert found["size, MB"].met == (shipped["size_mb"] <= 30)
    strangers = card.Gate("strangers", 0.2, 0.15, at_most=True)
    assert not strangers.met


def test_the_seconds_gates_stand_beside_the_firsts_card():
    first = {"unet": {"accuracy": {"hat": 0.97, "scene": 0.8}}}
    learned = {"identity": 0.61, "scene_loss": 0.11, "textual_inversion_gain": 0.4,
               "methods": {"dreambooth-lora": {"cpu_seconds": 90.0}}}  # fmt: skip
    found = {
        "autoencoder": {"face_psnr": 23.9}, "transformer": {"accuracy": {"hat": 0.92, "scene": 0.74}},
        "learnability": learned, "size_of_both_mb": 36.9, "seconds": {"loading": 0.3, "picture": 2.5},
    }  # fmt: skip
    met = {gate.figure: gate.met for gate in card.second_gates(found, first)}
    assert met == {
        "face PSNR, dB": False, "drawn, hat": True, "drawn, scene": False, "learned, identity": True,
        "learned, scene loss": False, "learned, CPU seconds": True, "Textual Inversion, gain": False,
        "size of both, MB": True, "loading, s": True, "a picture, s": False,
    }  # fmt: skip
    unlearned = card.second_gates({**found, "learnability": None}, first)
    assert not any(gate.met for gate in unlearned if "learned" in gate.figure)


def test_what_sunglasses_hide_is_not_asked_of_anybody():
    behind = world.sample_context(3, glasses="sunglasses", hat="none")
    assert world.hidden_attributes(behind) == {"eye_colour"}
    assert world.hidden_attributes(world.sample_context(3, glasses="none", hat="crown")) == set()
