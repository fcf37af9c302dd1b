"""Bases of real sizes with random weights: what speed and memory are measured on without a model at hand."""

from typing import Any

import torch

from ...errors import LikenessError, nearest
from ...miniature import model as miniature
from ..base import BaseModel
from .folder import FAMILIES, SD_SCHEDULE, noise_schedule
from .single_file import padded

SD15 = {"sample_size": 64, "cross_attention_dim": 768}  # the rest is what diffusers takes unasked
SD2 = {
    "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}  # fmt: skip
SDXL = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True, "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "sd15": ("sd1", SD15),
    "sd2": ("sd2", SD2),
    "sdxl": ("sdxl", SDXL),
}
VAE = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
TEXT = {  # width, inner width, layers, heads
    "clip_l": (768, 3072, 12, 12),
    "clip_h": (1024, 4096, 23, 16),
    "clip_g": (1280, 5120, 32, 20),
}
WORDS = 49_408  # of CLIP's vocabulary


def random_base(name: str, device: torch.device) -> BaseModel:
    """A base of this architecture, made on the device; it reads words with the Miniature's tokenizer."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if name not in ARCHITECTURES:
        hint = nearest(name, ARCHITECTURES) or f"; valid are miniature, {', '.join(ARCHITECTURES)}"
        raise LikenessError(f"unknown architecture '{name}'{hint}")
    family, config = ARCHITECTURES[name]
    with torch.device(device):
        unet = UNet2DConditionModel(**config)
        vae = AutoencoderKL(**VAE, scaling_factor=FAMILIES[family].latent_scale)
        encoders = {encoder: _text_encoder(encoder) for encoder in FAMILIES[family].encoders}
    return BaseModel(
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers={encoder: padded(miniature.tokenizer(), encoder) for encoder in encoders},
        alphas_cumprod=noise_schedule(SD_SCHEDULE),
        family=family,
        resolution=config["sample_size"] * 8,
        fingerprint="random",
    )


def _text_encoder(name: str) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    width, inner, layers, heads = TEXT[name]
    tokenizer = miniature.tokenizer()
    config = CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act="quick_gelu" if name == "clip_l" else "gelu",
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if name == "clip_g" else CLIPTextModel)(config)
