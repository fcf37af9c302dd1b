"""Others' LoRAs for FLUX.2: every layout means the same weights, and what is for another base is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact, import_file
from likeness_portraits.engine.artifact.lora import adaptable_in, merged
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.engine import flux2_loras
from likeness_portraits.tests.engine.tiny_flux2 import bfl_names, tiny_parts

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return tiny_parts()


def saved(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def pair(name: str, out: int, inside: int) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A.weight": torch.ones(2, inside), f"{name}.lora_B.weight": torch.ones(out, 2)}


SINGLE = pair("diffusion_model.single_blocks.0.linear1", 288, 32)


@pytest.mark.parametrize("layout", flux2_loras.every_layout({}))
def test_a_layout_changes_every_layer_by_its_matrices(layout: str, parts: dict[str, Any], tmp_path: Path):
    network = parts["transformer"]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    file = flux2_loras.every_layout(state)[layout]
    found = import_file(saved(tmp_path / "x.safetensors", file))
    assert (found.kind, found.base_family) == ("lora", "flux2")
    scale = flux2_loras.ALPHA / flux2_loras.RANK if any(key.endswith("alpha") for key in file) else 1.0
    expected = flux2_loras.changed(state, 0.5 * scale)
    with merged(adaptable_in(network, {}, peft_names=True), found.lora(), 0.5):
        have = bfl_names(dict(network.state_dict()))
    near = 0.02 if layout == "bf16" else 1e-6
    for name, weight in expected.items():
        torch.testing.assert_close(have[name], weight, atol=near, rtol=0)
    assert sum(not torch.equal(have[name], weight) for name, weight in bfl_names(state).items()) == len(
        flux2_loras.matrices(state)
    )


def test_a_text_encoders_layers_are_read_by_kohyas_names_too(tmp_path: Path):
    file = {**pair("transformer.single_transformer_blocks.0.attn.to_out", 32, 128),
            **pair("lora_te_layers_2_self_attn_q_proj", 32, 32)}  # fmt: skip
    found = import_file(saved(tmp_path / "x.safetensors", file))
    assert "text_encoders.qwen3_4b.transformer.model.layers.2.self_attn.q_proj.lora_A.weight" in found.tensors


@pytest.mark.parametrize(
    ("file", "metadata", "family"),
    [
        (pair("diffusion_model.single_blocks.0.linear1", 27648, 3072), {}, "flux2"),
        (pair("lora_unet_single_blocks_0_linear2", 4096, 16384), {}, "flux2_9b"),
        (pair("transformer.transformer_blocks.0.ff.linear_in", 24576, 4096), {}, "flux2_9b"),
        (pair("diffusion_model.double_blocks.0.img_attn.qkv", 9216, 3072),
         {"ss_base_model_version": "flux2_klein_4b"}, "flux2"),
        (pair("diffusion_model.double_blocks.0.img_attn.qkv", 12288, 4096),
         {"modelspec.architecture": "Flux.2-klein-9b/lora"}, "flux2_9b"),
    ],
)  # fmt: skip
def test_the_base_is_known_by_sizes_or_by_what_the_file_says(file, metadata, family: str, tmp_path: Path):
    assert import_file(saved(tmp_path / "x.safetensors", file, metadata)).base_family == family


def test_what_could_be_for_flux1_is_taken_where_the_user_says_so(tmp_path: Path):
    path = saved(tmp_path / "x.safetensors", pair("diffusion_model.double_blocks.0.img_attn.qkv", 9216, 3072))
    with pytest.raises(LikenessError, match=r"is a LoRA for FLUX\.1, not .*say so with --family flux2"):
        import_file(path)
    out = tmp_path / "out.safetensors"
    assert main(["import", str(path), "--family", "flux2", "-o", str(out)]) == 0
    assert len([key for key in Artifact.load(out).tensors if key.endswith("alpha")]) == 3


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (pair("lora_unet_single_blocks_0_linear1", 21504, 3072), r"is a LoRA for FLUX\.1, not for SD 1"),
        (pair("transformer.single_transformer_blocks.0.attn.to_q", 3072, 3072), r"is a LoRA for FLUX\.1"),
        (pair("diffusion_model.single_blocks.0.linear1", 55296, 6144), r"is a LoRA for FLUX\.2 dev, not for"),
        (pair("diffusion_model.layers.0.attention.to_q", 2304, 2304), "is a LoRA for a diffusion transform"),
        ({**SINGLE, "diffusion_model.odd.alpha": torch.ones(())},
         "holds 'diffusion_model.odd.alpha', which is for none of FLUX.2's layers"),
        ({**SINGLE,
          "diffusion_model.single_blocks.0.linear2.lokr_w1": torch.ones(2, 2)}, "is a LoKr, and on FLUX"),
        ({**SINGLE,
          "diffusion_model.single_blocks.0.linear1.dora_scale": torch.ones(288, 1)}, "is a DoRA, and on FL"),
        ({**SINGLE,
          "diffusion_model.double_blocks.0.img_mlp.0.lora_A.weight": torch.ones(2, 32)}, "is incomplete"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_a_sentence(file, said: str, tmp_path: Path):
    with pytest.raises(LikenessError, match=said) as error:
        import_file(saved(tmp_path / "x.safetensors", file))
    assert str(error.value).count(". ") == 0


def test_one_of_another_size_of_flux2_than_is_said_is_refused(tmp_path: Path):
    path = saved(tmp_path / "x.safetensors", pair("diffusion_model.single_blocks.0.linear1", 36864, 4096))
    with pytest.raises(LikenessError, match=r"is a LoRA for FLUX\.2 Klein 9B; leave --family away"):
        import_file(path, family="flux2")
