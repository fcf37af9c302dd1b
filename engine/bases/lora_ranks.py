"""LoRA whose rank falls as noise rises (T-LoRA, arXiv 2507.05964): there few pictures overfit soonest.

Of r ranks, the first floor((r - least) * (1 - k / 1000)) + least count at timestep k; on a flow, at as much
noise.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .denoisers.seam import sites_of
from .process.ddpm import PUBLISHED_STEPS
from .process.protocol import Process


def ranks_at(timesteps: Tensor, rank: int, least: int) -> Tensor:
    """How many of the ranks count at published timesteps (B,): (B,) whole numbers."""
    return ((rank - least) * (1 - timesteps.float() / PUBLISHED_STEPS)).floor().long() + least


@dataclass(eq=False)
class RankByNoise:
    """Which ranks count in the network's pass: set as it begins, read in its LoRA layers."""

    process: Process
    rank: int
    least: int
    _counting: Tensor | None = None  # (B or 1, rank) of 1.0 and 0.0

    def listen(self, network: nn.Module) -> Callable[[], None]:
        """From now on passes of the network say how much noise there is; what is returned ends it."""
        sites = sites_of(network)

        def begin(_network: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            _, time, _ = sites.passing(inputs, options)
            t = self.process.from_network_time(torch.as_tensor(time)).view(-1)
            k = self.process.published_timestep(t)
            there = torch.arange(self.rank, device=k.device) < ranks_at(k, self.rank, self.least)[:, None]
            self._counting = there.float()

        return network.register_forward_pre_hook(begin, with_kwargs=True).remove

    def masked(self, low: Tensor) -> Tensor:
        """What a layer's first half gives, (B, …, n * rank), the n numbers of each rank side by side, with 0
        for ranks that do not count."""
        assert self._counting is not None
        counting = self._counting.to(low)
        counting = counting.repeat_interleave(low.shape[-1] // self.rank, 1)
        return low * counting.view(len(counting), *[1] * (low.ndim - 2), -1)


@contextmanager
def with_lora(
    network: nn.Module,
    modules: Mapping[str, nn.Module],
    layers: Mapping[str, Mapping[str, Tensor]],
    strength: float,
    ranks: RankByNoise,
) -> Iterator[None]:
    """Within, the named linear layers of the network add a LoRA, as much of its rank as the noise leaves.

    layers: by name `lora_down.weight` (r, in), `lora_up.weight` (out, r) and `alpha`.
    """

    def adding(down: Tensor, up: Tensor) -> Callable[..., Tensor]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            low = ranks.masked(F.linear(inputs[0].to(down), down))
            return output + F.linear(low, up).to(output)

        return add

    with ExitStack() as stack:
        stack.callback(ranks.listen(network))
        for name, parts in layers.items():
            device = next(modules[name].parameters()).device
            down, up = (parts[part].to(device).float() for part in ("lora_down.weight", "lora_up.weight"))
            scale = strength * float(parts["alpha"]) / len(down)
            stack.callback(modules[name].register_forward_hook(adding(down, scale * up)).remove)
        yield
