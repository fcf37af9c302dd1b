"""Builds the base model of a training run from weights that came out of ComfyUI's MODEL, CLIP and VAE."""

from typing import Any

import torch
from torch import Tensor

from ..networks.weights import BaseWeights, TextTower
from .base_model import BaseModel, noise_schedule

STANDARD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def base_from_graph(weights: BaseWeights) -> BaseModel:
    """diffusers' classes around the given tensors, which they take over."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):  # the weights are there already: none are drawn, none are copied
        unet: Any = UNet2DConditionModel.from_config(dict(weights.unet_config))
        vae: Any = AutoencoderKL.from_config(dict(weights.vae_config))
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
        attention_side=16 if weights.family == "miniature" else None,
        fingerprint=weights.fingerprint,
    )


def _text_encoder(tower: TextTower) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):  # building it draws random weights first
        encoder = CLIPTextModel(CLIPTextConfig(**tower.config))
    prefixed = any(name.startswith("text_model.") for name in encoder.state_dict())  # transformers before 5
    encoder.load_state_dict(
        {f"text_model.{name}" if prefixed else name: weight for name, weight in tower.weights.items()}
    )
    return encoder


def _exact_schedule(alphas_cumprod: Tensor) -> Tensor:
    """The schedule in float64 where ComfyUI's fp32 one is the usual one, so that both ways in train alike."""
    usual = noise_schedule({**STANDARD, "num_train_timesteps": len(alphas_cumprod)})
    return usual if torch.allclose(usual, alphas_cumprod.double(), atol=1e-5) else alphas_cumprod
