"""A Krea 2 of a few thousand random weights, as a diffusers folder and as people's single files."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from likeness_portraits.engine.bases.base import BaseModel, krea2_base, named
from likeness_portraits.engine.bases.loaders.krea2 import read_krea2_folder
from likeness_portraits.tests.engine.tiny_flux2 import write_tokenizer

SIDE = 32  # pixels that it was trained with: eight latents, four tokens
WIDTH = 20  # of the text encoder
LAYERS = 4  # of the text encoder
TAPS = (1, 2, 3)
WORDS = 262  # bytes, five marks and one word


def _text(words: int, width: int, layers: int, head: int) -> Any:
    """Qwen3-VL with eyes, which nobody uses here."""
    from transformers import Qwen3VLConfig, Qwen3VLModel

    config: Any = Qwen3VLConfig(
        text_config={
            "vocab_size": words, "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": layers,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": head,
            "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True,
                             "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6]},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width,
            "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
        },
    )  # fmt: skip
    return Qwen3VLModel(config)


def tiny_parts() -> dict[str, Any]:
    """The three networks, always of the same weights."""
    from diffusers import AutoencoderKLQwenImage, Krea2Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformer = Krea2Transformer2DModel(
            in_channels=16, num_layers=3, attention_head_dim=16, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=64, timestep_embed_dim=32, text_hidden_dim=WIDTH, num_text_layers=len(TAPS),
            text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=32,
            axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        for path, weight in transformer.named_parameters():
            if path.endswith("attn.to_out.0.weight"):
                weight.data *= 8  # random attention is weak: four steps on words should show
            elif "norm" in path or "table" in path:
                weight.data.normal_(0, 0.3)
        vae = AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 1.0, 0.8, 1.2],
        )  # fmt: skip
        text = _text(WORDS, WIDTH, LAYERS, 12)
    return {"transformer": transformer, "vae": vae, "text_encoder": text}


def write_folder(folder: Path, **index: Any) -> Path:
    """A diffusers folder, as `Krea2Pipeline.save_pretrained` lays it out; `index`: what it says of itself."""
    for name, part in tiny_parts().items():
        part.save_pretrained(folder / name)
    write_tokenizer(folder / "tokenizer")
    told = {"_class_name": "Krea2Pipeline", "text_encoder_select_layers": TAPS, **index}
    (folder / "model_index.json").write_text(json.dumps(told))
    return folder


def load(folder: Path) -> BaseModel:
    """The folder's base; nothing in its files says that its pictures are small."""
    parts = replace(read_krea2_folder(folder), resolution=SIDE)
    return named(krea2_base(parts), folder.name)


def makers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's tensors as its makers write them."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("transformer_blocks.") and key.endswith("scale_shift_table"):
            value = value.reshape(-1)
        for theirs, ours in _NAMES.items():
            key = key.replace(theirs, ours)
        if "norm" in key or key.startswith("txtmlp.0.") or "prenorm" in key or "postnorm" in key:
            key = key.removesuffix("weight") + ("scale" if key.endswith("weight") else "")
        found[key] = value.contiguous().clone()
    return found


_NAMES = {
    "time_embed.linear_1": "tmlp.0", "time_embed.linear_2": "tmlp.2", "time_mod_proj": "tproj.1",
    "img_in": "first", "txt_in.norm": "txtmlp.0", "txt_in.linear_1": "txtmlp.1",
    "txt_in.linear_2": "txtmlp.3", "text_fusion": "txtfusion", "transformer_blocks": "blocks",
    "final_layer.scale_shift_table": "last.modulation.lin", "final_layer": "last",
    "attn.to_q": "attn.wq", "attn.to_k": "attn.wk", "attn.to_v": "attn.wv", "attn.to_out.0": "attn.wo",
    "attn.to_gate": "attn.gate", "attn.norm_q": "attn.qknorm.qnorm", "attn.norm_k": "attn.qknorm.knorm",
    ".ff.": ".mlp.", "norm1": "prenorm", "norm2": "postnorm", "scale_shift_table": "mod.lin",
}  # fmt: skip


def wan_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors as ComfyUI's file of Qwen-Image's has them: Wan's names."""
    found = {}
    for key, value in state.items():
        for theirs, ours in _VAE.items():
            key = key.replace(theirs, ours)
        match = re.fullmatch(r"decoder.up_blocks.(\d).(resnets|upsamplers).(\d).(.+)", key)
        if match:
            place = 4 * int(match[1]) + (int(match[3]) if match[2] == "resnets" else 3)
            key = f"decoder.upsamples.{place}.{match[4]}"
        found[key] = value
    return found


_VAE = {
    "coder.conv_in": "coder.conv1", "post_quant_conv": "conv2", "quant_conv": "conv1",
    "norm_out": "head.0", "conv_out": "head.2", "mid_block.resnets.0": "middle.0",
    "mid_block.attentions.0": "middle.1", "mid_block.resnets.1": "middle.2", "down_blocks": "downsamples",
    ".norm1.": ".residual.0.", ".conv1.weight": ".residual.2.weight", ".conv1.bias": ".residual.2.bias",
    ".norm2.": ".residual.3.", ".conv2.": ".residual.6.", "conv_shortcut": "shortcut",
    "coder.residual.2": "coder.conv1",
}  # fmt: skip


def host_parts() -> dict[str, Any]:
    """Networks of the least sizes that ComfyUI's own loaders take: heads of 128, twenty of them where text
    states are fused, thirty-six layers of text, four levels of pixels."""
    from diffusers import AutoencoderKLQwenImage, Krea2Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        transformer = Krea2Transformer2DModel(
            num_layers=2, attention_head_dim=128, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=768, text_hidden_dim=HOST_WIDTH, text_intermediate_size=128,
        )  # fmt: skip
        for path, weight in transformer.named_parameters():
            if "norm" in path or "table" in path:
                weight.data.normal_(0, 0.3)
        vae = AutoencoderKLQwenImage(base_dim=8)
        text = _text(HOST_WORDS, HOST_WIDTH, 36, 128)
    return {"transformer": transformer, "vae": vae, "text_encoder": text}


HOST_WIDTH, HOST_WORDS = 40, 151936


def write_files(folder: Path, parts: dict[str, Any], **changed: dict[str, Tensor]) -> dict[str, str]:
    """People's single files, `transformer`, `vae` and `clip`; `changed`: what is in some instead. Returns
    their paths."""
    text = {f"model.{key}": value for key, value in parts["text_encoder"].state_dict().items()}
    states = {
        "transformer": ("krea2_raw_bf16", makers_names(parts["transformer"].state_dict())),
        "vae": ("qwen_image_vae", wan_names(parts["vae"].state_dict())),
        "clip": ("qwen3vl_4b_bf16", text),
    }
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for part, (name, state) in states.items():
        state = changed.get(part, state)
        found[part] = str(folder / f"{name}.safetensors")
        save_file({key: value.contiguous().clone() for key, value in state.items()}, found[part])
    return found
