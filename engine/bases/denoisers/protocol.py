"""What a base may ask of the network that takes noise away, whichever it is."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from ..conditioning import Conditioning


class Denoiser(Protocol):
    """A network and how it is called; it computes in its weights' precision."""

    module: Any  # the nn.Module: moved, adapted, checkpointed and cut up as a whole
    offers: frozenset[str]  # of `features`
    lora_targets: Mapping[str, tuple[str, ...]]  # endings of layers' paths, by what a LoRA is for

    @property
    def side_multiple(self) -> int:
        """What the latents' sides should be multiples of."""
        ...

    def __call__(self, xt: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Its output (B, C, h, w) for noisy latents, at times as `Process.network_time` tells them."""
        ...

    def blocks(self) -> list[nn.Module]:
        """The parts that work one after the other, in order."""
        ...
