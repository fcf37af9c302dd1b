"""Bases of real sizes with random weights: what speed and memory are measured on without a model at hand."""

from typing import Any

import torch

from ...errors import LikenessError, nearest
from ...miniature import model as miniature
from ...miniature import second
from ..base import BaseModel, flux2_base, krea2_base, unet_base, z_image_base
from ..denoisers.z_image import z_image_class
from ..families import FAMILIES
from ..process.ddpm import SD_SCHEDULE, noise_schedule
from ..text.krea2 import KREA2_TAPS
from ..text.qwen import TAPS
from .flux2 import Flux2Parts, flux2_classes
from .krea2 import Krea2Parts, krea2_classes
from .single_file import new_text_encoder, padded
from .z_image import ZImageParts

# families by the names that `bench` asks for
SIZED = {
    "sd15": "sd1",
    "sd2": "sd2",
    "sdxl": "sdxl",
    "klein4b": "flux2",
    "z-image": "z_image",
    "krea2": "krea2",
}
_VAE = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_TEXT = {  # width, inner width, layers, heads
    "clip_l": (768, 3072, 12, 12),
    "clip_h": (1024, 4096, 23, 16),
    "clip_g": (1280, 5120, 32, 20),
}
_Z_IMAGE_LAYERS = 35  # of Qwen3's 36, before the last of which it is read
_WORDS = 49_408  # of CLIP's vocabulary


def random_base(name: str, device: torch.device) -> BaseModel:
    """A base of this architecture, made on the device; it reads words with a Miniature's tokenizer."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if name not in SIZED:
        hint = nearest(name, SIZED) or f"; valid are miniature, {', '.join(SIZED)}"
        raise LikenessError(f"unknown architecture '{name}'{hint}")
    row = FAMILIES[SIZED[name]]
    if row.denoiser == "flux2":
        return _random_klein(row.key, device)
    if row.denoiser == "z_image":
        return _random_z_image(device)
    if row.denoiser == "krea2":
        return _random_krea(device)
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


def _random_klein(family: str, device: torch.device) -> BaseModel:
    """Klein 4B as it is stored: in bf16, but for its autoencoder."""
    transformer_class, vae_class = flux2_classes()
    with torch.device(device):
        transformer: Any = transformer_class(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=3 * 2560,
            guidance_embeds=False,
        )  # fmt: skip
        text = _qwen3_4b(TAPS[-1])
        vae = vae_class()
    parts = Flux2Parts(
        family=family, transformer=transformer.bfloat16(), vae=vae, text_encoder=text.bfloat16(), taps=TAPS,
        tokenizer=second.chat_tokenizer(),
    )  # fmt: skip
    return flux2_base(parts, fingerprint="random")


def _qwen3_4b(layers: int) -> Any:
    """Qwen3-4B as far as so many of its layers."""
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(
        Qwen3Config(
            vocab_size=151_936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=layers,
            num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        )
    )  # fmt: skip


def _random_z_image(device: torch.device) -> BaseModel:
    """Z-Image as it is stored: in bf16, but for its autoencoder, which is FLUX.1's. diffusers' defaults are
    its sizes."""
    from diffusers import AutoencoderKL

    with torch.device(device):
        transformer: Any = z_image_class()()
        text = _qwen3_4b(_Z_IMAGE_LAYERS)
        vae = AutoencoderKL(
            **{**_VAE, "latent_channels": 16}, scaling_factor=0.3611, shift_factor=0.1159,
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
    parts = ZImageParts(
        transformer=transformer.bfloat16(), vae=vae, text_encoder=text.bfloat16(), taps=(_Z_IMAGE_LAYERS,),
        tokenizer=miniature.tokenizer(),
    )  # fmt: skip
    return z_image_base(parts, fingerprint="random")


def _random_krea(device: torch.device) -> BaseModel:
    """Krea 2 as it is stored: in bf16, but for norms and its autoencoder."""
    transformer_class, vae_class = krea2_classes()
    with torch.device(device):
        transformer: Any = transformer_class().bfloat16()
        text, vae = _qwen3_4b(KREA2_TAPS[-1]), vae_class()
    for name, module in transformer.named_modules():
        if "norm" in name.rpartition(".")[2]:
            module.float()
    parts = Krea2Parts(
        transformer=transformer, vae=vae, text_encoder=text.bfloat16(), taps=KREA2_TAPS,
        tokenizer=miniature.tokenizer(),
    )  # fmt: skip
    return krea2_base(parts, fingerprint="random")
