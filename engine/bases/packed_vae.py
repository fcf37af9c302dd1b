"""FLUX.2's autoencoder with what belongs to it: two by two latents in one, evened out by their statistics."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SIDE = 2  # latents a side that are packed into one


class Spread(NamedTuple):
    mean: Tensor
    std: Tensor


class Posterior(NamedTuple):
    latent_dist: Spread


class PackedVAE(nn.Module):
    """diffusers' AutoencoderKLFlux2; its latents (B, 4 C, h / 2, w / 2) are those that the network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        config = self.network.config
        self.pixels_per_latent: int = SIDE * 2 ** (len(config.block_out_channels) - 1)
        self.config = SimpleNamespace(latent_channels=SIDE**2 * config.latent_channels, scaling_factor=1.0)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (1, C, 1, 1) of packed latents."""
        norm = self.network.bn
        mean, variance = (part.view(1, -1, 1, 1).to(like) for part in (norm.running_mean, norm.running_var))
        return mean, (variance + norm.eps).sqrt()

    def encode(self, pixels: Tensor) -> Posterior:
        """Of pixels (B, 3, H, W) in [-1, 1]."""
        posterior = self.network.encode(pixels).latent_dist
        mean, deviation = self._statistics(posterior.mean)
        std = nn.functional.pixel_unshuffle(posterior.std, SIDE) / deviation
        return Posterior(
            Spread((nn.functional.pixel_unshuffle(posterior.mean, SIDE) - mean) / deviation, std)
        )

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Pixels (B, 3, H, W)."""
        mean, deviation = self._statistics(latents)
        return (self.network.decode(torch.pixel_shuffle(latents * deviation + mean, SIDE)).sample,)
