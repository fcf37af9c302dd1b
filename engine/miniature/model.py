"""The Miniature's networks: their configurations, weights and tokenizer, without any diffusion library.

The trainer builds diffusers classes from these, ComfyUI its own classes; both get the same numbers.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTokenizer

from ..errors import LikenessError

WEIGHTS = Path(os.environ.get("LIKENESS_MINIATURE") or Path(__file__).parent / "weights")  # to try others
NETWORKS = (
    "unet",
    "vae",
    "text_encoder",
    "image_encoder",
    "recogniser",
    "reporting_recogniser",
    "parser",
    "reader",
)
RESOLUTION = 128
TEXT_WIDTH = 128
MAX_TOKENS = 77


def miniature_unet_config() -> dict[str, Any]:
    """Arguments of `diffusers.UNet2DConditionModel`: SD 1.x in small, cross-attention at 16x16 and 8x8."""
    return {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (64, 128, 128),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,  # diffusers' name for the number of heads in SD 1.x
        "norm_num_groups": 32,
    }


def vae_config() -> dict[str, Any]:
    """Arguments of `diffusers.AutoencoderKL`: 128 px to 16x16 latents of 4 channels."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (32, 32, 64, 64),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": RESOLUTION,
        "scaling_factor": 0.18215,  # the last encoder layer is scaled so that SD 1.x's factor is right
    }


def text_config() -> dict[str, Any]:
    """Arguments of `transformers.CLIPTextConfig`."""
    tokens = tokenizer()
    return {
        "vocab_size": len(tokens),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": TEXT_WIDTH,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }


def image_config() -> dict[str, Any]:
    """Arguments of `transformers.CLIPVisionConfig`: the image tower, 128 px in patches of 16."""
    return {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": RESOLUTION,
        "patch_size": 16,
        "projection_dim": TEXT_WIDTH,
        "hidden_act": "quick_gelu",
    }


def scheduler_config() -> dict[str, Any]:
    """The noise schedule of SD 1.x, in diffusers' names."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "clip_sample": False,
        "steps_offset": 1,
    }


def weights_file(network: str) -> Path:
    """Where the weights of `network` (one of `NETWORKS`) are."""
    return WEIGHTS / f"{network}.safetensors"


def state_dict(network: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The weights of `network` under diffusers' and transformers' names, stored as fp16, given as `dtype`.

    Raises LikenessError where the file is missing (an incomplete installation).
    """
    path = weights_file(network)
    if not path.is_file():
        raise LikenessError(f"{path.name} of the Miniature is missing; reinstall likeness-portraits")
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key).to(dtype) for key in file.keys()}  # noqa: SIM118 (not a dict)


def tokenizer_folder() -> Path:
    """The folder with vocab.json, merges.txt and tokenizer_config.json."""
    return WEIGHTS / "tokenizer"


def tokenizer() -> CLIPTokenizer:
    """A fresh tokenizer over the world's vocabulary; words it does not know are spelt out in bytes."""
    return CLIPTokenizer.from_pretrained(tokenizer_folder(), local_files_only=True)


@functools.cache
def fingerprint() -> str:
    """Names the weights that a concept was learned on: a hash of the UNet's and text encoder's files."""
    digest = hashlib.sha256()
    for network in ("unet", "text_encoder"):
        digest.update(weights_file(network).read_bytes())
    return digest.hexdigest()[:16]


def card() -> dict[str, Any]:
    """The model card: the measured scores of the shipped weights on held-out people."""
    return json.loads((WEIGHTS / "card.json").read_text())
