"""Small random changes to pictures that leave what they show as it is."""

from collections.abc import Sequence

import torch
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)  # how bright the eye finds red, green and blue
JITTERS = ("brightness", "contrast", "saturation")


def jittered(pixels: Tensor, factors: Sequence[float], order: Sequence[int]) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] with the JITTERS scaled by their factors, one after the other."""
    pixels = (pixels + 1) / 2
    for number in order:
        grey = (pixels * pixels.new_tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)
        towards = {
            "brightness": torch.zeros_like(grey),
            "contrast": grey.mean((2, 3), keepdim=True),
            "saturation": grey,
        }[JITTERS[number]]
        pixels = torch.lerp(towards.expand_as(pixels), pixels, factors[number]).clamp(0, 1)
    return pixels * 2 - 1


def mirrored(pictures: Tensor) -> Tensor:
    """Left and right exchanged: pictures (B, C, H, W)."""
    return pictures.flip(-1)
