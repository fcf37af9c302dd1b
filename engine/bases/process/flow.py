"""Rectified flow (Liu et al. 2022; Esser et al. 2024): x_s = (1 - s) x0 + s noise; the network predicts the
way from the one to the other. t is s; a level sigma is s too.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .ddpm import PUBLISHED_STEPS, published_sigmas
from .schedules import OWN, scheduled

LEVELS = 1000  # in the table that schedules pick from, as ComfyUI has it
FLUX2_SHIFT = math.exp(2.02)  # that ComfyUI draws FLUX.2 at: of 1024 pixels a side and 50 steps
FLUX2_LEVELS = 10_000  # in ComfyUI's table of it
Z_IMAGE_SHIFT = 3.0
KREA2_SHIFT = math.exp(1.15)  # that ComfyUI draws Krea 2 at
_MINIATURE_SHIFT = 2.0  # the second Miniature's pictures are small
_FLUX2_STEPS = 50  # for which the base's own shift is that at any size: what it is learned at
_EDGE = 1e-5  # how near to its ends a time is drawn: ln(0) is no number


class RectifiedFlow:
    """`shift` moves the times that are learned and drawn at towards noise, as large pictures need it:
    s = shift u / (1 + (shift - 1) u). `time_scale`: what the network is told is s times so much. `shift_at`:
    the base's own shift for so many latents in a picture and so many steps, where it has one. `noise_scale`:
    published timesteps lie at so many times their noise (a picture's side over 512 pixels)."""

    weighs_by_snr = False
    estimates_until = 0.5

    def __init__(
        self,
        shift: float = 1.0,
        time_scale: float = 1.0,
        levels: int = LEVELS,
        shift_at: Callable[[int, int], float] | None = None,
        noise_scale: float = 1.0,
    ) -> None:
        self.noise_scale = noise_scale
        self.shift = shift
        self.time_scale = time_scale
        self.shift_at = shift_at
        self.sigma_table = self.shifted(torch.arange(1, levels + 1) / levels)

    @property
    def log_shift(self) -> float:
        """As ComfyUI is told of it."""
        return math.log(self.shift)

    def recipe(self) -> bytes:
        return f"flow {self.shift} {self.time_scale}".encode()

    def shifted(self, u: Tensor, shift: float | None = None) -> Tensor:
        """Times (…) in [0, 1] that are evenly spread, moved towards 1."""
        shift = shift or self.shift
        return shift * u / (1 + (shift - 1) * u)

    def unshifted(self, s: float, shift: float | None = None) -> float:
        """The way back."""
        shift = shift or self.shift
        return s / (shift - (shift - 1) * s)

    # ------------------------------------------------------------------------------------------- learning

    def sample_times(
        self, count: int, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0,
        latents: int | None = None, uniform: bool = False,
    ) -> Tensor:  # fmt: skip
        """Logit-normal (Esser et al. 2024) or uniform, then shifted as the base is for pictures of so many
        latents; from `low` to `high` with the same density."""
        shift = self.shift
        if self.shift_at is not None and latents is not None:
            shift = self.shift_at(latents, _FLUX2_STEPS)
        ends = [self.unshifted(min(max(end, 0.0), 1.0), shift) for end in (low, high)]
        if not uniform:
            ends = [_normal_share(end) for end in ends]
        share = ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=generator)  # (count,)
        share = share.clamp(_EDGE, 1 - _EDGE)
        return self.shifted(share if uniform else torch.special.ndtri(share).sigmoid(), shift)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        s = t.view(-1, 1, 1, 1)
        return (1 - s) * x0 + s * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def predict_x0(self, xt: Tensor, output: Tensor, t: Tensor) -> Tensor:
        return xt - t.view(-1, 1, 1, 1) * output

    def estimate_weight(self, t: Tensor) -> Tensor:
        """(1 - s)^2: an estimate's error is s times that of the velocity."""
        return (1 - t).square() * (t <= self.estimates_until)

    def loss_weight(self, t: Tensor, gamma: float | None, debiased: bool = False) -> Tensor:
        """1: where times are drawn says how much each counts, and weights by SNR have no counterpart here."""
        return torch.ones(len(t), device=t.device)

    # ---------------------------------------------------------------------------------------- what t means

    def network_time(self, t: Tensor) -> Tensor:
        return t * self.time_scale

    def from_network_time(self, network_time: Tensor) -> Tensor:
        return network_time / self.time_scale

    def published_time(self, timestep: float) -> float:
        """By the noise beside a picture of unit weight: s / (1 - s) is that of the timestep, scaled."""
        if timestep <= 0 or timestep >= PUBLISHED_STEPS:
            return float(timestep > 0)
        noise = published_sigmas()
        below = int(timestep)
        above = min(below + 1, PUBLISHED_STEPS - 1)
        level = self.noise_scale * float(torch.lerp(noise[below], noise[above], timestep - below))
        return level / (1 + level)

    def published_timestep(self, t: Tensor) -> Tensor:
        noise = (t / (1 - t).clamp(min=_EDGE)).clamp(min=_EDGE).log()  # (B,)
        log_sigmas = (self.noise_scale * published_sigmas()).log().to(t.device)  # (1000,)
        return (noise[:, None] - log_sigmas).abs().argmin(1).float()

    def progress(self, t: float) -> float:
        return 1 - self.unshifted(t)

    # --------------------------------------------------------------------------------------------- drawing

    def sigmas(self, steps: int, schedule: str, latents: int | None = None) -> Tensor:
        if schedule == OWN and self.shift_at is not None and latents is not None:
            return self.shifted(torch.linspace(1, 0, steps + 1), self.shift_at(latents, steps))
        return scheduled(self.sigma_table, steps, schedule)

    def time_of(self, sigma: Tensor) -> Tensor:
        return sigma

    def begin(self, noise: Tensor, start: Tensor | None, sigma: Tensor) -> Tensor:
        return sigma * noise if start is None else sigma * noise + (1 - sigma) * start

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * output

    def finish(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 - sigma)


