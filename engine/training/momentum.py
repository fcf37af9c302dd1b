"""A teacher that follows its student slowly: a moving average of what is trained, never of the base."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Keeps averages of `parameters`, which live somewhere in `modules`, and puts them in their place."""

    def __init__(
        self,
        modules: Sequence[nn.Module],
        parameters: Sequence[nn.Parameter],
        decay: float,
        first_copies: bool = False,  # the first update copies instead of averaging, as PyTorch's does
    ) -> None:
        numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
        self._places: list[tuple[nn.Module, str, int]] = [
            (module, name, numbers[id(parameter)])
            for root in modules
            for module in root.modules()
            for name, parameter in module._parameters.items()
            if id(parameter) in numbers
        ]
        self._parameters = list(parameters)
        self.averages = [parameter.detach().clone() for parameter in parameters]
        self.decay = decay
        self.first_copies = first_copies
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """One step of the student further."""
        decay = 0.0 if self.first_copies and self.updates == 0 else self.decay
        torch._foreach_lerp_(self.averages, [p.detach() for p in self._parameters], 1 - decay)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the modules hold the averages; the parameters themselves are not touched."""
        originals = [module._parameters[name] for module, name, _ in self._places]
        try:
            for module, name, number in self._places:
                # another object, not other values: the student's graph may still need its own
                module._parameters[name] = nn.Parameter(self.averages[number], requires_grad=False)
            yield
        finally:
            for (module, name, _), parameter in zip(self._places, originals):
                module._parameters[name] = parameter

    def state(self) -> dict[str, Tensor]:
        """What resuming needs."""
        named = {f"{number}": average for number, average in enumerate(self.averages)}
        return {**named, "updates": torch.tensor(self.updates)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave; ValueError for averages of other shapes, which would be broadcast."""
        for number, average in enumerate(self.averages):
            if state[f"{number}"].shape != average.shape:
                raise ValueError(f"an average of {tuple(state[f'{number}'].shape)}")
            average.copy_(state[f"{number}"])
        self.updates = int(state["updates"])
