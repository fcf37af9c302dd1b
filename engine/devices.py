"""Brings what the CPU prepared to where networks compute, without waiting until they are done with it."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device. A copy out of ordinary memory would wait for all that a GPU has to do yet."""
    place = torch.device(device)
    if place.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    # what comes to the CPU must be there before it is read; ComfyUI does not rely on it on Apple's GPUs
    return tensor.to(place, non_blocking=place.type not in ("cpu", "mps"))
