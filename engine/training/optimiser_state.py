"""What an optimiser remembers, for checkpoints: tensors by parameter, and plain numbers beside them."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Named = Sequence[tuple[str, nn.Parameter]]
_TABLES = ("qmap1", "qmap2", "absmax1", "absmax2")  # of bitsandbytes, as long as it pleases
_SET_ANEW = ("lr", "full_rate")  # in each step


def remembered(optimizer: torch.optim.Optimizer, named: Named) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by `NAME.KEY`, and numbers of parameters and of groups, which go to JSON and back unchanged."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}.{key}"] = value
            elif _is_number(value):
                numbers.setdefault(name, {})[key] = value
    groups = [
        {key: value for key, value in group.items() if _is_number(value) and key not in _SET_ANEW}
        for group in optimizer.param_groups
    ]
    return tensors, {"parameters": numbers, "groups": groups}


def read_numbers(text: str) -> dict[str, Any]:
    """The numbers that `remembered` gave, out of JSON; ValueError for anything else."""
    numbers = json.loads(text)
    for part in (*numbers["parameters"].values(), *numbers["groups"]):
        wrong = [key for key, value in part.items() if not _is_number(value) or value != value]
        if wrong:
            raise ValueError(f"{wrong[0]} is no number")
    return numbers


def recall(
    optimizer: torch.optim.Optimizer,
    named: Named,
    tensors: Mapping[str, Mapping[str, Tensor]],
    numbers: Mapping[str, Any],
) -> None:
    """Puts back what `remembered` gave of an optimiser of this kind, `tensors` by parameter; ValueError where
    it does not fit."""
    if len(numbers["groups"]) != len(optimizer.param_groups):
        raise ValueError(f"{len(numbers['groups'])} groups")
    for name, parameter in named:
        state = {key: _fitting(key, value, parameter) for key, value in tensors[name].items()}
        state |= numbers["parameters"].get(name, {})
        if state:
            optimizer.state[parameter] = state
    for group, settings in zip(optimizer.param_groups, numbers["groups"]):
        group.update(settings)


def _fitting(key: str, tensor: Tensor, parameter: Tensor) -> Tensor:
    """A copy beside the parameter: of its shape, a row or a column of it, or one number."""
    whole = tensor.numel() in (1, parameter.numel()) or key in _TABLES
    part = list(tensor.shape) in (list(parameter.shape[:-1]), [*parameter.shape[:-2], *parameter.shape[-1:]])
    if not (whole or part) or tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"{tuple(tensor.shape)} beside {tuple(parameter.shape)}")
    return tensor.to(parameter.device, copy=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int) or isinstance(value, float) and not math.isnan(value)
