"""FLUX.2 in ComfyUI's own classes and loaders, and in the engine, on the same tiny random files."""

from typing import Any

import pytest

pytestmark = pytest.mark.comfy
SCRIPT = "flux2_numbers.py"


def test_an_older_comfyui_is_refused_with_the_version_that_is_needed(measured: dict[str, Any]):
    if "refused" not in measured:
        pytest.skip("this ComfyUI knows FLUX.2")
    assert measured["refused"].startswith("FLUX.2 Klein 4B needs ComfyUI 0.26 or newer, and this is 0.3.")


def test_levels_and_samplers_of_flow_are_comfyuis(known: dict[str, Any]):
    process = known["process"]
    assert {"simple", "karras", "own", "euler", "dpmpp_2m", "begin", "denoised", "progress"} == set(process)
    assert max(process.values()) <= 1e-6


@pytest.mark.parametrize("way", ["files", "graph"])
def test_text_velocity_latents_and_pictures_are_comfyuis(known: dict[str, Any], way: str):
    found = known[way]
    for what in ("text", "velocity", "latents", "pictures"):
        assert found[what] <= 1e-4, what
    assert found["text size"] > 1 and found["velocity size"] > 1 and found["pictures spread"] > 0.05


def test_files_and_graph_give_one_and_the_same_base(known: dict[str, Any]):
    assert known["same fingerprint"]


LAYOUTS = {  # of others' LoRAs, and how many weights each changes
    "ComfyUI's, PEFT's endings": 21, "ComfyUI's": 21, "kohya": 21, "bf16": 21, "diffusers": 16,
    "diffusers with alphas": 16, "DiffSynth": 16, "OneTrainer": 16, "LyCORIS": 16,
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_of_loras_changes_the_same_weights_as_by_comfyuis_loader(known: dict[str, Any], name: str):
    found = known["layouts"][name]
    assert known["layouts"].keys() == {*LAYOUTS, "PEFT"}
    assert found["layers"] == LAYOUTS[name]
    assert found["graph"] == 0 and found["engine"] <= 1e-6


def test_a_layout_that_comfyuis_loader_leaves_out_is_the_same_in_the_graph_and_without(known: dict[str, Any]):
    found = known["layouts"]["PEFT"]
    assert found["layers"] == 0 and found["moved by us"] > 0.01 and found["graph to engine"] <= 1e-6


def test_what_was_learned_on_klein_is_refused_on_dev_by_name(known: dict[str, Any]):
    assert known["dev"].startswith("this likeness was learned on flux2, but the MODEL is FLUX.2 dev; ")


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_generate_draws_what_ksampler_draws(known: dict[str, Any], sampler: str):
    assert known["drawn"][sampler] >= 40
    assert known["drawn"][f"{sampler} spread"] > 5


@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora"])
def test_what_was_learned_means_the_same_in_comfyui_and_in_its_own_loaders(
    known: dict[str, Any], method: str
):
    used = known["used"][method]
    assert used["words"] <= 1e-4 and used["exported words"] <= 1e-4 and used["velocity"] <= 1e-4
    assert used["not loaded"] == []


def test_a_lora_is_loaded_by_comfyui_itself_with_each_of_its_layers(known: dict[str, Any]):
    """Eight layers in the double block and two in each of two single ones, and the text encoder's."""
    used = known["used"]["dreambooth-lora"]
    assert used["layers"] == 8 + 2 * 2 + 4 * 3
    assert used["exported velocity"] <= 1e-4 < used["seen"]
    assert used["hears"]


@pytest.mark.parametrize("how", ["plain fp8", "float8_e4m3fn", "int8_tensorwise"])
def test_what_comfyui_loads_in_8_bits_is_learned_on_in_8_bits(how: str, known: dict[str, Any]):
    found = known["in 8 bits"][how]
    assert found["same"] and found["layers"] == found["of"] - 1  # the first is widened
    assert found["kinds"] == ["torch.int8" if how == "int8_tensorwise" else "torch.float8_e4m3fn"]
    assert found["bytes"] < 0.53 * found["in bf16"]
