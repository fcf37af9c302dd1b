"""The Miniature's CLIP pair as transformers' own classes, with its weights."""

from typing import Any

import torch

from ..bases.text.clip_weights import load_text
from . import model


def text_encoder() -> Any:
    """transformers' CLIPTextModel of the Miniature, fp32 on the CPU; the caller's random numbers stay."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):  # building it draws random weights first
        encoder = CLIPTextModel(CLIPTextConfig(**model.text_config()))
    load_text(encoder, model.state_dict("text_encoder"))
    return encoder


def image_tower() -> Any:
    """transformers' CLIPVisionModelWithProjection of the Miniature, frozen; it takes pixels in [-1, 1]."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng(devices=[]):
        tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**model.image_config()))
    stored = model.state_dict("image_encoder")  # the pair that was trained together: the words' half too
    stored.pop("text_projection.weight", None)
    tower.load_state_dict({name.removeprefix("image."): weight for name, weight in stored.items()})
    return tower.eval().requires_grad_(False)
