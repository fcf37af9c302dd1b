"""How strong MagicTailor's noise outside the masks has to be: by what passes an encoder, not by a number.

Encoders differ. Of the variance that latents have outside the masks, noise of the published strength changes
0.30 on SD 1.x, but 0.04 on the Miniature: there nothing is hidden by it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bases.base import BaseModel
from ..data.examples import Examples
from .component_losses import degraded

WANTED_SHARE = 0.3  # of the variance: what 0.5 changes on SD 1.x, measured on photographs
PUBLISHED_NOISE = 0.5  # where nothing lies outside the masks, nothing can be measured
LEAST_NOISE, MOST_NOISE = 0.05, 1.0  # beyond, hardly more changes: pixels are clamped
_PICTURES, _DRAWS, _HALVINGS = 3, 2, 5


def variance_share(latents: Tensor, noised: Tensor, outside: Tensor) -> float:
    """How much of the latents' variance changes with the noise.

    latents (B, C, h, w); noised (D, B, C, h, w): with D draws of noise; outside (B, 1, h, w): 1 where latents
    lie wholly outside the masks, else 0. The variance over draws against that over places, each channel's
    mean taken away.
    """
    count = outside.sum()
    means = (latents * outside).sum((0, 2, 3), keepdim=True) / count
    there = ((latents - means).square() * outside).sum()
    return float((noised.var(0) * outside).sum() / there)


def chosen_intensity(
    base: BaseModel, examples: Examples, generator: torch.Generator, check: Callable[[], None]
) -> tuple[float, float]:
    """The least strength by which `WANTED_SHARE` of the variance changes, at most 1, and the share that does
    change; measured on a few of the pictures."""
    pictures = range(0, len(examples), max(1, len(examples) // _PICTURES))[:_PICTURES]
    pixels, masks = (torch.stack([part[i] for i in pictures]) for part in (examples.pixels, examples.masks))
    latents, _ = base.encode_posterior(pixels)
    outside = (F.adaptive_avg_pool2d(masks, (latents.shape[-2], latents.shape[-1])) == 0).to(latents)
    if not outside.any():
        return PUBLISHED_NOISE, 0.0
    noise = torch.randn(_DRAWS, *pixels.shape, generator=generator)

    def share(intensity: float) -> float:
        check()
        noised = [base.encode_posterior(degraded(pixels, masks, one, intensity))[0] for one in noise]
        return variance_share(latents, torch.stack(noised), outside)

    low, high, changed = LEAST_NOISE, MOST_NOISE, share(MOST_NOISE)
    if changed <= WANTED_SHARE:
        return MOST_NOISE, changed
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        now = share(middle)
        if now < WANTED_SHARE:
            low = middle
        else:
            high, changed = middle, now
    return high, changed
