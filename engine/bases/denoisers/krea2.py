"""Joint attention in diffusers' Krea 2: where words and picture stand in it, and how users get there.

Nothing of a pass's own arguments reaches its blocks but the tokens' places and a mask: users come along with
the one, and with the other who is read by whom while text states are fused.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..attention import AttentionSite, AttentionUser, Bias, Pass, attend

_ARGUMENTS = ("hidden_states", "encoder_hidden_states", "timestep", "position_ids", "encoder_attention_mask")


def token_places(words: int, height: int, width: int, device: torch.device) -> Tensor:
    """The places (words + h * w, 3) of a pass's tokens, time, row and column: all words are at the first.
    They know the picture's `grid`."""
    places = torch.zeros(words + height * width, 3, device=device)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    places[words:, 1], places[words:, 2] = rows.flatten(), columns.flatten()
    places.grid = height, width  # type: ignore[attr-defined]
    return places


class Placed(NamedTuple):
    """What blocks are told of their tokens' places, and who is in the pass."""

    cos: Tensor  # (N, d)
    sin: Tensor
    users: Pass


class Krea2Sites:
    """A Krea 2 transformer's attention for the seam: its blocks, not those that fuse text states."""

    carrier = "attention_kwargs"
    name = "attention_users"

    def __init__(self, transformer: nn.Module) -> None:
        network: Any = transformer
        self._fusion, self._rotary = network.text_fusion, network.rotary_emb
        self.processors: list[tuple[Any, Any]] = [
            (block.attn, GatedProcessor(f"transformer_blocks.{number}.attn", block.attn.processor))
            for number, block in enumerate(network.transformer_blocks)
        ]

    def hooks(self) -> list[Any]:
        return [
            self._fusion.register_forward_pre_hook(_fused_apart, with_kwargs=True),
            self._rotary.register_forward_hook(_with_users),
        ]

    def ready(self, options: dict[str, Any], users: Pass) -> None:
        options["position_ids"].users = users

    def lengthened(
        self, inputs: tuple[Any, ...], options: dict[str, Any], user: AttentionUser
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments = {**dict(zip(_ARGUMENTS, inputs)), **options}
        states: Tensor = arguments["encoder_hidden_states"]
        behind = user.behind(states.flatten(2))
        if behind is None:
            return (), arguments
        mask = arguments.get("encoder_attention_mask")
        front = states.new_ones(states.shape[:2], dtype=torch.long) if mask is None else mask.long()
        of = torch.cat([front, behind.prompts + (behind.prompts > 0)], 1)  # 1: the whole prompt; 0: nobody's
        longer: Any = torch.cat([states, behind.states.unflatten(-1, states.shape[2:])], 1)
        longer.of = of
        before: Any = arguments["position_ids"]
        places: Any = torch.cat([before.new_zeros(behind.states.shape[1], 3), before])
        places.grid = before.grid
        longer_ones = {
            "encoder_hidden_states": longer,
            "encoder_attention_mask": of > 0,
            "position_ids": places,
        }
        return (), {**arguments, **longer_ones}

    def passing(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Any, Pass]:
        arguments = {**dict(zip(_ARGUMENTS, inputs)), **options}
        grid: tuple[int, int] = arguments["position_ids"].grid
        text = int(arguments["encoder_hidden_states"].shape[1])
        return arguments["hidden_states"], arguments["timestep"], Pass({}, grid, text)


def _fused_apart(_fusion: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Words of different prompts do not read each other while their states are fused; nobody's read the
    whole prompt, for they must read something."""
    of = getattr(inputs[0], "of", None)
    if of is None:
        return None
    read = of.clamp(min=1)[:, None, :, None] == of[:, None, None, :]  # (B, 1, T, T)
    return inputs, {**options, "attention_mask": read}


def _with_users(_rotary: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    users, (cos, sin) = getattr(inputs[0], "users", None), output
    return output if users is None else Placed(cos, sin, users)


class GatedProcessor:
    """A block's attention as Krea2AttnProcessor computes it, with users before its gate; without, as is."""

    def __init__(self, name: str, usual: Any) -> None:
        self._name, self._usual = name, usual

    def __call__(
        self,
        layer: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        if not isinstance(image_rotary_emb, Placed):
            return self._usual(layer, hidden_states, attention_mask, image_rotary_emb)
        from diffusers.models.embeddings import apply_rotary_emb

        places: Any = image_rotary_emb[:2]
        users = image_rotary_emb.users
        heard = None if attention_mask is None else attention_mask[:, 0, 0]

        def in_heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (-1, layer.head_dim))

        def rotate(x: Tensor) -> Tensor:
            turned: Any = apply_rotary_emb(x, places, sequence_dim=1)
            return turned

        def to_k(states: Tensor) -> Tensor:
            return layer.norm_k(in_heads(layer.to_k(states)))

        def to_v(states: Tensor) -> Tensor:
            return in_heads(layer.to_v(states))

        def compute(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
            return attend(rotate(q), rotate(k), v, bias, heard)

        q = layer.norm_q(in_heads(layer.to_q(hidden_states)))
        text, image = slice(0, users.text), slice(users.text, None)
        site = AttentionSite(
            self._name, q.shape[2], text, image, users.latents, to_k, to_v, rotate,
            None if heard is None else heard[:, text],
        )  # fmt: skip
        out = users.attention(site, q, to_k(hidden_states), to_v(hidden_states), compute)
        gated = out.flatten(2).to(q.dtype) * layer.to_gate(hidden_states).sigmoid()
        return layer.to_out[0](gated)
