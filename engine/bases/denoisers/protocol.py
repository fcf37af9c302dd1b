"""What a base may ask of the network that takes noise away, whichever it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..conditioning import Conditioning


@dataclass(frozen=True)
class TextProjections:
    """What a layer makes of words: keys and values (hidden, width), and the weight (d,) of a norm over each
    head's keys, where it has one. They are the base's own numbers."""

    to_k: Tensor
    to_v: Tensor
    norm_k: Tensor | None = None


@dataclass(frozen=True)
class AttentionLayer:
    """A layer where the picture reads words, and how many latent pixels a side one of its queries covers."""

    layer: Any  # diffusers' attention module
    reduction: int
    part: str  # of a U-Net: `down` from the picture's size, the `middle`, or `up` to it again; else its kind

    def size(self, latents: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of its queries for latents of this (height, width)."""
        return -(-latents[0] // self.reduction), -(-latents[1] // self.reduction)

    @property
    def text(self) -> TextProjections:
        raise NotImplementedError

    @property
    def key_heads(self) -> int:
        """Heads of its keys and values; queries may have a multiple of them."""
        return int(self.layer.heads)


class CrossAttention(AttentionLayer):
    """One whose keys and values are the text alone."""

    @property
    def text(self) -> TextProjections:
        return TextProjections(self.layer.to_k.weight, self.layer.to_v.weight)


class Denoiser(Protocol):
    """A network and how it is called; it computes in its weights' precision."""

    module: Any  # the nn.Module: moved, adapted, checkpointed and cut up as a whole
    offers: frozenset[str]  # of `features`
    lora_targets: Mapping[str, tuple[str, ...]]  # endings of layers' paths, by what a LoRA is for
    whole_blocks: bool  # what `blocks` names is computed again as a whole, and all large weights are in it
    # of rows that values of text are moved by; None: values are made of text states of their own
    value_width: int | None

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

    def attention_layers(self) -> Mapping[str, AttentionLayer]:
        """Where the picture reads words, by the sites' names, in running order: cross-attention, or joint."""
        ...

    def identity_layers(self) -> Mapping[str, AttentionLayer]:
        """Those of `attention_layers` beside which identity tokens are read."""
        ...

    def cross_attention(self) -> dict[str, CrossAttention]:
        """Its cross-attention layers by path, in running order; none where attention is joint."""
        ...

    def shards(self) -> list[nn.Module]:
        """The parts whose weights processes borrow from each other one at a time, when none holds them all.

        Losses read cross-attention from within, and gradients borrow a part's weights again only where they
        enter through what it returns: there each projection is a part of its own.
        """
        ...
