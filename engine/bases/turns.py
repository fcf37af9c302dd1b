"""Frozen weights that wait on the CPU, and are on the device only while it is their turn.

diffusers' group offloading takes weights away behind a layer's forward pass, when its gradients still need
them; here a part stays until another is called, in the forward pass or where inner states are computed again.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Turns:
    """Parts of which one at a time has its frozen weights on the device; what is trained is always there.

    Gradients of a part must be done when another is called: as they are, in the order of the passes, where
    every layer between is computed again (gradient checkpointing).
    """

    def __init__(self, parts: Iterable[Sequence[nn.Module]], device: torch.device) -> None:
        """Each part is called by any of its modules; weights that two parts have belong to the first."""
        self.device = device
        self._there: int | None = None
        self._homes: list[list[tuple[nn.Parameter, Tensor]]] = []
        self._forwards: list[tuple[nn.Module, Any]] = []  # and what `forward` was on the module itself, if so
        taken: set[int] = set()
        for number, modules in enumerate(parts):
            weights = {id(weight): weight for module in modules for weight in module.parameters()}
            frozen = [
                weight for key, weight in weights.items() if key not in taken and not weight.requires_grad
            ]
            taken |= weights.keys()
            self._homes.append([(weight, weight.data.to(_home_of(device))) for weight in frozen])
            for module in modules:
                self._forwards.append((module, vars(module).get("forward")))
                module.forward = partial(self._called, number, module.forward)  # type: ignore[method-assign]
        self.put_away()

    @property
    def waiting(self) -> frozenset[int]:
        """The ids of all weights that take part."""
        return frozenset(id(weight) for part in self._homes for weight, _ in part)

    @property
    def largest(self) -> int:
        """Bytes of the largest part."""
        return max(sum(home.numel() * home.element_size() for _, home in part) for part in self._homes)

    def bring(self, number: int) -> None:
        """A part's weights onto the device, in the place of another's."""
        if self._there == number:
            return
        self.put_away()
        for weight, home in self._homes[number]:
            weight.data = home.to(self.device, copy=True)
        self._there = number

    def put_away(self) -> None:
        """All parts' weights are where they wait; nothing is copied, for nothing of them changed."""
        for part in self._homes if self._there is None else [self._homes[self._there]]:
            for weight, home in part:
                weight.data = home
        self._there = None

    def end(self) -> None:
        """The modules as they were; their weights stay where they wait."""
        self.put_away()
        for module, forward in reversed(self._forwards):
            if forward is None:
                del module.forward
            else:
                module.forward = forward  # type: ignore[method-assign]
        self._forwards.clear()

    def _called(self, number: int, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        self.bring(number)
        return forward(*inputs, **options)


def _home_of(device: torch.device) -> torch.device:
    return device if device.type == "meta" else torch.device("cpu")
