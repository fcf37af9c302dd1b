"""Turning noise into latents: schedules and samplers that ComfyUI's KSampler offers, for any SD-like model.

Same seed, same picture as there: noise, step sizes and guidance follow its conventions, not diffusers', whose
schedulers space, round and end otherwise; ComfyUI's own k-diffusion cannot be installed without ComfyUI.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import LikenessError, nearest
from .text.chunks import evened

OnStep = Callable[[int, int], None]  # (steps done, steps in all)
FULL = 0.9999  # as much as all of the schedule, in ComfyUI's eyes too


class Denoiser(Protocol):
    """What a sampler needs of a base model."""

    alphas_cumprod: Tensor  # (T,) float64, on the CPU
    prediction_type: str
    tail: int  # last rows of text states that nothing attends to

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor: ...


def training_sigmas(alphas_cumprod: Tensor) -> Tensor:
    """Noise levels (T,) of the training timesteps, lowest first, for latents that keep unit weight."""
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt().float()


def simple_schedule(sigmas: Tensor, steps: int) -> Tensor:
    """Every (T / steps)-th training level from the highest down, then 0: (steps + 1,)."""
    stride = len(sigmas) / steps
    picked = [sigmas[-1 - int(step * stride)] for step in range(steps)]
    return torch.stack([*picked, torch.zeros(())])


def karras_schedule(sigmas: Tensor, steps: int, rho: float = 7.0) -> Tensor:
    """Levels evenly spaced in sigma^(1/rho) (Karras et al. 2022, eq. 5), then 0: (steps + 1,)."""
    ramp = torch.linspace(0, 1, steps)
    low, high = float(sigmas[0]) ** (1 / rho), float(sigmas[-1]) ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1)])


def ddim_schedule(sigmas: Tensor, steps: int) -> Tensor:
    """Evenly spaced levels down to the lowest training level, not 0: (steps + 1,) (MasterWeaver, spec 3).

    With Euler's steps it is DDIM as diffusers has it: "leading" spacing, an offset of 1, without a final 1.
    """
    picked = torch.arange(steps).flip(0) * (len(sigmas) // steps) + 1
    return sigmas[torch.cat([picked, torch.zeros(1, dtype=torch.long)])]


def euler(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor, on_step: OnStep) -> Tensor:
    """Euler steps along the probability flow (Karras et al. 2022, algorithm 2 without its second order)."""
    for i in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[i])) / sigmas[i]
        x = x + slope * (sigmas[i + 1] - sigmas[i])
        on_step(i + 1, len(sigmas) - 1)
    return x


def dpmpp_2m(
    denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor, on_step: OnStep
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022): the last two denoised latents, extrapolated in log noise level."""
    before = None
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            x = denoised
        else:
            h = (sigmas[i] / sigmas[i + 1]).log()
            ahead = denoised
            if before is not None:
                ratio = (sigmas[i - 1] / sigmas[i]).log() / h
                ahead = denoised + (denoised - before) / (2 * ratio)
            x = (sigmas[i + 1] / sigmas[i]) * x - (-h).expm1() * ahead
        before = denoised
        on_step(i + 1, len(sigmas) - 1)
    return x


SCHEDULES = {"simple": simple_schedule, "karras": karras_schedule, "ddim": ddim_schedule}
SAMPLERS = {"euler": euler, "dpmpp_2m": dpmpp_2m}


def seeded_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Noise (N, C, H, W), picture i from seed i alone: no picture depends on its neighbours."""
    return torch.cat(
        [torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels (N, 3, H, W) in [-1, 1] as (N, H, W, 3) uint8, rounded down as ComfyUI saves them."""
    shades = ((pixels + 1) / 2).clamp(0, 1) * 255
    return shades.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def denoiser(model: Denoiser, context: Tensor, unconditional: Tensor, guidance: float):
    """A function (x, sigma) -> clean latents under classifier-free guidance, both halves in one pass."""
    sigmas = training_sigmas(model.alphas_cumprod)
    guided = guidance != 1.0
    both = torch.cat(evened([unconditional, context], model.tail)) if guided else context

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        timestep = (sigma.log() - sigmas.log()).abs().argmin().to(x.device)
        scaled = x / (sigma**2 + 1).sqrt()
        inputs = torch.cat([scaled, scaled]) if guided else scaled
        output = model.predict(inputs, timestep.expand(len(inputs)), both).to(x.dtype)
        if guided:
            without, along = output.chunk(2)
            output = without + guidance * (along - without)
        if model.prediction_type == "v_prediction":
            return x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1).sqrt()
        return x - output * sigma

    return denoise


def sample(
    model: Denoiser,
    context: Tensor,
    unconditional: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
    sampler: str = "euler",
    schedule: str = "simple",
    on_step: OnStep | None = None,
    start: Tensor | None = None,
    denoise: float = 1.0,
) -> Tensor:
    """Latents (N, C, H, W) from noise (N, C, H, W) and contexts (N, T, D).

    With `start`, latents to begin from, `denoise` is the share of the schedule that is run, as KSampler has
    it: at 1 hardly anything of them is left, near 0 all of it.
    """
    for what, name, known in (("sampler", sampler, SAMPLERS), ("schedule", schedule, SCHEDULES)):
        if name not in known:
            raise LikenessError(
                f"unknown {what} '{name}'{nearest(name, known) or f'; valid are {list(known)}'}"
            )
    if not 0 < denoise <= 1:
        raise LikenessError(f"denoise is {denoise}; give a share above 0, up to 1")
    whole = training_sigmas(model.alphas_cumprod)
    sigmas = SCHEDULES[schedule](whole, steps if denoise >= FULL else int(steps / denoise))[-(steps + 1) :]
    loudest = bool(sigmas[0] >= whole[-1] * FULL)
    x = noise * ((1 + sigmas[0] ** 2).sqrt() if loudest else sigmas[0])
    x = x if start is None else x + start
    clean = denoiser(model, context, unconditional, guidance)
    x = SAMPLERS[sampler](clean, x, sigmas, on_step or (lambda done, total: None))
    return x / (1 + sigmas[-1] ** 2).sqrt()  # of unit weight again where a schedule does not end at 0
