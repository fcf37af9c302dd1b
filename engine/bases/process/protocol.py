"""What training, drawing and methods may ask of a diffusion process, whichever it is."""

from typing import Protocol

import torch
from torch import Tensor


class Process(Protocol):
    """Between latents x0 (B, C, h, w) and noise of their shape; t (B,) in [0, 1]: 0 is the picture, 1 noise.

    Papers count time in timesteps of Stable Diffusion's schedule, 0 to 1000; `published_time` says where one
    of them lies here, by its noise. While drawing, x is what samplers carry, at a level sigma.
    """

    weighs_by_snr: bool  # whether `loss_weight` knows Min-SNR and 1/sqrt(SNR)
    estimates_until: float  # the t beyond which `predict_x0` is not looked at
    sigma_table: Tensor  # (T,) fp32 on the CPU: the levels that schedules pick from, lowest first

    def recipe(self) -> bytes:
        """What tells it from others: of what was drawn by one, nothing is kept for another."""
        ...

    # ------------------------------------------------------------------------------------------- learning

    def sample_times(
        self, count: int, generator: torch.Generator | None, low: float = 0.0, high: float = 1.0,
        latents: int | None = None, uniform: bool = False,
    ) -> Tensor:  # fmt: skip
        """Times (count,) to learn at, as this process spreads them or evenly, from `low` up to `high`, for
        pictures of so many latents where that makes a difference."""
        ...

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The latents as they are at t."""
        ...

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should give for them."""
        ...

    def predict_x0(self, xt: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The latents that the network's output says are behind the noisy ones."""
        ...

    def estimate_weight(self, t: Tensor) -> Tensor:
        """(B,) how far to trust `predict_x0` at t, for losses that look at pictures; 0 from `estimates_until`
        on."""
        ...

    def loss_weight(self, t: Tensor, gamma: float | None, debiased: bool = False) -> Tensor:
        """(B,) that errors at t count; `gamma`: of Min-SNR (Hang et al. 2023), `debiased`: by 1/sqrt(SNR) (Yu
        et al. 2023), where the process has a signal-to-noise ratio."""
        ...

    # ------------------------------------------------------------------------------------------ what t means

    def network_time(self, t: Tensor) -> Tensor:
        """(B,) as the network is told of t."""
        ...

    def from_network_time(self, network_time: Tensor) -> Tensor:
        """The t (B,) of the time that a network was given."""
        ...

    def published_time(self, timestep: float) -> float:
        """The t with as much noise as a published timestep; 0 and 1000 are the ends."""
        ...

    def published_timestep(self, t: Tensor) -> Tensor:
        """(B,) the published timesteps, whole numbers in fp32, with as much noise as t."""
        ...

    def progress(self, t: float) -> float:
        """How far drawing is at t as ComfyUI counts it: 0 is pure noise, 1 the picture."""
        ...

    # --------------------------------------------------------------------------------------------- drawing

    def sigmas(self, steps: int, schedule: str, latents: int | None = None) -> Tensor:
        """Levels (steps + 1,) that a sampler goes down, for pictures of so many latents."""
        ...

    def time_of(self, sigma: Tensor) -> Tensor:
        """The t () of a level ()."""
        ...

    def begin(self, noise: Tensor, start: Tensor | None, sigma: Tensor) -> Tensor:
        """What a sampler starts from at a level (): noise alone, or noise on latents `start`."""
        ...

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the network is shown of x at a level ()."""
        ...

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """The latents that the network's output says are behind x at a level ()."""
        ...

    def finish(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Latents out of what a sampler ends with at its last level ()."""
        ...
