"""Turning noise into latents: samplers that ComfyUI's KSampler offers, for any base and process.

Same seed, same picture as there: noise, step sizes and guidance follow its conventions, not diffusers', whose
schedulers space, round and end otherwise; ComfyUI's own k-diffusion cannot be installed without ComfyUI.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import LikenessError, nearest
from .conditioning import Conditioning
from .process.ddpm import FULL
from .process.protocol import Process

OnStep = Callable[[int, int], None]  # (steps done, steps in all)


class DiffusionModel(Protocol):
    """What a sampler needs of a base model, or of what stands before one."""

    process: Process

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...


# from a model, and which of a run's pictures it draws, to what draws them instead
ModelWrapper = Callable[[DiffusionModel, Sequence[int]], DiffusionModel]


def unwrapped(model: DiffusionModel, pictures: Sequence[int]) -> DiffusionModel:
    """The model itself."""
    return model


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


_SAMPLERS = {"euler": euler, "dpmpp_2m": dpmpp_2m}


def seeded_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Noise (N, C, H, W), picture i from seed i alone: no picture depends on its neighbours."""
    return torch.cat(
        [torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels (N, 3, H, W) in [-1, 1] as (N, H, W, 3) uint8, rounded down as ComfyUI saves them."""
    shades = ((pixels + 1) / 2).clamp(0, 1) * 255
    return shades.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def denoiser(model: DiffusionModel, context: Conditioning, unconditional: Conditioning, guidance: float):
    """A function (x, sigma) -> clean latents under classifier-free guidance, both halves in one pass."""
    process, guided = model.process, guidance != 1.0
    both = Conditioning.cat([unconditional, context]) if guided else context

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        t = process.time_of(sigma).to(x.device)
        scaled = process.network_input(x, sigma)
        inputs = torch.cat([scaled, scaled]) if guided else scaled
        output = model.predict(inputs, t.expand(len(inputs)), both).to(x.dtype)
        if guided:
            without, along = output.chunk(2)
            output = without + guidance * (along - without)
        return process.denoised(x, output, sigma)

    return denoise


def sample(
    model: DiffusionModel,
    context: Conditioning,
    unconditional: Conditioning,
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
    """Latents (N, C, h, w) from noise (N, C, h, w) and what N prompts say.

    With `start`, latents to begin from, `denoise` is the share of the schedule that is run, as KSampler has
    it: at 1 hardly anything of them is left, near 0 all of it.
    """
    if sampler not in _SAMPLERS:
        hint = nearest(sampler, _SAMPLERS) or f"; valid are {list(_SAMPLERS)}"
        raise LikenessError(f"unknown sampler '{sampler}'{hint}")
    if not 0 < denoise <= 1:
        raise LikenessError(f"denoise is {denoise}; give a share above 0, up to 1")
    process = model.process
    count = steps if denoise >= FULL else int(steps / denoise)
    whole = process.sigmas(count, schedule, noise.shape[-2] * noise.shape[-1])
    sigmas = whole[-(steps + 1) :]
    x = process.begin(noise, start, sigmas[0])
    clean = denoiser(model, context, unconditional, guidance)
    x = _SAMPLERS[sampler](clean, x, sigmas, on_step or (lambda done, total: None))
    return process.finish(x, sigmas[-1])
