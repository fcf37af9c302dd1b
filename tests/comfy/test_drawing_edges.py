"""What does not fit is refused in the graph before it is drawn; tried by drawing_edges.py."""

from pathlib import Path
from typing import Any

import pytest

from likeness_portraits.tests.comfy.hosts import numbers_of

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def facts(checkout: Path, python: Path, package_parent: Path) -> dict[str, Any]:
    return numbers_of("drawing_edges.py", python, checkout, package_parent, timeout=900)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("LoRA, other network", "learned on miniature, but the MODEL is Flux; connect a model of its kind"),
        ("LoRA of sd1, other network", "learned on sd1, but the MODEL is Flux"),
        ("words, other network", "learned on miniature, but the MODEL is Flux"),
        ("staged, other network", "learned on miniature, but the MODEL is Flux"),
        (
            "identity, other network",
            "this MODEL is Flux, whose network is Flux: it has no attention for an identity",
        ),
        (
            "region, other network",
            "this MODEL is Flux, whose network is Flux: it has no attention for refocusing",
        ),
        ("layer", "changes lora_unet_mid_block_attentions_0_transformer_blocks_7_attn2_to_v, which MODEL"),
        ("width", "has words 64 wide, but this CLIP's are 128"),
        ("no CLIP", "there is no CLIP to teach the learned words to"),
        ("weight nan", "'nan' in a prompt is no weight"),
        ("<v9>", "mentions <v9>, which no likeness defines; there are <v0>"),
        ("<V0>", "mentions <V0>, which no likeness defines; there are <v0>"),
        ("<v9>, staged", "mentions <v9>, which no likeness defines; there are <v0>"),
        ("<v9>, region", "mentions <v9>, which no likeness defines; connect the CLIP of Apply Likeness"),
        ("strength", "strength in the model is nan"),
        ("weight", "the identity's weight is inf"),
        ("bypass", "the strength of <v0> is nan"),
        ("region's strength", "the strength of woman is nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(facts: dict, mistake: str, message: str):
    assert message in facts["said"][mistake] and "\n" not in facts["said"][mistake]


def test_the_size_that_is_the_models_own_is_that_of_its_kind(facts: dict):
    assert facts["sides"] == {
        "SD15": 512, "SD20": 512, "SD20-v": 768, "SDXL": 1024, "Flux": 1024, "Miniature": 128,
    }  # fmt: skip


@pytest.mark.parametrize("fine", ["no CLIP, LoRA alone", "<v0>"])
def test_what_fits_is_not_refused(facts: dict, fine: str):
    assert facts["said"][fine] == "nothing"


@pytest.mark.parametrize("name", ["ann", "ann v2", "Анна", "a, (b) c"])
def test_an_exported_embedding_is_reached_by_its_name(facts: dict, name: str):
    assert facts["exported"][name]


def test_an_export_replaces_nobodys_files(facts: dict):
    first, second = ["my-likeness.safetensors"], ["my-likeness-2.safetensors"]
    assert facts["exported again"] == [first, second, first]


WEIGHTED = (
    "a weight", "no number", "one in another", "a placeholder", "by name", "escapes",
    "square brackets and BREAK", "never closed", "closed too often", "below nothing", "two chunks", "staged",
    "staged, weighted",
)  # fmt: skip


@pytest.mark.parametrize("prompt", WEIGHTED)
def test_the_command_line_draws_weighted_prompts_as_comfyui_does(facts: dict, prompt: str):
    ours, without = facts["weights"][prompt]
    assert ours >= 40
    assert prompt == "square brackets and BREAK" or without < 50  # the weights show


def test_any_text_of_brackets_is_read_as_comfyui_reads_it(facts: dict):
    assert facts["read otherwise"] == []


def test_comfyuis_own_training_learns_on_the_miniature_and_leaves_it_as_it_is(facts: dict):
    learned = facts["learned"]
    assert learned["modules"] > 50 and learned["moved"] > 0 and learned["base moved"] == 0


def test_a_folder_that_one_node_looks_at_and_another_learns_from_is_decoded_once(facts: dict):
    assert facts["trained"]["decoded"] == facts["trained"]["pictures"]


def test_a_training_node_is_told_what_the_model_predicts(facts: dict):
    assert facts["trained"]["noise apart"] == 0 < facts["trained"]["velocity apart"]
