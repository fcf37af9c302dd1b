"""Brings what the CPU prepared to where networks compute, without waiting until they are done with it."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device. A copy out of ordinary memory would wait for all that a GPU has to do yet."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
