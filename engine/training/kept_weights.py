"""What is saved and shown in place of the numbers that are being trained: their moving average, or the
average that a schedule-free optimiser keeps by itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "kept."  # of its tensors in checkpoints


class KeptWeights:
    """Of all that an optimiser trains; does nothing where the numbers themselves are kept."""

    def __init__(self, optimizer: torch.optim.Optimizer, ema: float | None) -> None:
        self._optimizer: Any = optimizer
        self._parameters: list[nn.Parameter] = [
            weight for group in optimizer.param_groups for weight in group["params"]
        ]
        self._average: Any = None
        if ema is not None:
            from diffusers.training_utils import EMAModel

            # its decay climbs from 0 with the steps, so that the first weights are soon forgotten
            self._average = EMAModel(self._parameters, decay=ema, foreach=True)
        self._own_average = "train_mode" in optimizer.param_groups[0]  # schedule-free

    @property
    def active(self) -> bool:
        return self._average is not None or self._own_average

    def update(self) -> None:
        """Called after each step."""
        if self._average is not None:
            self._average.step(self._parameters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the parameters hold what is kept; afterwards bit for bit what they held before."""
        if not self.active:
            yield
            return
        originals = [weight.detach().clone() for weight in self._parameters]
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():  # the way back by the optimiser's own `train` would round
                for weight, before in zip(self._parameters, originals):
                    weight.copy_(before)
            if self._own_average:
                for group in self._optimizer.param_groups:
                    group["train_mode"] = True

    def settle(self) -> None:
        """Puts what is kept into the parameters, for good."""
        if self._average is not None:
            self._average.copy_to(self._parameters)
        elif self._own_average:
            self._optimizer.eval()

    def state(self) -> dict[str, Tensor]:
        """What resuming needs."""
        if self._average is None:
            return {}
        named = {f"{PREFIX}{number}": weight for number, weight in enumerate(self._average.shadow_params)}
        return {**named, f"{PREFIX}updates": torch.tensor(self._average.optimization_step)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave; ValueError for averages of other shapes, which would be broadcast."""
        if self._average is None:
            return
        for number, average in enumerate(self._average.shadow_params):
            stored = state[f"{PREFIX}{number}"]
            if stored.shape != average.shape or not stored.isfinite().all():
                raise ValueError(f"an average of {tuple(stored.shape)}")
            average.copy_(stored)
        self._average.optimization_step = int(state[f"{PREFIX}updates"])
