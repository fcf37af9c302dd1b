"""Bases of real sizes with random weights: what speed and memory are measured on without a model at hand."""

from typing import Any

import torch

from ...errors import LikenessError, nearest
from ...miniature import model as miniature
from ..base import BaseModel, unet_base
from ..families import FAMILIES
from ..process.ddpm import SD_SCHEDULE, noise_schedule
from .single_file import new_text_encoder, padded

SIZED = {"sd15": "sd1", "sd2": "sd2", "sdxl": "sdxl"}  # families by the names that `bench` asks for
_VAE = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_TEXT = {  # width, inner width, layers, heads
    "clip_l": (768, 3072, 12, 12),
    "clip_h": (1024, 4096, 23, 16),
    "clip_g": (1280, 5120, 32, 20),
}
_WORDS = 49_408  # of CLIP's vocabulary


def random_base(name: str, device: torch.device) -> BaseModel:
    """A base of this architecture, made on the device; it reads words with the Miniature's tokenizer."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if name not in SIZED:
        hint = nearest(name, SIZED) or f"; valid are miniature, {', '.join(SIZED)}"
        raise LikenessError(f"unknown architecture '{name}'{hint}")
    row = FAMILIES[SIZED[name]]
    with torch.device(device):
        unet = UNet2DConditionModel(**row.network)
        vae = AutoencoderKL(**_VAE, scaling_factor=row.latent_scale)
        encoders = {encoder: _text_encoder(encoder) for encoder in row.encoders}
    return unet_base(
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers={encoder: padded(miniature.tokenizer(), encoder) for encoder in encoders},
        alphas_cumprod=noise_schedule(SD_SCHEDULE),
        family=row.key,
        resolution=row.network["sample_size"] * 8,
        fingerprint="random",
    )


def _text_encoder(name: str) -> Any:
    width, inner, layers, heads = _TEXT[name]
    sizes = {"words": _WORDS, "width": width, "inner": inner, "layers": layers, "heads": heads}
    return new_text_encoder(name, miniature.tokenizer(), **sizes)
