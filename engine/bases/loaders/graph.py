"""Builds the base model of a training run from weights that came out of ComfyUI's MODEL, CLIP and VAE."""

from typing import Any

import torch
from torch import Tensor

from ..base import BaseModel
from .folder import SD_SCHEDULE, import_networks, noise_schedule
from .graph_weights import BaseWeights, TextTower
from .single_file import empty, load_text


def base_from_graph(weights: BaseWeights) -> BaseModel:
    """diffusers' classes around the given tensors, which they take over."""
    import_networks()
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = empty(UNet2DConditionModel, weights.unet_config)
    vae = empty(AutoencoderKL, weights.vae_config)
    unet.load_state_dict(dict(weights.unet), assign=True)
    vae.load_state_dict(dict(weights.vae), assign=True)
    return BaseModel(
        unet=unet,
        vae=vae,
        text_encoders={name: _text_encoder(tower) for name, tower in weights.text_towers.items()},
        tokenizers={name: tower.tokenizer for name, tower in weights.text_towers.items()},
        alphas_cumprod=_exact_schedule(weights.alphas_cumprod),
        family=weights.family,
        resolution=weights.resolution,
        prediction_type=weights.prediction_type,
        fingerprint=weights.fingerprint,
    )


def _text_encoder(tower: TextTower) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if "text_projection.weight" in tower.weights else CLIPTextModel
    with torch.random.fork_rng(devices=[]):  # building it draws random weights first
        encoder = kind(CLIPTextConfig(**tower.config))
    load_text(encoder, tower.weights)
    return encoder


def _exact_schedule(alphas_cumprod: Tensor) -> Tensor:
    """The schedule in float64 where ComfyUI's fp32 one is the usual one, so that both ways in train alike."""
    plan = {**SD_SCHEDULE, "num_train_timesteps": len(alphas_cumprod)}
    for usual in (noise_schedule(plan), noise_schedule({**plan, "rescale_betas_zero_snr": True})):
        if torch.allclose(usual, alphas_cumprod.double(), atol=1e-5):
            return usual
    return alphas_cumprod
