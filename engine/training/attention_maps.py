"""Where a U-Net's cross-attention looks: probabilities of the layers asked for, with gradients.

Queries and keys are caught as their projections give them; the layer itself goes on computing with whatever
attention it uses (SDPA by default), so that its output stays what it is when drawing. Nothing is added inside
the layer, so that gradient checkpointing (non-re-entrant) recomputes what it computed; each layer keeps its
last pass.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import LikenessError

if TYPE_CHECKING:
    from ..bases.base import BaseModel


@dataclass(frozen=True)
class CrossAttention:
    """A cross-attention layer of a U-Net, and how many latent pixels a side each of its queries covers."""

    layer: Any  # diffusers' Attention
    reduction: int

    def size(self, latents: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of its queries for latents of this (height, width)."""
        return -(-latents[0] // self.reduction), -(-latents[1] // self.reduction)


def cross_attention_layers(unet: nn.Module, middle: bool = True) -> dict[str, CrossAttention]:
    """The U-Net's cross-attention layers by path, in running order; `middle`: with the lowest block's."""
    blocks: list[tuple[str, Any, int]] = []
    reduction = 1
    for number, block in enumerate(unet.down_blocks):
        blocks.append((f"down_blocks.{number}", block, reduction))
        reduction *= 1 if getattr(block, "downsamplers", None) is None else 2
    if middle and unet.mid_block is not None:
        blocks.append(("mid_block", unet.mid_block, reduction))
    for number, block in enumerate(unet.up_blocks):
        blocks.append((f"up_blocks.{number}", block, reduction))
        reduction //= 1 if getattr(block, "upsamplers", None) is None else 2
    return {
        f"{path}.{inner}": CrossAttention(layer, reduction)
        for path, block, reduction in blocks
        for inner, layer in block.named_modules()
        if inner.endswith("attn2")
    }


def mask_layers(base: "BaseModel") -> dict[str, CrossAttention]:
    """The cross-attention layers that masks are compared with: those at the base's attention side."""
    wanted = base.resolution // base.pixels_per_latent // base.attention_side
    layers = cross_attention_layers(base.unet, middle=False)
    chosen = {name: layer for name, layer in layers.items() if layer.reduction == wanted}
    if not chosen:
        raise LikenessError(
            f"this base has no cross-attention at a side of {base.attention_side}; set attention_weight to 0"
        )
    return chosen


@dataclass
class AttentionMaps:
    """What was caught of each layer in its last pass that took gradients."""

    layers: Mapping[str, CrossAttention]
    queries: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)

    def probabilities(self, name: str) -> Tensor:
        """Attention (B, heads, Q, T) after the softmax, in fp32."""
        layer = self.layers[name].layer
        query, key = (
            states.float().unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for states in (self.queries[name], self.keys[name])
        )
        kind = "cpu" if query.is_meta else query.device.type
        with torch.autocast(kind, enabled=False):
            return torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)

    def all(self) -> list[Tensor]:
        """The probabilities of every layer that ran, in order."""
        return [self.probabilities(name) for name in self.layers if name in self.queries]

    def clear(self) -> None:
        self.queries.clear()
        self.keys.clear()


@contextmanager
def recorded(layers: Mapping[str, CrossAttention]) -> Iterator[AttentionMaps]:
    """Within, passes that take gradients leave their queries and keys here; afterwards the hooks are gone.

    What was caught stays valid, for a loss and its backward pass outside.
    """
    maps = AttentionMaps(dict(layers))
    handles = []
    try:
        for name, found in layers.items():
            handles.append(found.layer.to_q.register_forward_hook(_keeper(maps.queries, name)))
            handles.append(found.layer.to_k.register_forward_hook(_keeper(maps.keys, name)))
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _keeper(store: dict[str, Tensor], name: str) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():  # a teacher's pass is nobody's loss
            store[name] = output

    return keep
