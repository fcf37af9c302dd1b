"""Where in the latents a prompt looks that stock nodes gave an area of its own (Conditioning, Set Area)."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..inference.refocus import Area


def area_of(entry: Mapping[str, Any], latents: tuple[int, int]) -> Area:
    """The area of a prompt (an entry of a sampling step), cut as ComfyUI cuts it; else all latents."""
    area = entry.get("area")
    if area is None:
        return (*latents, 0, 0)
    height, width, top, left = area
    return min(height, latents[0] - top), min(width, latents[1] - left), top, left


def part_of(region: Tensor, latents: tuple[int, int], area: Area) -> Tensor:
    """What of a region (1, 1, h, w) over the whole picture lies in an area: cut, not squeezed into it."""
    height, width, top, left = area
    if (height, width) == latents:
        return region
    fine = [max(1, side // whole) for side, whole in zip(region.shape[-2:], latents)]
    whole = F.adaptive_avg_pool2d(region.float(), (latents[0] * fine[0], latents[1] * fine[1]))
    corner, sides = (top, left), (height, width)
    rows, columns = (slice(k * at, k * (at + long)) for k, at, long in zip(fine, corner, sides))
    return whole[..., rows, columns]
