"""Brings users of the attention seam into diffusers' networks, for as long as they are wanted there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from ...errors import LikenessError
from ..attention import AttentionUser, Pass
from .flux2 import Flux2Sites
from .unet import UNetSites

# a user, or who it is in a pass of these noisy latents (B, …) at these timesteps (B,)
_User = AttentionUser | Callable[[Tensor, Any], AttentionUser]


class _Sites(Protocol):
    """What a network says of its attention."""

    processors: list[tuple[Any, Any]]  # its layers, and what computes their attention with users in it
    carrier: str  # the argument of its pass whose entries reach the layers
    name: str  # the entry in it that the processors read

    def passing(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Any, Pass]:
        """The noisy latents, the timesteps, and the pass before anybody uses it."""
        ...


class Seam:
    """The attention of a diffusers network, open for users.

    Who they are travels with each call of a layer: gradient checkpointing computes a pass again with those it
    had, also after other passes. Where something is computed again so, the seam has to be opened by `open`
    and must stay so until the backward pass is over; to draw, `using` opens it for its own time.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._sites: _Sites = sites_of(network)
        self._usual: list[list[Any]] = []

    def open(self) -> "Seam":
        """From now on users are heard."""
        self._usual.append([layer.processor for layer, _ in self._sites.processors])
        for layer, processor in self._sites.processors:
            layer.processor = processor
        return self

    def close(self) -> None:
        """Leaves the network as it was before the last `open`."""
        if self._usual:
            for (layer, _), usual in zip(self._sites.processors, self._usual.pop()):
                layer.processor = usual

    @contextmanager
    def using(self, key: str, user: _User) -> Iterator[None]:
        """Within, passes of the network have this user; the innermost of several under one key is heard."""

        def tell(_network: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
            sites = self._sites
            noisy, timesteps, empty = sites.passing(inputs, options)
            here = user if isinstance(user, AttentionUser) else user(noisy, timesteps)
            others = options.get(sites.carrier) or {}
            users = others[sites.name].users if sites.name in others else {}
            there = Pass({**users, key: here}, empty.latents, empty.text)
            return inputs, {**options, sites.carrier: {**others, sites.name: there}}

        handle = self._network.register_forward_pre_hook(tell, with_kwargs=True)
        self.open()
        try:
            yield
        finally:
            self.close()
            handle.remove()


def using(network: nn.Module, key: str, user: _User) -> Any:
    """Within, passes of the network have this user, and afterwards it is as before."""
    return Seam(network).using(key, user)


def sites_of(network: nn.Module) -> _Sites:
    """Where a network lets users in; one of another kind is refused."""
    if hasattr(network, "down_blocks"):
        return UNetSites(network)
    if hasattr(network, "single_transformer_blocks") and hasattr(network, "double_stream_modulation_img"):
        return Flux2Sites(network)
    raise LikenessError(
        f"nothing can be done inside the attention of {type(network).__name__}; use an SD or SDXL base"
    )
