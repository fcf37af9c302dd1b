"""Krea 2's transformer (diffusers' Krea2Transformer2DModel) as a denoiser: joint attention, then a gate."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...staged.text import ValueOffsets
from .. import features
from ..conditioning import Conditioning
from ..precision import dtype_of, without_autocast
from .krea2 import token_places
from .protocol import AttentionLayer, CrossAttention, TextProjections
from .seam import Seam

PATCH = 2  # latents a side that are one token


class _Block(AttentionLayer):
    """Words and picture are projected alike; keys and values have fewer heads than queries."""

    @property
    def text(self) -> TextProjections:
        layer = self.layer
        return TextProjections(layer.to_k.weight, layer.to_v.weight, layer.norm_k.weight + 1)

    @property
    def key_heads(self) -> int:
        return int(self.layer.num_kv_heads)


class Krea2Transformer:
    """Reads latents (B, 16, h, w), two by two one token, and twelve text states for each word, side by side,
    which stand at no place of their own."""

    offers = frozenset({features.CROSS_ATTENTION_MAPS, features.IDENTITY_ATTENTION, features.SPLIT_VALUES})
    side_multiple = PATCH
    whole_blocks = True

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.value_width: int | None = self.module.hidden_size
        self._seam: Seam | None = None  # opened while values are moved

        def layers(*leaves: str) -> tuple[str, ...]:
            """By whole paths: the blocks that fuse text states have layers of the same names."""
            count = len(self.module.transformer_blocks)
            return tuple(f"transformer_blocks.{number}.{leaf}" for number in range(count) for leaf in leaves)

        attention = layers("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
        whole = (*attention, *layers("attn.to_gate", "ff.gate", "ff.up", "ff.down"))
        self.lora_targets: Mapping[str, tuple[str, ...]] = {
            "attention": attention,
            "feed-forward": (*attention, *layers("ff.gate", "ff.up")),
            "transformer": whole,
            "blocks": whole,
        }

    def blocks(self) -> list[nn.Module]:
        return list(self.module.transformer_blocks)

    def attention_layers(self) -> dict[str, AttentionLayer]:
        """All look at every token of the picture."""
        return {
            f"transformer_blocks.{number}.attn": _Block(block.attn, PATCH, "single")
            for number, block in enumerate(self.module.transformer_blocks)
        }

    def identity_layers(self) -> dict[str, AttentionLayer]:
        """Every second block."""
        return dict(list(self.attention_layers().items())[::2])

    def cross_attention(self) -> dict[str, CrossAttention]:
        return {}

    def shards(self) -> list[nn.Module]:
        return self.blocks()

    def __call__(self, xt: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.values is None
        dtype, (height, width) = dtype_of(self.module), xt.shape[-2:]
        odd = (0, width % PATCH, 0, height % PATCH)  # filled up from the other side, as ComfyUI does
        patches = nn.functional.pad(xt, odd, mode="circular") if any(odd) else xt
        patches = nn.functional.pixel_unshuffle(patches, PATCH)
        grid = patches.shape[-2:]
        places = token_places(conditioning.length, grid[0], grid[1], xt.device)
        states = conditioning.states.to(dtype).unflatten(-1, (self.module.config.num_text_layers, -1))
        # weights in half precision know what they compute in
        whole = nullcontext() if dtype == torch.float32 else without_autocast(xt.device)
        moved = nullcontext()
        if conditioning.added is not None and conditioning.added_at is not None:
            self._seam = self._seam or Seam(self.module)
            moved = self._seam.using("values", ValueOffsets(conditioning.added, conditioning.added_at))
        with whole, moved:
            output = self.module(
                hidden_states=patches.to(dtype).flatten(2).transpose(1, 2), encoder_hidden_states=states,
                timestep=t, position_ids=places, encoder_attention_mask=conditioning.mask,
                return_dict=False,
            )[0]  # fmt: skip
        output = nn.functional.pixel_shuffle(output.transpose(1, 2).unflatten(2, grid), PATCH)
        return output[..., :height, :width]
