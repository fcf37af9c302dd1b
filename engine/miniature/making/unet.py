"""The Miniature's diffusion model: denoises cached latents while its text encoder goes on listening."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from .. import model
from .dataset import Dataset
from .fitting import fit, half_precision
from .text import Listener, fresh_captions, listening_loss

CAPTION_DROP = 0.1
MIN_SNR_GAMMA = 5.0
LISTENING_WEIGHT = 0.02
TEXT_RATE = 0.2  # the text encoder's learning rate as a share of the UNet's


class UNetTrainer(nn.Module):
    """UNet and listener together: what the diffusion stage trains."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel(**model.miniature_unet_config())
        self.listener = listener

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Predicted noise; noisy (B, 4, 16, 16), timesteps (B,), tokens (B, T)."""
        context = self.listener.encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, context).sample


def cache_latents(vae: Any, data: Dataset, file: Path, side: int, device: str = "cpu") -> Tensor:
    """Every picture's latents (N, 4, 16, 16), scaled to unit variance, from `file` if it is there."""
    if not file.exists():
        batches = []
        for start in range(0, len(data), 64):
            pixels = data.images(np.arange(start, min(start + 64, len(data))), device)
            pixels = nn.functional.interpolate(pixels, size=(side, side), mode="area")
            with torch.no_grad(), half_precision(device):
                batches.append(vae.encode(pixels).latent_dist.mode().float().cpu())
        np.save(file, torch.cat(batches).numpy().astype(np.float16))
    latents = torch.from_numpy(np.load(file)).float()
    return latents


def make_unet(
    listener: Listener, data: Dataset, latents: Tensor, work: Path, steps: int,
    batch: int = 32, learning_rate: float = 2e-3, device: str = "cpu",
    report=lambda painter: "", report_every: int = 1000,
) -> UNetTrainer:  # fmt: skip
    """Trains the painter on `latents` (N, 4, 16, 16) of unit variance."""
    torch.manual_seed(0)
    painter = UNetTrainer(listener).to(device)
    schedule: Any = DDPMScheduler.from_config(model.scheduler_config())
    signal = schedule.alphas_cumprod.to(device)
    snr = signal / (1 - signal)
    tokenizer = model.tokenizer()
    empty = torch.tensor(tokenizer("", padding="max_length", max_length=model.MAX_TOKENS)["input_ids"])

    def loss_of(painter: UNetTrainer, rng: np.random.Generator, progress: float) -> Tensor:
        index = torch.from_numpy(rng.integers(0, len(data), batch))
        clean = latents[index].to(device)
        tokens = data.tokens[index, torch.from_numpy(rng.integers(0, data.tokens.shape[1], batch))].clone()
        tokens[torch.from_numpy(rng.random(batch) < CAPTION_DROP)] = empty
        timesteps = torch.from_numpy(rng.integers(0, 1000, batch)).to(device)
        noise = torch.randn_like(clean)
        noisy = schedule.add_noise(clean, noise, timesteps)
        with half_precision(device):
            predicted = painter(noisy, timesteps, tokens.to(device))
        weight = snr[timesteps].clamp(max=MIN_SNR_GAMMA) / snr[timesteps]
        denoising = ((predicted.float() - noise).square().mean((1, 2, 3)) * weight).mean()
        texts, targets = fresh_captions(rng, 16)
        heard = tokenizer(texts, padding="longest", truncation=True, max_length=model.MAX_TOKENS)["input_ids"]
        listening = listening_loss(painter.listener, torch.tensor(heard).to(device), targets.to(device))
        return denoising + LISTENING_WEIGHT * listening

    rates = {"unet": 1.0, "listener": TEXT_RATE}
    groups = [
        {"params": list(getattr(painter, part).parameters()), "rate": rate} for part, rate in rates.items()
    ]  # fmt: skip
    fit(
        "unet", painter, loss_of, steps=steps, learning_rate=learning_rate, work=work, groups=groups,
        report=report, report_every=report_every,
    )  # fmt: skip
    return painter


@torch.no_grad()
def paint(
    painter: UNetTrainer, prompts: list[str], steps: int = 25, guidance: float = 5.0, seed: int = 0
) -> Tensor:
    """Latents (N, 4, 16, 16) drawn by deterministic DDIM steps: a look at the work in progress."""
    from diffusers import DDIMScheduler

    device = next(painter.parameters()).device
    tokenizer = model.tokenizer()
    tokens = torch.tensor(
        tokenizer([""] * len(prompts) + prompts, padding="max_length", truncation=True, max_length=77)[
            "input_ids"
        ]
    ).to(device)
    context = painter.listener.encoder(tokens).last_hidden_state
    schedule: Any = DDIMScheduler.from_config(model.scheduler_config())
    schedule.set_timesteps(steps)
    latents = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(seed)).to(device)
    for step in schedule.timesteps:
        predicted = painter.unet(torch.cat([latents, latents]), step, context).sample
        without, with_text = predicted.chunk(2)
        latents = schedule.step(without + guidance * (with_text - without), step, latents).prev_sample
    return latents
