"""Others' LoRAs for Z-Image, in every layout that people's files have, on a tiny transformer of the kind."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact.lora import merged
from likeness_portraits.engine.artifact.other_tools import import_file
from likeness_portraits.engine.artifact.z_image_names import z_image_for_core, z_image_for_diffusers
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.engine import tiny_z_image

pytest.importorskip("diffusers", "0.36")
RANK, ALPHA, FAMILY = 3, 2.0, "z_image"
STATE = {key: value for key, value in tiny_z_image.tiny_parts()["transformer"].state_dict().items()}
Tensors = dict[str, torch.Tensor]


def layers_of(state: Tensors) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Down and up of each layer in attention and feed-forward, by the state's names."""
    random, found = torch.Generator().manual_seed(3), {}
    for key, weight in sorted(state.items()):
        if weight.ndim == 2 and ("attention" in key or "feed_forward" in key):
            shapes = (RANK, weight.shape[1]), (weight.shape[0], RANK)
            down, up = (torch.randn(shape, generator=random) * 0.1 for shape in shapes)
            found[key.removesuffix(".weight")] = down, up
    return found


def peft(state: Tensors, front: str) -> Tensors:
    return {f"{front}{path}.lora_{way}.weight": tensor for path, pair in layers_of(state).items()
            for way, tensor in zip("AB", pair)}  # fmt: skip


def kohya(state: Tensors, front: str) -> Tensors:
    found = {}
    for path, (down, up) in layers_of(state).items():
        name = front + path.replace(".", "_")
        found |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        found[f"{name}.alpha"] = torch.tensor(ALPHA)
    return found


CORE = z_image_for_core(STATE)
LAYOUTS = {  # files, and the state whose layers they are for
    "ai-toolkit": (peft(STATE, "diffusion_model."), STATE), "diffusers": (peft(STATE, "transformer."), STATE),
    "DiffSynth": (peft(STATE, ""), STATE), "ComfyUI's": (peft(CORE, "diffusion_model."), CORE),
    "kohya": (kohya(CORE, "lora_unet_"), CORE), "OneTrainer": (kohya(STATE, "lora_transformer_"), STATE),
    "LyCORIS": (kohya(STATE, "lycoris_"), STATE),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_changes_the_weights_that_it_is_for(name: str, tmp_path: Path):
    tensors, state = LAYOUTS[name]
    save_file(tensors, tmp_path / "a.safetensors")
    artifact = import_file(tmp_path / "a.safetensors", family=FAMILY)
    assert artifact.base_family == FAMILY
    network = tiny_z_image.tiny_parts()["transformer"]
    modules = {f"transformer.{path}": part for path, part in network.named_modules()
               if isinstance(part, torch.nn.Linear)}  # fmt: skip
    scale = ALPHA / RANK if any(key.endswith(".alpha") for key in tensors) else 1.0
    changed = dict(state)
    for path, (down, up) in layers_of(state).items():
        changed[f"{path}.weight"] = state[f"{path}.weight"] + scale * up @ down
    wanted = z_image_for_diffusers(changed)
    with merged(modules, artifact.lora(), 1.0):
        ours = {key: value.clone() for key, value in network.state_dict().items()}
    assert sum(not torch.equal(wanted[key], STATE[key]) for key in STATE) == 4 * 7
    for key, value in wanted.items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-5)


def test_it_is_known_by_its_layers_and_lumina_2s_is_not_taken_for_it(tmp_path: Path):
    file = tmp_path / "a.safetensors"
    save_file(peft(STATE, "diffusion_model."), file)
    assert import_file(file).base_family == FAMILY
    name = "diffusion_model.layers.0.attention.to_q"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 2304), f"{name}.lora_B.weight": torch.ones(2304, 2)}, file
    )
    with pytest.raises(LikenessError, match="is a LoRA for a diffusion transformer"):
        import_file(file)


def test_what_is_no_plain_lora_is_refused_by_its_tensor(tmp_path: Path):
    tensors = {
        **peft(STATE, "diffusion_model."),
        "diffusion_model.layers.0.attention.to_q.diff": torch.ones(1),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LikenessError, match="to_q.diff', which is no part of a plain LoRA for Z-Image"):
        import_file(tmp_path / "a.safetensors")
