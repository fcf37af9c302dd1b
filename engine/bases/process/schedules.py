"""Which noise levels a sampler goes through, as ComfyUI's KSampler has them, whatever the process."""

import torch
from torch import Tensor

from ...errors import LikenessError, nearest


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


OWN = "own"  # the base's own levels for a picture's size, where its process has them
SIGMA_SCHEDULES = {"simple": simple_schedule, "karras": karras_schedule, "ddim": ddim_schedule}


def scheduled(table: Tensor, steps: int, schedule: str) -> Tensor:
    """The levels (steps + 1,) of a schedule out of a process's table (T,)."""
    if schedule == OWN:
        raise LikenessError(
            f"this base has no levels of its own; take one of {list(SIGMA_SCHEDULES)} as schedule"
        )
    if schedule not in SIGMA_SCHEDULES:
        hint = nearest(schedule, SIGMA_SCHEDULES) or f"; valid are {list(SIGMA_SCHEDULES)}"
        raise LikenessError(f"unknown schedule '{schedule}'{hint}")
    return SIGMA_SCHEDULES[schedule](table, steps)
