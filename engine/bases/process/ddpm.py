"""Noise prediction in discrete timesteps, as Stable Diffusion learned it: epsilon or velocity.

The only place that knows timesteps of a schedule; everybody else counts t in [0, 1]. A timestep k of T is
t = k / T, so that times drawn below t stand for timesteps below t * T.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...devices import to_device
from ...errors import LikenessError
from ..families import KNOWN
from .schedules import scheduled

SD_SCHEDULE = {  # of SD 1.x, SD 2.x and SDXL alike
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
MOST_STEPS = 100_000  # of any schedule that we read; known ones have 1000
PUBLISHED_STEPS = 1000  # in which papers count time
LAST_ALPHA = 4.8973451890853435e-08  # of a zero-terminal-SNR schedule: ComfyUI's, for 0 divides nothing
FULL = 0.9999  # as much as all of the schedule, in ComfyUI's eyes too


def noise_schedule(config: Mapping[str, Any]) -> Tensor:
    """alphas_cumprod (T,) in float64 from a diffusers scheduler's config."""
    count, kind = config["num_train_timesteps"], config["beta_schedule"]
    start, end = config["beta_start"], config["beta_end"]
    if type(count) is not int or not 2 <= count <= MOST_STEPS or not 0 < start <= end < 1:
        raise LikenessError(
            f"this base's noise schedule says {count} steps from {start} to {end}, which is none; get its "
            "scheduler_config.json again"
        )
    if kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    elif kind == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float64)
    else:
        raise LikenessError(f"this base's noise schedule '{kind}' is not supported; use {KNOWN}")
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    return zero_terminal_snr(alphas_cumprod) if config.get("rescale_betas_zero_snr") else alphas_cumprod


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule (T,) stretched until no signal is left at its end (Lin et al. 2023, alg. 1)."""
    signal = alphas_cumprod.sqrt()
    stretched = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return torch.cat([stretched[:-1].square(), alphas_cumprod.new_tensor([LAST_ALPHA])])


def training_sigmas(alphas_cumprod: Tensor) -> Tensor:
    """Noise levels (T,) of the training timesteps, lowest first, for latents that keep unit weight."""
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt().float()


@cache
def published_sigmas() -> Tensor:
    """The noise (1000,), for latents of unit weight, at each timestep that papers name."""
    return training_sigmas(noise_schedule(SD_SCHEDULE))


class DDPM:
    """x_k = sqrt(a_k) x0 + sqrt(1 - a_k) noise; the network predicts the noise, or the velocity
    (Salimans & Ho 2022)."""

    weighs_by_snr = True
    estimates_until = 1.0  # as published: losses that look at pictures take a share of their own

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str = "epsilon") -> None:
        self.alphas_cumprod = alphas_cumprod.double().cpu()  # (T,); no buffer: casting must not round it
        self.prediction_type = prediction_type
        self.sigma_table = training_sigmas(self.alphas_cumprod)
        self._shares: dict[torch.device, Tensor] = {}  # alphas_cumprod in fp32 where it was needed

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def recipe(self) -> bytes:
        return f"{self.prediction_type} ".encode() + self.alphas_cumprod.numpy().round(6).tobytes()

    def timesteps(self, t: Tensor) -> Tensor:
        """The timesteps (B,) that times (B,) stand for."""
        return (t * len(self)).round().long().clamp(0, len(self) - 1)

    def times(self, timesteps: Tensor) -> Tensor:
        """The times (B,) in fp32 of timesteps (B,)."""
        return timesteps.float() / len(self)

    def _alpha(self, t: Tensor) -> Tensor:
        """Share of the signal's variance left: (B, 1, 1, 1) fp32."""
        shares = self._shares.get(t.device)
        if shares is None:
            shares = self._shares[t.device] = to_device(self.alphas_cumprod.float(), t.device)
        return shares[self.timesteps(t)].view(-1, 1, 1, 1)

    # ------------------------------------------------------------------------------------------- learning

    def sample_times(
        self, count: int, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0,
        latents: int | None = None, uniform: bool = False,
    ) -> Tensor:  # fmt: skip
        """All timesteps within are equally likely."""
        first = round(low * len(self))
        last = max(first + 1, round(high * len(self)))
        return self.times(torch.randint(first, last, (count,), generator=generator))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha = self._alpha(t)
        return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        alpha = self._alpha(t)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0

    def predict_x0(self, xt: Tensor, output: Tensor, t: Tensor) -> Tensor:
        alpha = self._alpha(t)
        if self.prediction_type == "epsilon":
            return (xt - (1 - alpha).sqrt() * output) / alpha.sqrt()
        return alpha.sqrt() * xt - (1 - alpha).sqrt() * output

    def estimate_weight(self, t: Tensor) -> Tensor:
        return torch.ones(len(t), device=t.device)

    def loss_weight(self, t: Tensor, gamma: float | None, debiased: bool = False) -> Tensor:
        """1 without either."""
        if gamma is None and not debiased:
            return torch.ones(len(t), device=t.device)
        alpha = self._alpha(t).flatten()
        snr = alpha / (1 - alpha)
        # a velocity error weighs snr + 1 already
        scale = snr if self.prediction_type == "epsilon" else snr + 1
        return (snr.sqrt() if debiased else snr.clamp(max=gamma)) / scale

    # ---------------------------------------------------------------------------------------- what t means

    def network_time(self, t: Tensor) -> Tensor:
        """Timesteps (B,)."""
        return self.timesteps(t)

    def from_network_time(self, network_time: Tensor) -> Tensor:
        return self.times(network_time)

    def published_time(self, timestep: float) -> float:
        """Every schedule of 1000 timesteps is taken for the published one: models are drawn with as they
        were, whatever their last steps were stretched to."""
        return min(timestep, len(self)) / len(self)

    def published_timestep(self, t: Tensor) -> Tensor:
        return self.timesteps(t).float()

    def progress(self, t: float) -> float:
        return 1 - round(t * len(self)) / (len(self) - 1)

    # --------------------------------------------------------------------------------------------- drawing

    def sigmas(self, steps: int, schedule: str, latents: int | None = None) -> Tensor:
        return scheduled(self.sigma_table, steps, schedule)

    def time_of(self, sigma: Tensor) -> Tensor:
        """Of the nearest timestep."""
        return self.times((sigma.log() - self.sigma_table.log()).abs().argmin())

    def begin(self, noise: Tensor, start: Tensor | None, sigma: Tensor) -> Tensor:
        loudest = bool(sigma >= self.sigma_table[-1] * FULL)
        x = noise * ((1 + sigma**2).sqrt() if loudest else sigma)
        return x if start is None else x + start

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (sigma**2 + 1).sqrt()

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        if self.prediction_type == "v_prediction":
            return x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1).sqrt()
        return x - output * sigma

    def finish(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2).sqrt()  # of unit weight again where a schedule does not end at 0
