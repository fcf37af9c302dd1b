"""How methods draw with what they have learned so far: previews, and pictures of a class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..bases.base import BaseModel
from ..bases.conditioning import Conditioning
from ..bases.sampling import DiffusionModel, sample, seeded_noise, to_bytes


@dataclass(frozen=True, kw_only=True)
class PreviewDrawing:
    """One picture for each seed."""

    seeds: Sequence[int]
    check: Callable[[], None]  # called often; raises to stop
    steps: int = 20
    guidance: float = 5.0
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the method's square


@torch.no_grad()
def drawn(
    base: BaseModel, model: DiffusionModel, context: Conditioning, size: tuple[int, int], how: PreviewDrawing
) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 of what `context` says, by a model that stands before the base."""
    latents = sample(
        model,
        context,
        base.encode_text([""] * len(how.seeds)),
        seeded_noise(how.seeds, base.latent_shape(*size)).to(base.device),
        steps=how.steps,
        guidance=how.guidance,
        on_step=lambda done, total: how.check(),
    )
    return to_bytes(base.decode(latents))
