"""Joint attention in diffusers' FLUX.2: where words and picture stand in it, and how users get there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionSite, AttentionUser, Bias, Pass, attend

_ARGUMENTS = ("hidden_states", "encoder_hidden_states", "timestep", "img_ids", "txt_ids")


class Flux2Sites:
    """A FLUX.2 transformer's attention for the seam: double blocks, then single ones."""

    carrier = "joint_attention_kwargs"
    name = "attention_users"

    def __init__(self, transformer: nn.Module) -> None:
        network: Any = transformer
        blocks = [("transformer_blocks", DoubleProcessor), ("single_transformer_blocks", SingleProcessor)]
        self.processors: list[tuple[Any, Any]] = [
            (block.attn, processor(f"{kind}.{number}.attn", block.attn.processor))
            for kind, processor in blocks
            for number, block in enumerate(getattr(network, kind))
        ]
        self._last: tuple[Any, tuple[int, int] | None] = (None, None)

    def lengthened(
        self, inputs: tuple[Any, ...], options: dict[str, Any], user: AttentionUser
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments = {**dict(zip(_ARGUMENTS, inputs)), **options}
        behind = user.behind(arguments["encoder_hidden_states"])
        if behind is None:
            return inputs, options
        states, places, _ = behind
        assert places.ndim == 1  # prompts are filled up to one length here, and places are one pass's
        ids = arguments["txt_ids"].new_zeros(len(places), arguments["txt_ids"].shape[-1])
        ids[:, 3] = places
        arguments["encoder_hidden_states"] = torch.cat([arguments["encoder_hidden_states"], states], 1)
        arguments["txt_ids"] = torch.cat([arguments["txt_ids"], ids])
        return (), arguments

    def passing(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Any, Pass]:
        arguments = {**dict(zip(_ARGUMENTS, inputs)), **options}
        ids = arguments["img_ids"]
        if self._last[0] is not ids:  # asked of the device once
            self._last = ids, _grid(ids)
        text = int(arguments["encoder_hidden_states"].shape[1])
        return arguments["hidden_states"], arguments["timestep"], Pass({}, self._last[1], text)

    def ready(self, options: dict[str, Any], users: Pass) -> None:
        """Layers are told by the carrier."""

    def hooks(self) -> list[Any]:
        return []


def _grid(ids: Tensor) -> tuple[int, int] | None:
    """(h, w) of picture tokens by their places (N, 4) or (B, N, 4), time, row, column and layer in each; None
    where they are not one picture's."""
    grid: tuple[int, int] | None = getattr(ids, "grid", None)
    if grid is not None:
        return grid
    rows, columns = (int(ids[..., axis].max()) + 1 for axis in (1, 2))
    return (rows, columns) if rows * columns == ids.shape[-2] else None


class _Processor:
    """What both kinds of block have in common."""

    def __init__(self, name: str, usual: Any) -> None:
        self._name, self._usual = name, usual

    def _attention(
        self, users: Pass, q: Tensor, k: Tensor, v: Tensor, rotary: Any,
        to_k: Callable[[Tensor], Tensor], to_v: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        """Attention (B, N, heads * d) of all tokens, the words before the picture."""
        from diffusers.models.embeddings import apply_rotary_emb

        def rotate(x: Tensor) -> Tensor:
            turned: Any = x if rotary is None else apply_rotary_emb(x, rotary, sequence_dim=1)
            return turned

        def compute(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
            return attend(rotate(q), rotate(k), v, bias)

        text, image = slice(0, users.text), slice(users.text, None)
        site = AttentionSite(self._name, q.shape[2], text, image, users.latents, to_k, to_v, rotate)
        return users.attention(site, q, k, v, compute).flatten(2).to(q.dtype)


class DoubleProcessor(_Processor):
    """A double block's attention as Flux2AttnProcessor computes it, with users; without, as usual."""

    def __call__(
        self,
        layer: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        attention_users: Pass | None = None,
    ) -> tuple[Tensor, Tensor]:
        if attention_users is None:
            return self._usual(layer, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)

        def in_heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (-1, layer.head_dim))

        def to_k(text: Tensor) -> Tensor:
            return layer.norm_added_k(in_heads(layer.add_k_proj(text)))

        def to_v(text: Tensor) -> Tensor:
            return in_heads(layer.add_v_proj(text))

        text, image = encoder_hidden_states, hidden_states
        asked = layer.norm_added_q(in_heads(layer.add_q_proj(text)))
        q = torch.cat([asked, layer.norm_q(in_heads(layer.to_q(image)))], 1)
        k = torch.cat([to_k(text), layer.norm_k(in_heads(layer.to_k(image)))], 1)
        v = torch.cat([to_v(text), in_heads(layer.to_v(image))], 1)
        out = self._attention(attention_users, q, k, v, image_rotary_emb, to_k, to_v)
        words, picture = out.split([text.shape[1], image.shape[1]], 1)
        return layer.to_out[1](layer.to_out[0](picture)), layer.to_add_out(words)


class SingleProcessor(_Processor):
    """As Flux2ParallelSelfAttnProcessor computes a single block's attention, with users."""

    def __call__(
        self,
        layer: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        attention_users: Pass | None = None,
    ) -> Tensor:
        if attention_users is None:
            return self._usual(layer, hidden_states, attention_mask, image_rotary_emb)

        def projected(states: Tensor) -> tuple[list[Tensor], Tensor]:
            both, width = layer.to_qkv_mlp_proj(states), 3 * layer.inner_dim
            parts = both[..., :width].chunk(3, -1)
            return [part.unflatten(-1, (-1, layer.head_dim)) for part in parts], both[..., width:]

        (q, k, v), rest = projected(hidden_states)
        out = self._attention(
            attention_users, layer.norm_q(q), layer.norm_k(k), v, image_rotary_emb,
            lambda text: layer.norm_k(projected(text)[0][1]), lambda text: projected(text)[0][2],
        )  # fmt: skip
        return layer.to_out(torch.cat([out, layer.mlp_act_fn(rest)], -1))
