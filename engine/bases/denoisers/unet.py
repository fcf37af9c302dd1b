"""Cross-attention in diffusers' U-Nets: where it is, and how users of the seam get there."""

from typing import Any

from torch import Tensor, nn

from ..attention import WHOLE, AttentionSite, AttentionUser, Pass, attend
from ..grids import grid_of
from .protocol import CrossAttention

_PARTS = {"down": "down", "mid": "middle", "up": "up"}  # by how blocks' names begin


def cross_attention_layers(unet: nn.Module) -> dict[str, CrossAttention]:
    """The U-Net's cross-attention layers by path, in running order."""
    blocks: list[tuple[str, Any, int]] = []
    network: Any = unet
    reduction = 1
    for number, block in enumerate(network.down_blocks):
        blocks.append((f"down_blocks.{number}", block, reduction))
        reduction *= 1 if getattr(block, "downsamplers", None) is None else 2
    if network.mid_block is not None:
        blocks.append(("mid_block", network.mid_block, reduction))
    for number, block in enumerate(network.up_blocks):
        blocks.append((f"up_blocks.{number}", block, reduction))
        reduction //= 1 if getattr(block, "upsamplers", None) is None else 2
    return {
        f"{path}.{inner}": CrossAttention(layer, reduction, _PARTS[path.partition("_")[0]])
        for path, block, reduction in blocks
        for inner, layer in block.named_modules()
        if inner.endswith("attn2")
    }


class UNetSites:
    """A U-Net's cross-attention for the seam."""

    carrier = "cross_attention_kwargs"
    # diffusers hands what it finds there to self-attention too; this name it drops without a warning where
    # nobody takes it
    name = "ip_hidden_states"

    def __init__(self, unet: nn.Module) -> None:
        self.processors: list[tuple[Any, Any]] = [
            (attention.layer, CrossProcessor(name, attention.layer.processor))
            for name, attention in cross_attention_layers(unet).items()
        ]

    def lengthened(
        self, inputs: tuple[Any, ...], options: dict[str, Any], user: AttentionUser
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, options

    def passing(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Any, Pass]:
        noisy, timesteps = inputs[0], inputs[1] if len(inputs) > 1 else options.get("timestep")
        return noisy, timesteps, Pass({}, (int(noisy.shape[-2]), int(noisy.shape[-1])))

    def ready(self, options: dict[str, Any], users: Pass) -> None:
        """Layers are told by the carrier."""

    def hooks(self) -> list[Any]:
        return []


class CrossProcessor:
    """A layer's attention as diffusers' AttnProcessor2_0 computes it, with users; without, as usual."""

    def __init__(self, name: str, usual: Any) -> None:
        self._name, self._usual = name, usual

    def __call__(
        self,
        layer: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        ip_hidden_states: Pass | None = None,
        **options: Any,
    ) -> Tensor:
        if ip_hidden_states is None:
            return self._usual(layer, hidden_states, encoder_hidden_states, attention_mask, **options)
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            _in_heads(projection(states), layer.heads)
            for projection, states in ((layer.to_q, hidden_states), (layer.to_k, text), (layer.to_v, text))
        )
        latents = ip_hidden_states.latents
        site = AttentionSite(
            self._name, layer.heads, WHOLE, WHOLE, None if latents is None else grid_of(q.shape[1], latents),
            lambda states: _in_heads(layer.to_k(states), layer.heads),
            lambda states: _in_heads(layer.to_v(states), layer.heads),
        )  # fmt: skip
        out = ip_hidden_states.attention(site, q, k, v, attend).flatten(2).to(q.dtype)
        return layer.to_out[1](layer.to_out[0](out)) / layer.rescale_output_factor


def _in_heads(states: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) as (B, N, heads, d)."""
    return states.view(len(states), -1, heads, states.shape[-1] // heads)
