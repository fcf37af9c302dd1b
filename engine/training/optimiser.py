"""The optimiser of a phase, and its learning rates from step to step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Phase


def adamw(
    groups: Mapping[str, list[nn.Parameter]], phase: Phase, small: bool = False
) -> torch.optim.Optimizer:
    """An optimiser over the phase's groups; all other parameters of the method stand still.

    `small`: with moments in 8 bits (Dettmers et al. 2022), by bitsandbytes.
    """
    unknown = set(phase.learning_rates) - set(groups)
    assert not unknown, f"phase {phase.name} has rates for {unknown}, the method trains {set(groups)}"
    for name, parameters in groups.items():
        for parameter in parameters:
            parameter.requires_grad_(name in phase.learning_rates)
    options = [
        {"name": name, "params": groups[name], "lr": rate, "full_rate": rate,
         "weight_decay": 0.0 if name in phase.without_decay else phase.weight_decay}
        for name, rate in phase.learning_rates.items()
    ]  # fmt: skip
    if small:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(options)
    devices = {weight.device.type for option in options for weight in option["params"]}
    return torch.optim.AdamW(options, fused=devices <= set(fused_devices()))


def fused_devices() -> list[str]:
    """Where PyTorch has one kernel for a whole step of AdamW; elsewhere it goes weight by weight."""
    from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

    return _get_fused_kernels_supported_devices()


def go_on(optimizer: torch.optim.Optimizer, before: Mapping[Tensor, Any]) -> None:
    """Gives the optimiser the moments that an earlier phase's had for the same parameters."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in before:
                optimizer.state[parameter] = before[parameter]


def clipped(optimizer: torch.optim.Optimizer, phase: Phase) -> list[nn.Parameter]:
    """The parameters whose gradients the phase clips together."""
    return [
        parameter
        for group in optimizer.param_groups
        if phase.clipped is None or group["name"] in phase.clipped
        for parameter in group["params"]
    ]


def set_learning_rates(optimizer: torch.optim.Optimizer, phase: Phase, step: int) -> None:
    """The rates of step number `step` (from 0) of the phase."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * schedule(phase, step)


def schedule(phase: Phase, step: int) -> float:
    """The share of the full learning rate at a step: a linear climb, then constant or down to 0."""
    step += phase.ahead
    if step < phase.warmup_steps:
        return (step + 1) / phase.warmup_steps
    if phase.schedule == "constant":
        return 1.0
    done = (step - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps)
    return 1 - done if phase.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
