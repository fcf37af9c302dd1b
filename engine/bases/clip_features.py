"""A picture's feature for the mapper: what a CLIP image tower makes of the whole picture."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..artifact.inert_folder import pretrained
from ..artifact.tensors import read_tensors
from ..errors import LikenessError
from ..files import reading

MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(pixels: Tensor, side: int = 224) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] as a CLIP image tower takes them: (B, 3, side, side)."""
    resized = F.interpolate(pixels.float(), size=(side, side), mode="bicubic", align_corners=True)
    mean, spread = (resized.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, SPREAD))
    return ((resized + 1) / 2 - mean) / spread


@torch.no_grad()
def image_features(tower: Any, pixels: Tensor) -> Tensor:
    """Features (B, D), as they come, of pixels (B, 3, H, W) in [-1, 1]; `tower` is transformers' model."""
    return tower(clip_pixels(pixels, tower.config.image_size)).image_embeds.float()


def load_tower(folder: str | Path) -> Any:
    """A CLIP image tower with its projection from a transformers folder; nothing is downloaded."""
    from transformers import CLIPVisionModelWithProjection

    path = Path(os.path.expanduser(folder))
    if not (path / "config.json").is_file():
        raise LikenessError(
            f"{path} is no CLIP image tower; give a transformers folder, such as that of "
            "openai/clip-vit-base-patch32 with its config.json and weights"
        )
    return pretrained(CLIPVisionModelWithProjection, path)


def read_features(path: str | Path, count: int) -> Tensor:
    """Features (count, D) that another program computed, from a safetensors file with `image_embeds`."""
    with reading(path, "holds no image_embeds; compute the features again"):
        features = read_tensors(path, "compute the features again")["image_embeds"].float()
    if features.ndim != 2 or len(features) != count:
        raise LikenessError(
            f"{path} holds features of shape {tuple(features.shape)}, not one for each of {count} pictures; "
            "compute them again"
        )
    return features
