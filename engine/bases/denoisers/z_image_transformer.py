"""Z-Image's transformer (diffusers' ZImageTransformer2DModel) as a denoiser: words and picture in one."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...staged.text import ValueOffsets
from .. import features
from ..conditioning import Conditioning
from ..precision import dtype_of, without_autocast
from .protocol import AttentionLayer, CrossAttention, TextProjections
from .seam import Seam

_ATTENTION = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")
_FEED_FORWARD = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")


class _Layer(AttentionLayer):
    @property
    def text(self) -> TextProjections:
        """Words and picture are projected alike."""
        return TextProjections(self.layer.to_k.weight, self.layer.to_v.weight, self.layer.norm_k.weight)


class ZImageTransformer:
    """Reads latents (B, 16, h, w), two by two in one token, and text states that a mask may cut off."""

    offers = frozenset({features.CROSS_ATTENTION_MAPS, features.IDENTITY_ATTENTION, features.SPLIT_VALUES})
    side_multiple = 2
    whole_blocks = True
    lora_targets: Mapping[str, tuple[str, ...]] = {
        "attention": _ATTENTION,
        "feed-forward": (*_ATTENTION, "feed_forward.w1", "feed_forward.w3"),
        "transformer": (*_ATTENTION, *_FEED_FORWARD),
        "blocks": (*_ATTENTION, *_FEED_FORWARD),
    }

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.value_width: int | None = self.module.dim
        self._seam: Seam | None = None  # opened while values are moved

    def blocks(self) -> list[nn.Module]:
        return [*self.module.noise_refiner, *self.module.context_refiner, *self.module.layers]

    def attention_layers(self) -> dict[str, AttentionLayer]:
        """Those in which words and picture meet; each query covers two by two latents."""
        return {
            f"layers.{number}.attention": _Layer(layer.attention, 2, "layer")
            for number, layer in enumerate(self.module.layers)
        }

    def identity_layers(self) -> dict[str, AttentionLayer]:
        """Every second one."""
        return dict([*self.attention_layers().items()][::2])

    def cross_attention(self) -> dict[str, CrossAttention]:
        return {}

    def shards(self) -> list[nn.Module]:
        return self.blocks()

    def __call__(self, xt: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.values is None
        dtype = dtype_of(self.module)
        # weights in half precision know what they compute in
        whole = nullcontext() if dtype == torch.float32 else without_autocast(xt.device)
        moved = nullcontext()
        if conditioning.added is not None and conditioning.added_at is not None:
            self._seam = self._seam or Seam(self.module)
            moved = self._seam.using("values", ValueOffsets(conditioning.added, conditioning.added_at))
        with whole, moved:
            output = self.module(
                xt.to(dtype), 1 - t, conditioning.states.to(dtype), conditioning.mask
            )[0]  # fmt: skip
        return -output
