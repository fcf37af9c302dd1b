"""The second Miniature in ComfyUI's own classes for FLUX.2, and in the engine, on the same random weights."""

from typing import Any

import pytest

pytestmark = pytest.mark.comfy
SCRIPT = "second_numbers.py"


def test_an_older_comfyui_is_refused_with_the_version_that_is_needed(measured: dict[str, Any]):
    if "refused" not in measured:
        pytest.skip("this ComfyUI knows FLUX.2")
    assert measured["refused"].startswith(
        "the second Miniature needs ComfyUI 0.26 or newer, and this is 0.3."
    )


def test_the_node_gives_it_and_a_person_where_its_architecture_is_chosen(known: dict[str, Any]):
    assert known["node"] == ["SecondMiniatureModel", 1, 128, 128, 3] and known["side"] == 128


def test_without_its_weights_the_first_is_named(known: dict[str, Any]):
    assert "weights are not part of this installation" in known["missing"]


@pytest.mark.parametrize("way", ["files", "graph"])
def test_text_velocity_latents_and_pictures_are_the_engines(known: dict[str, Any], way: str):
    found = known[way]
    for what in ("text", "velocity", "latents", "pictures"):
        assert found[what] <= 1e-4, what
    assert found["states"] == 64 and found["text size"] > 0.1 and found["velocity size"] > 0.3


def test_ksampler_draws_what_generate_draws(known: dict[str, Any]):
    assert known["drawn"]["psnr"] >= 40 and known["drawn"]["spread"] > 1


def test_words_and_a_lora_mean_the_same_in_both(known: dict[str, Any]):
    used = known["used"]
    assert used["words"] <= 1e-4 and used["velocity"] <= 1e-4 < used["seen"]


def test_a_whole_vocabulary_that_moved_reads_the_same_in_both(known: dict[str, Any]):
    assert known["tables"]["apart"] <= 1e-4 and known["tables"]["seen"] > 1e-2


def test_how_far_drawing_is_goes_by_the_models_own_sampling_however_it_is_shifted(known: dict[str, Any]):
    progress = known["progress"]
    assert progress["theirs"] == pytest.approx(progress["ours"], abs=1e-6)
    assert progress["shifted sigma"] == pytest.approx(0.7, abs=1e-6)
    assert abs(progress["shifted"] - progress["ours"]) > 0.01


def test_it_comes_back_for_training_as_what_it_is(known: dict[str, Any]):
    assert known["same"] and known["name"] == "miniature-2" and known["again"] <= 1e-4
