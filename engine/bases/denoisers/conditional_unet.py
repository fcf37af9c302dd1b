"""Stable Diffusion's U-Net (diffusers' UNet2DConditionModel) as a denoiser: cross-attention reads prompts."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...staged.text import SplitValues
from .. import features
from ..conditioning import Conditioning
from ..precision import dtype_of, without_autocast
from .protocol import AttentionLayer, CrossAttention
from .seam import Seam
from .unet import cross_attention_layers

SIZES = 6  # that SDXL is told beside the prompt: height and width, top and left, height and width again
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # the projections of every attention
LORA_TARGETS = {
    "attention": _ATTENTION,
    "feed-forward": (*_ATTENTION, "ff.net.0.proj"),  # and the way in of what follows each attention
    "transformer": (*_ATTENTION, "proj_in", "proj_out", "ff.net.2"),  # what else is in attention blocks
    "blocks": (*_ATTENTION, "ff.net.0.proj", "ff.net.2"),  # attention and feed-forward, whole
    "convolutions": (  # and all else but the ends, as LyCORIS and kohya's trainer choose
        *_ATTENTION,
        "ff.net.0.proj",
        "ff.net.2",
        "proj_in",
        "proj_out",
        "conv1",
        "conv2",
        "conv_shortcut",
        "time_emb_proj",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
    ),
    "cross-attention": tuple(f"attn2.{leaf}" for leaf in _ATTENTION),
    "text": ("attn2.to_k", "attn2.to_v"),  # what reads nothing but the prompt
}


class ConditionalUNet:
    """A U-Net that is told a timestep and reads text states; SDXL's reads a pooled vector and sizes too."""

    whole_blocks = False  # diffusers computes parts of them again
    offers = frozenset(
        {
            features.CROSS_ATTENTION_MAPS,
            features.TEXT_PROJECTIONS,
            features.SPLIT_VALUES,
            features.IDENTITY_ATTENTION,
        }
    )
    lora_targets: Mapping[str, tuple[str, ...]] = LORA_TARGETS
    value_width: int | None = None

    def __init__(self, module: nn.Module, pixels_per_latent: int) -> None:
        self.module: Any = module
        self.pixels_per_latent = pixels_per_latent
        self.pooled_width = pooled_width(self.module.config)  # 0: it reads none
        self._seam: Seam | None = None  # opened while values are not those of the keys' states
        self._told_sizes: dict[Any, Tensor] = {}  # SDXL's (6,) by picture size, device and precision

    @property
    def side_multiple(self) -> int:
        return 2 ** (len(self.module.down_blocks) - 1)

    def blocks(self) -> list[nn.Module]:
        middle = [] if self.module.mid_block is None else [self.module.mid_block]
        return [*self.module.down_blocks, *middle, *self.module.up_blocks]

    def attention_layers(self) -> Mapping[str, AttentionLayer]:
        return self.cross_attention()

    def identity_layers(self) -> Mapping[str, AttentionLayer]:
        return self.cross_attention()

    def cross_attention(self) -> dict[str, CrossAttention]:
        return cross_attention_layers(self.module)

    def shards(self) -> list[nn.Module]:
        from diffusers.models.attention import BasicTransformerBlock
        from diffusers.models.resnet import ResnetBlock2D

        shards: list[nn.Module] = []
        for part in self.module.modules():
            if isinstance(part, ResnetBlock2D):
                shards.append(part)
            elif isinstance(part, BasicTransformerBlock):
                crossed: Any = part.attn2
                projections = crossed and [crossed.to_q, crossed.to_k, crossed.to_v, crossed.to_out[0]]
                shards += [part.attn1, *(projections or []), part.ff]
        return shards

    def __call__(self, xt: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        dtype, more = dtype_of(self.module), {}
        xt, states = xt.to(dtype), conditioning.states.to(dtype)
        if self.pooled_width:
            assert conditioning.pooled is not None
            pooled = conditioning.pooled.to(dtype)
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": self._sizes(xt)}
        apart = nullcontext()
        if conditioning.values is not None:
            self._seam = self._seam or Seam(self.module)
            apart = self._seam.using("values", SplitValues((len(xt), conditioning.values)))
        # weights in half precision know what they compute in
        whole = nullcontext() if dtype == torch.float32 else without_autocast(xt.device)
        with whole, apart:
            return self.module(xt, t, encoder_hidden_states=states, return_dict=False, **more)[0]

    def _sizes(self, xt: Tensor) -> Tensor:
        """The sizes (B, 6) that go with latents (B, C, h, w): their own picture, uncropped, as in ComfyUI."""
        height, width = (int(side) * self.pixels_per_latent for side in xt.shape[-2:])
        key = (height, width, xt.device, xt.dtype)
        if key not in self._told_sizes:
            sizes = [height, width, 0, 0, height, width]
            self._told_sizes[key] = torch.tensor(sizes, device=xt.device, dtype=xt.dtype)
        return self._told_sizes[key].expand(len(xt), SIZES)


def pooled_width(config: Any) -> int:
    """Numbers in the pooled vector that a U-Net reads beside the text states; 0: it reads none."""
    if config.addition_embed_type != "text_time":
        return 0
    return config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
