"""An autoencoder for video (Wan's, Qwen-Image's) that is given pictures, each a video of one frame."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .packed_vae import Posterior, Spread


class FrameVAE(nn.Module):
    """diffusers' AutoencoderKLQwenImage; its latents (B, C, h, w) are evened out as the network sees them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        config = self.network.config
        self.pixels_per_latent: int = 2 ** len(config.temperal_downsample)
        self.config = SimpleNamespace(latent_channels=config.z_dim, scaling_factor=1.0)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (1, C, 1, 1) of latents."""
        config = self.network.config
        mean, deviation = (
            torch.tensor(part).view(1, -1, 1, 1).to(like)
            for part in (config.latents_mean, config.latents_std)
        )
        return mean, deviation

    def encode(self, pixels: Tensor) -> Posterior:
        """Of pixels (B, 3, H, W) in [-1, 1]."""
        posterior = self.network.encode(pixels[:, :, None]).latent_dist
        mean, deviation = self._statistics(posterior.mean)
        return Posterior(
            Spread((posterior.mean[:, :, 0] - mean) / deviation, posterior.std[:, :, 0] / deviation)
        )

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Pixels (B, 3, H, W)."""
        mean, deviation = self._statistics(latents)
        return (self.network.decode((latents * deviation + mean)[:, :, None]).sample[:, :, 0],)
