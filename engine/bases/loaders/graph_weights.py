"""A base model on its way from ComfyUI into training: tensors under a checkpoint's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """One CLIP text encoder."""

    weights: Mapping[str, Tensor]  # text_model.…, and text_projection.weight
    heads: int  # of each attention layer
    tokenizer: Any  # transformers' CLIPTokenizer


@dataclass(frozen=True, kw_only=True)
class BaseWeights:
    """A single-file checkpoint in memory, fp32 copies that nobody else holds, and what no shape tells; of the
    U-Net, layers in fp8 and int8 as they are, with scales (out, 1) as `….weight_scale`."""

    family: str  # a key of FAMILIES
    prediction_type: str  # "epsilon" or "v_prediction"
    alphas_cumprod: Tensor  # (T,)
    unet: Mapping[str, Tensor]  # model.diffusion_model.…
    heads: int | list[int]  # of the U-Net's attention layers: of all, or of each level
    vae: Mapping[str, Tensor]  # encoder.…, decoder.…, quant_conv.…
    latent_scale: float
    text_towers: Mapping[str, TextTower]  # by ComfyUI's name: clip_l, clip_g, clip_h
    fingerprint: str | None = None  # None: from the weights


@dataclass(frozen=True, kw_only=True)
class Flux2Weights:
    """A FLUX.2's, Z-Image's or Krea 2's single files in memory, copies that nobody else holds, and what no
    shape tells."""

    family: str  # a key of FAMILIES
    transformer: Mapping[str, Tensor]  # by the names of the files that ComfyUI reads
    vae: Mapping[str, Tensor]  # encoder.…, decoder.…; FLUX.2's bn.…
    text_encoder: Mapping[str, Tensor]  # model.layers.…
    taps: tuple[int, ...]  # before which of its layers ComfyUI reads it
    tokenizer: Any  # transformers' Qwen2Tokenizer
    changed: bool = False  # by LoRAs or other patches of the MODEL
    fingerprint: str | None = None  # None: from the weights
