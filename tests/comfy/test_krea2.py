"""Krea 2 in ComfyUI's own classes and loaders, and in the engine, on the same tiny random files."""

from typing import Any

import pytest

pytestmark = pytest.mark.comfy
SCRIPT = "krea2_numbers.py"


@pytest.mark.parametrize("way", ["files", "graph"])
def test_text_velocity_latents_and_pictures_are_comfyuis(known: dict[str, Any], way: str):
    found = known[way]
    for what in ("text", "velocity", "latents", "pictures"):
        assert found[what] <= 1e-4, what
    assert found["text size"] > 0.5 and found["velocity size"] > 0.5 and found["pictures spread"] > 0.02


def test_files_and_graph_give_one_and_the_same_base(known: dict[str, Any]):
    assert known["same fingerprint"]


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_generate_draws_what_ksampler_draws(known: dict[str, Any], sampler: str):
    assert known["drawn"][sampler] >= 40 and known["drawn"][f"{sampler} spread"] > 2


@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora"])
def test_what_was_learned_means_the_same_in_comfyui_and_in_its_own_loaders(
    known: dict[str, Any], method: str
):
    used = known["used"][method]
    assert used["words"] <= 1e-4 and used["exported words"] <= 1e-4 and used["velocity"] <= 1e-4
    assert used["not loaded"] == []


def test_a_lora_is_loaded_by_comfyui_itself_with_each_of_its_layers(known: dict[str, Any]):
    """Four layers in each of two blocks, and those of the text encoder that are read."""
    used = known["used"]["dreambooth-lora"]
    assert used["layers"] == 2 * 4 + 35 * 4
    assert used["exported velocity"] <= 1e-4 < used["seen"] and used["hears"]


def test_regions_and_their_heat_maps_are_the_engines(known: dict[str, Any]):
    passes, found = known["passes"], known["regions"]
    assert passes["regions"] <= 1e-4 and passes["seen by a prompt without"] <= 1e-5
    assert passes["seen"] > 1e-3
    assert found["pictures"] >= 40 and found["maps"] <= 1e-4
    assert found["seen"] > 0.01 and found["maps' size"] > 1e-3
    assert found["neutral"] == 0 and found["afterwards"] == 0


def test_staged_prompts_are_the_engines_also_in_a_region(known: dict[str, Any]):
    found = known["staged"]
    assert found["pictures"] >= 40 and found["in a region"] >= 40
    assert found["region seen"] > 1e-3 and found["bypass seen"] > 1e-3


def test_people_in_regions_are_the_engines_and_without_weight_change_no_bit(known: dict[str, Any]):
    people = known["people"]
    assert people["pictures"] >= 40 and people["seen"] > 0.01
    assert people["neutral"] == 0 and people["afterwards"] == 0
