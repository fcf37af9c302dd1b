"""Single-file checkpoints in the layout of SD 1.x, written here from the tiny base."""

import re

import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.engine.training.base_model import load_base
from likeness_portraits.tests.engine.tiny import tiny_base

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
PLAIN = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
         "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
         "mid_block.resnets.1": "middle_block.2"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def ldm_unet(state):
    """Names of a U-Net with two levels, one layer each, attention on both."""
    blocks = {
        **PLAIN,
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "down_blocks.1.attentions.0": "input_blocks.3.1",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    }
    for number in range(4):
        level, layer = divmod(number, 2)
        blocks[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
        blocks[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
    renamed = {}
    for key, value in state.items():
        block = next(name for name in blocks if key.startswith(name + "."))
        rest = key[len(block) + 1 :]
        if "resnets" in block:
            part, leaf = rest.rsplit(".", 1)
            rest = f"{RESNET[part]}.{leaf}"
        renamed[f"model.diffusion_model.{blocks[block]}.{rest}"] = value
    return renamed


def ldm_vae(state, levels):
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
        key = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key
        )
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in key:
            key = key.replace("mid_block.attentions.0", "mid.attn_1")
            for name, theirs in ATTENTION.items():
                key = key.replace(name, theirs)
            value = value[:, :, None, None] if value.ndim == 2 else value
        renamed[f"first_stage_model.{key}"] = value
    return renamed


@pytest.fixture(scope="module")
def base():
    return tiny_base(heads=8, text_heads=1)  # what the reader takes from SD 1.x for this width


@pytest.fixture(scope="module")
def state(base):
    text = base.text_encoders["clip_l"].state_dict()
    prefix = "cond_stage_model.transformer.text_model."
    return {
        **ldm_unet(base.unet.state_dict()),
        **ldm_vae(base.vae.state_dict(), 3),
        **{prefix + key.removeprefix("text_model."): value for key, value in text.items()},
    }


def spec(path):
    return BaseSpec.parse(str(path), tokenizer=str(miniature.tokenizer_folder()))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_checkpoint_gives_the_same_model(base, state, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 1}, path)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    loaded = load_base(spec(path))
    assert (loaded.family, loaded.resolution) == ("sd1", 256)
    for ours, theirs in ((base.unet, loaded.unet), (base.vae, loaded.vae)):
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    noisy, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([500])
    context = loaded.encode_text(["a photo of a woman"])
    torch.testing.assert_close(context, base.encode_text(["a photo of a woman"]))
    torch.testing.assert_close(
        loaded.predict(noisy, timesteps, context), base.predict(noisy, timesteps, context)
    )


def test_a_checkpoint_without_a_tokenizer_says_what_to_give(state, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    with pytest.raises(LikenessError, match="name the folder of CLIP's"):
        load_base(BaseSpec.parse(str(path)))
    with pytest.raises(LikenessError, match="holds no CLIP tokenizer"):
        load_base(BaseSpec.parse(str(path), tokenizer=str(tmp_path)))


def test_other_families_and_other_files_are_refused_by_name(state, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"conditioner.embedders.1.model.ln_final.weight": torch.zeros(1)}, path)
    with pytest.raises(LikenessError, match="is an SDXL model, which is not supported yet"):
        load_base(spec(path))
    save_file({"something": torch.zeros(1)}, path)
    with pytest.raises(LikenessError, match="holds no diffusion model that we know"):
        load_base(spec(path))
    part = {key: value.contiguous() for key, value in state.items() if "time_embed" not in key}
    save_file(part, path)
    with pytest.raises(LikenessError, match="is not a whole SD 1.x checkpoint"):
        load_base(spec(path))


def test_a_pickle_that_would_run_code_is_refused_unopened(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"state_dict": Hostile()}, tmp_path / "model.ckpt")
    with pytest.raises(LikenessError, match="is not a model"):
        load_base(spec(tmp_path / "model.ckpt"))
    assert not (tmp_path / "written").exists()