def flux2_shift(latents: int, steps: int) -> float:
    """FLUX.2's own shift for pictures of so many latents (256 pixels each) drawn in so many steps, as Black
    Forest Labs and ComfyUI's Flux2Scheduler have it."""
    many = 0.00016927 * latents + 0.45666666  # what mu is at 200 steps; at 10 it is `few`
    if latents > 4300:
        return math.exp(many)
    few = 8.73809524e-05 * latents + 1.89833333
    slope = (many - few) / 190
    return math.exp(slope * steps + many - 200 * slope)


def flux2_flow(noise_scale: float = 1.0) -> RectifiedFlow:
    """The process of all FLUX.2 models."""
    return RectifiedFlow(
        shift=FLUX2_SHIFT, levels=FLUX2_LEVELS, shift_at=flux2_shift, noise_scale=noise_scale
    )


def z_image_flow(noise_scale: float = 1.0) -> RectifiedFlow:
    """The process of all Z-Image models: one shift for pictures of every size."""
    return RectifiedFlow(
        shift=Z_IMAGE_SHIFT, shift_at=lambda _latents, _steps: Z_IMAGE_SHIFT, noise_scale=noise_scale
    )


def krea2_shift(latents: int, steps: int) -> float:
    """Krea 2 RAW's own shift for pictures of so many latents (64 pixels each), of which four are a token."""
    return math.exp(0.5 + (1.15 - 0.5) * (latents / 4 - 256) / (6400 - 256))


def krea2_flow(
    shift_at: Callable[[int, int], float] = krea2_shift, noise_scale: float = 1.0
) -> RectifiedFlow:
    """The process of Krea 2, which ComfyUI draws at one shift whatever the size."""
    return RectifiedFlow(shift=KREA2_SHIFT, levels=FLUX2_LEVELS, shift_at=shift_at, noise_scale=noise_scale)


def miniature_flow() -> RectifiedFlow:
    """The second Miniature's process."""
    return RectifiedFlow(shift=_MINIATURE_SHIFT, levels=FLUX2_LEVELS)


def _normal_share(u: float) -> float:
    """Which share of a logit-normal's numbers lie below u."""
    if u <= 0 or u >= 1:
        return float(u >= 1)
    return 0.5 * (1 + math.erf(math.log(u / (1 - u)) / math.sqrt(2)))
