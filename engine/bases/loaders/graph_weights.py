"""A base model on its way from ComfyUI into training: plain tensors under diffusers' names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """One CLIP text encoder."""

    config: Mapping[str, Any]  # of transformers' CLIPTextConfig
    weights: Mapping[str, Tensor]  # without the level text_model; text_projection.weight where it is read
    tokenizer: Any  # transformers' CLIPTokenizer; its pad token is the one this encoder was trained with


@dataclass(frozen=True, kw_only=True)
class BaseWeights:
    """U-Net, autoencoder and text encoders, fp32 copies that nobody else holds."""

    family: str  # a key of FAMILIES
    prediction_type: str  # "epsilon" or "v_prediction"
    resolution: int  # pixels a side
    alphas_cumprod: Tensor  # (T,)
    unet_config: Mapping[str, Any]
    unet: Mapping[str, Tensor]
    vae_config: Mapping[str, Any]
    vae: Mapping[str, Tensor]
    text_towers: Mapping[str, TextTower]  # by ComfyUI's name: clip_l, clip_g, clip_h
    fingerprint: str | None = None  # None: from the weights
