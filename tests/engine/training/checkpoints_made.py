"""Single-file checkpoints in the layouts of SD 1.x, SD 2.x and SDXL, written from tiny bases."""

import re
from typing import Any

import torch
from torch import Tensor

from likeness_portraits.engine.bases.base import BaseModel

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
PLAIN = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
         "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
         "mid_block.resnets.1": "middle_block.2"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"embeddings.token_embedding.weight": "token_embedding.weight",
             "embeddings.position_embedding.weight": "positional_embedding",
             "encoder.layers.": "transformer.resblocks.", "final_layer_norm.": "ln_final.",
             ".layer_norm1.": ".ln_1.", ".layer_norm2.": ".ln_2.", ".mlp.fc1.": ".mlp.c_fc.",
             ".mlp.fc2.": ".mlp.c_proj.", ".self_attn.out_proj.": ".attn.out_proj."}  # fmt: skip


def checkpoint_of(base: BaseModel) -> dict[str, Tensor]:
    """The base as a single file holds it."""
    levels = len(base.unet.config.block_out_channels)
    found = {**ldm_unet(base.unet.state_dict(), levels), **ldm_vae(base.vae.state_dict(), 3)}
    if base.family == "sd1":
        found |= openai(base.text_encoders["clip_l"], "cond_stage_model.transformer.text_model.")
    elif base.family == "sd2":
        found |= openclip(base.text_encoders["clip_h"], "cond_stage_model.model.", unheard=True)
    else:
        found |= openai(base.text_encoders["clip_l"], "conditioner.embedders.0.transformer.text_model.")
        found |= openclip(base.text_encoders["clip_g"], "conditioner.embedders.1.model.", unheard=False)
    return {key: value.contiguous().clone() for key, value in found.items()}


def ldm_unet(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Names of a U-Net with one layer per level."""
    blocks = dict(PLAIN)
    for level in range(levels):
        blocks[f"down_blocks.{level}.resnets.0"] = f"input_blocks.{1 + 2 * level}.0"
        blocks[f"down_blocks.{level}.attentions.0"] = f"input_blocks.{1 + 2 * level}.1"
        blocks[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{2 + 2 * level}.0.op"
        crossing = any(key.startswith(f"up_blocks.{level}.attentions.") for key in state)
        blocks[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{2 * level + 1}.{1 + crossing}.conv"
        for layer in range(2):
            blocks[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{2 * level + layer}.0"
            blocks[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{2 * level + layer}.1"
    renamed = {}
    for key, value in state.items():
        block = next(name for name in blocks if key.startswith(name + "."))
        rest = key[len(block) + 1 :]
        if "resnets" in block:
            part, leaf = rest.rsplit(".", 1)
            rest = f"{RESNET[part]}.{leaf}"
        renamed[f"model.diffusion_model.{blocks[block]}.{rest}"] = value
    return renamed


def ldm_vae(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
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


def openai(encoder: Any, prefix: str) -> dict[str, Tensor]:
    return {prefix + key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def openclip(encoder: Any, prefix: str, unheard: bool) -> dict[str, Tensor]:
    """OpenCLIP's names; `unheard`: with one layer more, as SD 2.x files have it."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    found, joined = {}, {}
    for key, value in state.items():
        for ours, theirs in OPEN_CLIP.items():
            key = key.replace(ours, theirs)
        if ".self_attn." in key:
            block, _, rest = key.partition(".self_attn.")
            part, kind = rest.split(".")
            joined.setdefault(f"{block}.attn.in_proj_{kind}", {})[part] = value
        else:
            found[key] = value.T if key == "text_projection.weight" else value
    found = {key.removesuffix(".weight") if key == "text_projection.weight" else key: value
             for key, value in found.items()}  # fmt: skip
    for key, parts in joined.items():
        found[key] = torch.cat([parts[name] for name in ("q_proj", "k_proj", "v_proj")])
    if unheard:
        last = encoder.config.num_hidden_layers
        more = {
            key.replace(".0.", f".{last}.", 1): value + 1
            for key, value in found.items()
            if ".resblocks.0." in key
        }
        found |= {
            **more,
            "text_projection": torch.eye(encoder.config.hidden_size),
            "logit_scale": torch.ones(()),
        }
    return {prefix + key: value for key, value in found.items()}
