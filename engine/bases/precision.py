"""In which precision and where a frozen network computes."""

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Its weights' dtype; diffusers' own property walks through all parameters, at every call."""
    return next(module.parameters()).dtype


def without_autocast(device: torch.device) -> torch.autocast:
    """Within, a network computes in its own weights' precision."""
    return torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False)
