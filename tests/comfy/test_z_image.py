"""Z-Image in ComfyUI's own classes and loaders, and in the engine, on the same tiny random files."""

from typing import Any

import pytest

pytestmark = pytest.mark.comfy
SCRIPT = "z_image_numbers.py"


@pytest.mark.parametrize("way", ["files", "graph"])
def test_text_velocity_latents_and_pictures_are_comfyuis(known: dict[str, Any], way: str):
    found = known[way]
    for what in ("text", "velocity", "latents", "pictures"):
        assert found[what] <= 1e-4, what
    assert found["text size"] > 1 and found["velocity size"] > 1 and found["pictures spread"] > 0.05
    assert found["lengths"] == 2 and known["same fingerprint"]


def test_generate_draws_what_ksampler_draws(known: dict[str, Any]):
    assert known["regions"]["plain"] >= 40


@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora"])
def test_what_was_learned_means_the_same_in_comfyui_and_in_its_own_loaders(
    known: dict[str, Any], method: str
):
    used = known["used"][method]
    assert used["words"] <= 1e-4 and used["exported words"] <= 1e-4 and used["velocity"] <= 1e-4
    assert used["not loaded"] == []


def test_a_lora_is_loaded_by_comfyui_itself_with_each_of_its_layers(known: dict[str, Any]):
    """Four layers in each of two refiners and two layers, and the text encoder's."""
    used = known["used"]["dreambooth-lora"]
    assert used["layers"] == 4 * 4 + 4 * 4 and used["hears"]
    assert used["exported velocity"] <= 1e-4 < used["seen"]


def test_pictures_with_regions_and_their_heat_maps_are_the_engines(known: dict[str, Any]):
    found = known["regions"]
    assert found["pictures"] >= 40 and found["maps"] <= 1e-4
    assert found["seen"] > 0.01 and found["maps' size"] > 1e-3


def test_neutral_regions_change_no_bit_and_the_next_prompt_starts_clean(known: dict[str, Any]):
    assert known["regions"]["neutral"] == 0 and known["regions"]["afterwards"] == 0


def test_another_packs_override_is_heard_beside_regions_and_stays(known: dict[str, Any]):
    assert known["regions"]["foreign heard"] > 1e-3 and known["regions"]["foreign kept"] == 0


def test_staged_prompts_are_the_engines_stage_by_stage(known: dict[str, Any]):
    found = known["staged"]
    assert found["moved"] == 4 and found["states"] <= 1e-4 and found["offsets"] <= 1e-5
    assert found["pictures"] >= 40 and found["bypass seen"] > 1e-3 and found["next prompt"] == 0


def test_people_in_regions_at_some_noise_levels_are_the_engines(known: dict[str, Any]):
    people = known["people"]
    assert people["pictures"] >= 40 and people["seen"] > 0.01 and people["learned on"] == 2
    assert people["neutral"] == 0 and people["afterwards"] == 0
