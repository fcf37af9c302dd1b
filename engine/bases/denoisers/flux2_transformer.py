"""FLUX.2's transformer (diffusers' Flux2Transformer2DModel) as a denoiser: joint attention."""

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

_DOUBLE = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class _Double(AttentionLayer):
    @property
    def text(self) -> TextProjections:
        layer = self.layer
        return TextProjections(layer.add_k_proj.weight, layer.add_v_proj.weight, layer.norm_added_k.weight)


class _Single(AttentionLayer):
    @property
    def text(self) -> TextProjections:
        """Words and picture are projected alike."""
        width = self.layer.inner_dim
        _, to_k, to_v = self.layer.to_qkv_mlp_proj.weight[: 3 * width].split(width)
        return TextProjections(to_k, to_v, self.layer.norm_k.weight)


class Flux2Transformer:
    """Reads latents (B, 128, h, w), one token each, and text states, whose places are on RoPE's last axis."""

    offers = frozenset({features.CROSS_ATTENTION_MAPS, features.IDENTITY_ATTENTION, features.SPLIT_VALUES})
    side_multiple = 1
    whole_blocks = True

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.value_width: int | None = self.module.inner_dim
        self._seam: Seam | None = None  # opened while values are moved
        # without the single blocks' outputs, faces stay generic (unslothai/unsloth#8267); by whole paths, for
        # a double block's output is a list of the same name
        singles = [
            f"single_transformer_blocks.{number}.attn.{leaf}"
            for number in range(len(self.module.single_transformer_blocks))
            for leaf in ("to_qkv_mlp_proj", "to_out")
        ]
        attention = (*_DOUBLE, *singles)
        self.lora_targets: Mapping[str, tuple[str, ...]] = {
            "attention": attention,
            "feed-forward": (*attention, "linear_in"),
            "transformer": (*attention, "linear_in", "linear_out"),
            "blocks": (*attention, "linear_in", "linear_out"),
        }

    def blocks(self) -> list[nn.Module]:
        return [*self.module.transformer_blocks, *self.module.single_transformer_blocks]

    def attention_layers(self) -> dict[str, AttentionLayer]:
        """All look at every token of the picture."""
        kinds = {"transformer_blocks": _Double, "single_transformer_blocks": _Single}
        return {
            f"{blocks}.{number}.attn": kind(block.attn, 1, kind.__name__.strip("_").lower())
            for blocks, kind in kinds.items()
            for number, block in enumerate(getattr(self.module, blocks))
        }

    def identity_layers(self) -> dict[str, AttentionLayer]:
        """All double blocks and every second single one."""
        layers = self.attention_layers()
        single = [name for name, layer in layers.items() if isinstance(layer, _Single)]
        return {name: layer for name, layer in layers.items() if name not in single[1::2]}

    def cross_attention(self) -> dict[str, CrossAttention]:
        return {}

    def shards(self) -> list[nn.Module]:
        return self.blocks()

    def __call__(self, xt: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.values is None and conditioning.mask is None
        dtype, (height, width) = dtype_of(self.module), xt.shape[-2:]
        places = picture_places(height, width, xt.device)
        words = torch.zeros(conditioning.length, 4, dtype=torch.long, device=xt.device)
        words[:, 3] = torch.arange(conditioning.length, device=xt.device)
        # weights in half precision know what they compute in
        whole = nullcontext() if dtype == torch.float32 else without_autocast(xt.device)
        moved = nullcontext()
        if conditioning.added is not None and conditioning.added_at is not None:
            self._seam = self._seam or Seam(self.module)
            moved = self._seam.using("values", ValueOffsets(conditioning.added, conditioning.added_at))
        with whole, moved:
            output = self.module(
                xt.to(dtype).flatten(2).transpose(1, 2), encoder_hidden_states=conditioning.states.to(dtype),
                timestep=t, img_ids=places, txt_ids=words, return_dict=False,
            )[0]  # fmt: skip
        return output.transpose(1, 2).unflatten(2, (height, width))


def picture_places(height: int, width: int, device: torch.device) -> Tensor:
    """The places (h * w, 4) of a picture's tokens: time, row, column and layer. They know their `grid`:
    whoever asks for it need not wait for the device."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    places = torch.zeros(height * width, 4, dtype=torch.long, device=device)
    places[:, 1], places[:, 2] = rows.flatten(), columns.flatten()
    places.grid = height, width  # type: ignore[attr-defined]
    return places
