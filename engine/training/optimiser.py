"""The optimiser of a phase, and its learning rates from step to step."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from ..config import Phase


def adamw(groups: Mapping[str, list[nn.Parameter]], phase: Phase) -> torch.optim.AdamW:
    """An optimiser over the phase's groups; all other parameters of the method stand still."""
    unknown = set(phase.learning_rates) - set(groups)
    assert not unknown, f"phase {phase.name} has rates for {unknown}, the method trains {set(groups)}"
    for name, parameters in groups.items():
        for parameter in parameters:
            parameter.requires_grad_(name in phase.learning_rates)
    options = [
        {"params": groups[name], "lr": rate, "full_rate": rate} for name, rate in phase.learning_rates.items()
    ]
    return torch.optim.AdamW(options, weight_decay=phase.weight_decay, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, phase: Phase, step: int) -> None:
    """The rates of step number `step` (from 0) of the phase."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * schedule(phase, step)


def schedule(phase: Phase, step: int) -> float:
    """The share of the full learning rate at a step: a linear climb, then constant or down to 0."""
    if step < phase.warmup_steps:
        return (step + 1) / phase.warmup_steps
    if phase.schedule == "constant":
        return 1.0
    done = (step - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps)
    return 1 - done if phase.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
