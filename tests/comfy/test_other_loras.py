"""Others' LoRAs change the same weights as ComfyUI's own loader does, in the graph and without ComfyUI.

The facts are found by other_loras.py in a host's own Python, on files that lora_files.py writes.
"""

from pathlib import Path
from typing import Any

import pytest

from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.config import ADAPTERS, BaseSpec
from likeness_portraits.tests.comfy.hosts import numbers_of
from likeness_portraits.tests.comfy.lora_files import write_all
from likeness_portraits.tests.conftest import kit_folder

pytestmark = pytest.mark.comfy

# modules of the Miniature that each file changes
LAYOUTS = {
    "diffusers 2023.safetensors": 56, "diffusers 2023.bin": 56, "diffusers 2023, with text.safetensors": 68,
    "kohya.safetensors": 68, "kohya.bin": 68, "kohya, no alpha.safetensors": 68,
    "kohya, whole alphas.safetensors": 56, "kohya, LDM's names.safetensors": 56,
    "self-attention only.safetensors": 28, "text encoder only.safetensors": 12, "ComfyUI's.safetensors": 56,
    "SimpleTuner's LyCORIS.safetensors": 56, "fp16.safetensors": 68, "bf16.safetensors": 68,
    "fp8.safetensors": 68, "LoCon.safetensors": 96, "DoRA.safetensors": 56, "LoHa.safetensors": 96,
    "LoKr.safetensors": 96, "OFT.safetensors": 56, "differences.safetensors": 160,
    **{f"ours, {kind}.safetensors": 140 for kind in ADAPTERS},
}  # fmt: skip
# what ComfyUI's loader takes for nothing, or fails at (Tucker cores of a LoKr)
OURS_ALONE = {
    "diffusers 2024.safetensors": 56, "now/pytorch_lora_weights.safetensors": 68,
    "LoKr, cores.safetensors": 40,
}  # fmt: skip
SDXL = (
    "kohya", "kohya, U-Net", "kohya, first encoder", "kohya, second encoder", "kohya, encoders", "diffusers",
    "diffusers, first encoder", "diffusers, second encoder",
)  # fmt: skip


@pytest.fixture(scope="module")
def facts(
    checkout: Path, python: Path, package_parent: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("loras")
    write_all(load_base(BaseSpec()), folder)
    kit = kit_folder()
    told = (checkout, package_parent, folder, *([kit] if kit else []))
    return numbers_of("other_loras.py", python, *told, timeout=1200)


def test_every_layout_is_tried(facts: dict[str, Any]):
    assert facts["layouts"].keys() == LAYOUTS.keys() | OURS_ALONE.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_changes_the_same_weights_by_as_much_as_comfyuis_loader(facts: dict[str, Any], name: str):
    found = facts["layouts"][name]
    assert found["changes"] == found["ours changes"] == LAYOUTS[name] and found["moved"] > 0.01
    assert found["graph"] == 0 and found["headless"] <= 1e-6


def test_those_drawn_look_as_comfyui_draws_them(facts: dict[str, Any]):
    drawn = {name: found for name, found in facts["layouts"].items() if "pictures" in found}
    assert len(drawn) == 4
    for name, found in drawn.items():
        assert found["pictures"] >= max(40, found["of the plain one"] + 6), name


@pytest.mark.parametrize("name", OURS_ALONE)
def test_what_comfyuis_loader_leaves_out_is_the_same_in_the_graph_and_without(
    facts: dict[str, Any], name: str
):
    found = facts["layouts"][name]
    assert found["ours changes"] == OURS_ALONE[name]
    assert found["graph"] > 0.01  # else ComfyUI's loader can do it meanwhile
    assert found["graph to headless"] <= 1e-6


@pytest.mark.parametrize(("family", "layers"), [("sd1", 403), ("sd2", 403), ("sdxl", 1058)])
def test_ldms_names_of_all_layers_are_comfyuis(facts: dict[str, Any], family: str, layers: int):
    assert facts["shapes"]["names"][family] == {"layers": layers, "wrong": []}


@pytest.mark.parametrize("style", SDXL)
def test_loras_of_sdxl_change_the_layers_that_comfyuis_loader_changes(facts: dict[str, Any], style: str):
    found = facts["shapes"][style]
    assert found["family"] == "sdxl" and found["theirs"] == found["in the file"] > 40
    assert found["only one's"] == 0 and found["apart"] == 0


@pytest.mark.real
@pytest.mark.parametrize("name", ["diffusers_axe.safetensors", "diffusers_axe.bin"])
def test_a_lora_that_people_have_changes_the_layers_that_comfyuis_loader_changes(
    facts: dict[str, Any], name: str
):
    assert facts["shapes"][name] == {
        "family": "sd1", "theirs": 128, "only one's": 0, "in the file": 128, "apart": 0,
    }  # fmt: skip


@pytest.mark.real
def test_cloneofsimos_own_lora_is_drawn_at_its_authors_strength(facts: dict[str, Any]):
    assert facts["shapes"]["cloneofsimo"] == {
        "family": "sd1", "method": "imported", "modules": 192, "wrong": [], "scales": [1.0],
        "words": ["<s1>", "<s2>"],
    }  # fmt: skip
