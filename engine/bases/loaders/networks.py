"""Networks around weights that a file holds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def empty(kind: Any, config: Mapping[str, Any]) -> Any:
    """A diffusers network without weights, which cost neither memory nor random numbers."""
    with torch.device("meta"):
        return kind.from_config(dict(config))


def in_full(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in fp32; every plain floating-point number fits there exactly."""
    return {name: weight.float() for name, weight in weights.items()}


def numbers_in(state: Mapping[str, Tensor], prefix: str) -> set[int]:
    """The numbers that follow a prefix in the keys."""
    return {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
