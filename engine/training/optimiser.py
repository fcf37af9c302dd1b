"""The optimiser of a phase, and its learning rates from step to step."""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import OPTIMIZERS, Phase, Recipe
from ..errors import LikenessError

FACTOR = 0.1  # from which on a rate is meant as Prodigy's factor, which is 1, and not as a rate of AdamW's
EMBEDDINGS = ("tokens", "words")  # groups whose rows are no hidden matrices
PRODIGYS_DECAY = 0.01  # that its authors advise for diffusion models
BY_THEMSELVES = ("prodigy", "schedulefree")  # what they remember of all weights together ends with a phase
Options = list[dict[str, Any]]


def optimizer_for(
    groups: Mapping[str, list[nn.Parameter]], phase: Phase, optimizer: str = "adamw"
) -> torch.optim.Optimizer:
    """An optimiser over the phase's groups; all other parameters of the method stand still.

    `optimizer`: of `config.OPTIMIZERS`; `check_optimizer` says whether it is there.
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
    return _MAKERS[optimizer](options)


def _adamw(options: Options) -> torch.optim.Optimizer:
    devices = {weight.device.type for option in options for weight in option["params"]}
    return torch.optim.AdamW(options, fused=devices <= set(fused_devices()))


def _adamw8bit(options: Options) -> torch.optim.Optimizer:
    """With moments in 8 bits (Dettmers et al. 2022)."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(options)


def _prodigy(options: Options) -> torch.optim.Optimizer:
    """Mishchenko and Defazio 2023, as they advise for diffusion models."""
    from prodigyopt import Prodigy

    factor = prodigys_factor([option["full_rate"] for option in options])
    for option in options:  # it knows one rate, and groups that stand still
        option["lr"] = option["full_rate"] = factor if option["full_rate"] else 0.0
    return Prodigy(options, lr=factor, use_bias_correction=True, safeguard_warmup=True)


def _schedulefree(options: Options) -> torch.optim.Optimizer:
    """Defazio et al. 2024; between `train` and `eval` it moves the weights, see `kept_weights`."""
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(options)
    optimizer.train()
    return optimizer


def _adafactor(options: Options) -> torch.optim.Optimizer:
    """Shazeer and Stern 2018 with the phase's own rates, as diffusion trainers use it."""
    from transformers.optimization import Adafactor

    return Adafactor(options, scale_parameter=False, relative_step=False, warmup_init=False)


def _lion(options: Options) -> torch.optim.Optimizer:
    """Chen et al. 2023."""
    from pytorch_optimizer import Lion

    return Lion(options)


def _muon(options: Options) -> torch.optim.Optimizer:
    """Jordan et al. 2024 for hidden matrices, its updates as large as AdamW's (Liu et al. 2025), which has
    the rest: one rate serves both."""
    from pytorch_optimizer import Muon

    split = []
    for option in options:
        for hidden in (True, False):
            weights = [weight for weight in option["params"] if hidden == _is_hidden(weight, option["name"])]
            kind = {"use_adjusted_lr": True} if hidden else {"betas": (0.9, 0.999), "eps": 1e-8}
            if weights:
                split.append({**option, **kind, "params": weights, "use_muon": hidden})
    return Muon(split)


def _is_hidden(weight: Tensor, group: str) -> bool:
    return weight.ndim >= 2 and group not in EMBEDDINGS


_MAKERS: Mapping[str, Callable[[Options], torch.optim.Optimizer]] = {
    "adamw": _adamw, "adamw8bit": _adamw8bit, "prodigy": _prodigy, "schedulefree": _schedulefree,
    "adafactor": _adafactor, "lion": _lion, "muon": _muon,
}  # fmt: skip


def check_optimizer(optimizer: str, device: str) -> None:
    """Raises LikenessError where the optimiser is not installed, or cannot work on this kind of device."""
    package = OPTIMIZERS[optimizer]
    if package is not None and importlib.util.find_spec(package) is None:
        raise LikenessError(
            f"the optimizer {optimizer} is in the package {package.replace('_', '-')}, which is not "
            'installed; pip install "likeness-portraits[optimizers]", or take adamw'
        )
    if optimizer == "adamw8bit" and device != "cuda":
        raise LikenessError(f"adamw8bit works on CUDA GPUs only, and this run is on {device}; take adamw")


def optimizer_remarks(recipe: Recipe, phases: Sequence[Phase]) -> list[str]:
    """What somebody should know who took this optimiser with these phases."""
    said = []
    if recipe.optimizer == "prodigy":
        rates = [rate for phase in phases for rate in phase.learning_rates.values()]
        said.append(f"prodigy finds the learning rates itself, times {prodigys_factor(rates):g}")
        decays = sorted({phase.weight_decay for phase in phases} - {PRODIGYS_DECAY})
        if decays:
            said.append(
                f"weight_decay is {decays[0]:g}; prodigy's authors advise {PRODIGYS_DECAY:g} for diffusion "
                "models"
            )
        if any(phase.schedule == "cosine_with_restarts" for phase in phases):
            said.append("prodigy's authors advise the schedules constant or cosine, without restarts")
    if recipe.optimizer == "schedulefree" and any(phase.schedule != "constant" for phase in phases):
        said.append("schedulefree needs no schedule; its authors advise constant, with warmup_steps")
    if recipe.optimizer == "lion":
        said.append("lion's authors advise learning rates 3 to 10 times lower than adamw's")
    return said


def prodigys_factor(rates: Sequence[float]) -> float:
    """What Prodigy's own rate is multiplied by: 1, unless a rate is so high that a factor is meant."""
    highest = max(rates, default=0.0)
    return highest if highest >= FACTOR else 1.0


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


def set_learning_rates(
    optimizer: torch.optim.Optimizer, phase: Phase, step: int, recipe: Recipe | None = None
) -> None:
    """The rates of step number `step` (from 0) of the phase."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * schedule(phase, step, (recipe or Recipe()).cycles)


def schedule(phase: Phase, step: int, cycles: int = 1) -> float:
    """The share of the full learning rate at a step: a linear climb, then constant or down to 0, `cycles`
    times with restarts, as diffusers' schedules of these names."""
    step += phase.ahead
    if step < phase.warmup_steps:
        return (step + 1) / phase.warmup_steps
    if phase.schedule == "constant":
        return 1.0
    done = (step - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps)
    if phase.schedule == "cosine_with_restarts":
        done = 1.0 if done >= 1 else (cycles * done) % 1.0
    return 1 - done if phase.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
