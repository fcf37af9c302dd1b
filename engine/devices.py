"""Where networks compute: bringing tensors there without waiting, and sums in one order on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device. A copy out of ordinary memory would wait for all that a GPU has to do yet."""
    place = torch.device(device)
    if place.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    # what comes to the CPU must be there before it is read; ComfyUI does not rely on it on Apple's GPUs
    return tensor.to(place, non_blocking=place.type not in ("cpu", "mps"))


@contextmanager
def repeatable(device: torch.device | str) -> Iterator[None]:
    """Within, equal runs on the CPU give equal bits, however many threads share the sums (some gradients add
    up in whatever order threads come). GPUs are left as they are: there it costs memory and time."""
    if torch.device(device).type != "cpu":
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module whose setting type checkers do not see
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = filled
