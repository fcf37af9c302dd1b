"""ComfyUI's own classes and the engine's diffusers classes compute the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from likeness_portraits.tests.comfy.hosts import numbers_of

pytestmark = pytest.mark.comfy

START_UP = 0.3  # seconds that importing the pack may add to ComfyUI's start


@pytest.fixture(scope="module")
def measured(checkout: Path, python: Path, package_parent: Path) -> dict[str, Any]:
    return numbers_of("same_numbers.py", python, checkout, package_parent)


BASES = ["headless", "taken out", "sd1", "sd2", "sdxl", "fp8"]


@pytest.mark.parametrize("what", ["text", "noise"])
@pytest.mark.parametrize("base", BASES)
def test_the_engine_computes_what_comfyui_does_bit_for_bit(measured: dict[str, Any], base: str, what: str):
    assert measured[base][what] == 0.0


def test_weights_in_fp8_are_learned_on_with_their_scales(measured: dict[str, Any]):
    # older hosts multiply the input by the scale where newer ones multiply the weight
    assert measured["scaled fp8"]["noise"] <= 1e-6
    assert all(len(layers) > 30 and all(layers) for layers in measured["in 8 bits"])  # and stay as they are


@pytest.mark.parametrize("what", ["pooled", "pictures", "latents"])
@pytest.mark.parametrize("base", BASES)
def test_pooled_prompts_latents_and_pictures_differ_by_rounding_alone(
    measured: dict[str, Any], base: str, what: str
):
    assert measured[base][what] <= 1e-4


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_tiny_autoencoder_of_the_graph_gives_the_engine_the_same_latents(
    measured: dict[str, Any], family: str
):
    found = measured["taesd"][family]
    assert found["latents"] <= 1e-5 and found["pictures"] <= 1e-5 and found["size"] > 1e-4


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_words_and_loras_learned_on_each_family_mean_the_same_in_comfyui(
    measured: dict[str, Any], family: str
):
    assert measured["used"][family] == {"words": 0.0, "unknown": []}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_user_of_attention_does_the_same_in_comfyuis_network_as_in_the_engines(
    measured: dict[str, Any], family: str
):
    seam = measured["seam"][family]
    assert seam["plain"] == seam["afterwards"] == 0.0
    for user in ("values", "regions", "identity"):
        assert seam[user] <= min(1e-4, seam[f"{user} seen"] / 10)
    assert seam["maps"] <= 1e-5
    assert [seam[f"no {user}"] for user in ("values", "regions", "identity", "maps")] == [0.0] * 4


def test_the_miniature_out_of_the_graph_is_the_miniature(measured: dict[str, Any]):
    assert measured["same fingerprint"]
    assert measured["schedule"] == 0


def test_the_pack_adds_little_to_comfyuis_start(measured: dict[str, Any]):
    assert measured["start"] <= START_UP
    assert measured["loaded"] == []  # of the heavy libraries


def test_a_patch_on_the_model_is_part_of_what_is_learned_on(measured: dict[str, Any]):
    assert measured["patch of a half"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "words"),
    {
        "refiner": "is the SDXL refiner, .* connect the SDXL base",
        "inpainting": "for inpainting or editing .*9 channels instead of 4.*connect the plain model",
        "transformer": "is AuraFlow, which cannot be learned on yet .*connect an SD 1.x, SD 2.x or SDXL",
        "quantised": "is quantised in a way that cannot be read .*GGUF.*load the model in fp16",
        "levels": "noise levels of another kind .*connect an SD 1.x",
        "no clip": "there is no CLIP: .*load one with Load CLIP and connect it",
        "no vae": "there is no VAE: .*load one with Load VAE and connect it",
        "another's taesd": "a TAESD of another kind .* by 0.13025, the MODEL's by 0.18215; connect the",
        "another clip": "this CLIP has no clip_h, .*connect the CLIP of its checkpoint",
    }.items(),
)
def test_what_cannot_be_learned_on_is_refused_with_the_way_out(
    measured: dict[str, Any], kind: str, words: str
):
    assert re.search(words, measured["refused"][kind]), measured["refused"][kind]
