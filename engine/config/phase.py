"""A phase of training: which learning rates, for how many steps, by which schedule."""

from collections.abc import Mapping
from dataclasses import dataclass

from .checks import above_zero, at_least, one_of

LR_SCHEDULES = ("constant", "cosine", "cosine_with_restarts", "linear")  # as diffusers calls them


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with one set of trained parameters, one optimiser and one schedule."""

    name: str
    steps: int  # optimiser steps
    learning_rates: Mapping[str, float]  # by parameter group; groups not named stay still
    schedule: str = "constant"  # of all learning rates, after the warm-up; all but constant end at 0
    ahead: bool = False  # each step has the rate of the next, so that the last is wasted (MagiCapture's code)
    warmup_steps: int = 0  # the rate climbs from 0 linearly
    batch_size: int = 1  # examples per pass, over all processes together: any number of GPUs, one result
    gradient_accumulation: int = 1  # passes per optimiser step
    max_grad_norm: float | None = 1.0  # over all trained parameters; None: no clipping
    weight_decay: float = 0.0  # AdamW's, for all groups
    without_decay: tuple[str, ...] = ()  # groups that AdamW does not shrink all the same
    clipped: tuple[str, ...] | None = None  # groups that max_grad_norm is over; None: all of them
    keeps_moments: bool = False  # the optimiser goes on from the phase before instead of starting afresh

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch_size", "gradient_accumulation")
        at_least(self, 0, "warmup_steps", "weight_decay")
        above_zero(self, "max_grad_norm")
        one_of("schedule", self.schedule, LR_SCHEDULES)


def divided(steps: int, share: float, first: str, second: str) -> dict[str, int]:
    """All steps of a run as the settings of its two phases, the first with this share; nothing for 0 steps.

    Both are said, also a 0: what is left unsaid would stay at the preset's number.
    """
    if not steps:
        return {}
    early = round(steps * share)
    return {first: early, second: steps - early}
