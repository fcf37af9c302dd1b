"""Brings users of the attention seam into diffusers' networks, for as long as they are wanted there."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...errors import LikenessError
from ..attention import AttentionUser, Pass
from ..families import KNOWN
from .flux2 import Flux2Sites
from .krea2 import Krea2Sites
from .unet import UNetSites
from .z_image import ZImageSites

# a user, or who it is in a pass of these noisy latents (B, …) at these timesteps (B,)
_User = AttentionUser | Callable[[Tensor, Any], AttentionUser]


class _Sites(Protocol):
    """What a network says of its attention."""

    processors: list[tuple[Any, Any]]  # its layers, and what computes their attention with users in it
    carrier: str  # the argument of its pass whose entries reach the layers
    name: str  # the entry in it that the processors read

    def lengthened(
        self, inputs: tuple[Any, ...], options: dict[str, Any], user: AttentionUser
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The pass's arguments with what the user puts behind the words, where words ask too."""
        ...

    def passing(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Any, Pass]:
        """The noisy latents, the timesteps, and the pass before anybody uses it."""
        ...

    def ready(self, options: dict[str, Any], users: Pass) -> None:
        """Tells the pass who is in it, where `carrier` does not reach the layers."""
        ...

    def hooks(self) -> list[Any]:
        """Sets what such a network needs while its seam is open; what takes it off again."""
        ...


class Seam:
    """The attention of a diffusers network, open for users.

    Who they are travels with each call of a layer: gradient checkpointing computes a pass again with those it
    had, also after other passes. Where a network computes inner states again so, `using` leaves the seam open
    behind it, for nobody knows when the backward pass is over, and it closes with the first pass after
    checkpointing has ended.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._opening = _OPENINGS.setdefault(network, _Opening(sites_of(network)))
        self._sites = self._opening.sites
        self._opened = 0

    def open(self) -> "Seam":
        """From now on users are heard."""
        self._opened += 1
        self._opening.enter()
        return self

    def close(self) -> None:
        """Takes back the last `open`; the network is as it was when the last of all is closed."""
        if self._opened:
            self._opened -= 1
            self._opening.leave()

    @contextmanager
    def using(self, key: str, user: _User) -> Iterator[None]:
        """Within, passes of the network have this user; the innermost of several under one key is heard."""

        def tell(_network: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
            sites = self._sites
            noisy, timesteps, empty = sites.passing(inputs, options)
            here = user if isinstance(user, AttentionUser) else user(noisy, timesteps)
            inputs, options = sites.lengthened(inputs, options, here)
            empty = sites.passing(inputs, options)[2]
            others = options.get(sites.carrier) or {}
            users = others[sites.name].users if sites.name in others else {}
            there = Pass({**users, key: here}, empty.latents, empty.text)
            sites.ready(options, there)
            return inputs, {**options, sites.carrier: {**others, sites.name: there}}

        handle = self._network.register_forward_pre_hook(tell, with_kwargs=True)
        self.open()
        try:
            yield
        finally:
            handle.remove()
            if torch.is_grad_enabled() and _recomputes(self._network):
                self._opening.stay(self._network)
            self.close()


@dataclass(eq=False)
class _Opening:
    """How often a network's seam is open at the moment."""

    sites: _Sites
    count: int = 0
    usual: list[Any] = field(default_factory=list)
    hooks: list[Any] = field(default_factory=list)
    stays: bool = False

    def enter(self) -> None:
        self.count += 1
        if self.count == 1:
            self.hooks = self.sites.hooks()
            self.usual = [layer.processor for layer, _ in self.sites.processors]
            for layer, processor in self.sites.processors:
                layer.processor = processor

    def leave(self) -> None:
        self.count -= 1
        if not self.count:
            for (layer, _), usual in zip(self.sites.processors, self.usual):
                layer.processor = usual
            for hook in self.hooks:
                hook.remove()

    def stay(self, network: nn.Module) -> None:
        """Once more, until a pass of the network that computes nothing again."""
        if self.stays:
            return
        self.stays = True
        self.enter()

        def end(network: nn.Module, _inputs: Any) -> None:
            if not _recomputes(network):
                handle.remove()
                self.stays = False
                self.leave()

        handle = network.register_forward_pre_hook(end)


_OPENINGS: MutableMapping[nn.Module, _Opening] = WeakKeyDictionary()


def _recomputes(network: nn.Module) -> bool:
    return any(getattr(part, "gradient_checkpointing", False) for part in network.modules())


def using(network: nn.Module, key: str, user: _User) -> Any:
    """Within, passes of the network have this user, and afterwards it is as before."""
    return Seam(network).using(key, user)


def sites_of(network: nn.Module) -> _Sites:
    """Where a network lets users in; one of another kind is refused."""
    if hasattr(network, "down_blocks"):
        return UNetSites(network)
    if hasattr(network, "single_transformer_blocks") and hasattr(network, "double_stream_modulation_img"):
        return Flux2Sites(network)
    if hasattr(network, "noise_refiner") and hasattr(network, "cap_pad_token"):
        return ZImageSites(network)
    if hasattr(network, "text_fusion"):
        return Krea2Sites(network)
    raise LikenessError(f"nothing can be done inside the attention of {type(network).__name__}; use {KNOWN}")
