"""Text states with pseudo-words in them: keys from one context, values from another ("bypass"), and the text
encoder's own attention. Works on transformers' CLIP text models through hooks that are taken off again, on
what reads the states through the seam of attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..bases.attention import AttentionSite, AttentionUser, Bias


@dataclass(frozen=True)
class Places:
    """Where in a batch of prompts (B, T) the P pseudo-words stand, and what stands there."""

    prompts: Tensor  # (P,) which prompt
    positions: Tensor  # (P,) which token of it
    vectors: Tensor  # (P, D) token vectors
    bypass: Tensor  # (P, D) added to the last layer's states, for values only; 0 changes nothing. Where
    # attention is joint (P, W), added to what each block makes values of

    def by_prompt(self, prompts: int) -> tuple[Tensor, Tensor]:
        """The bypass (prompts, P, W), and its positions (prompts, P); zeros, which change nothing, in those
        that are another prompt's."""
        rows = torch.arange(prompts, device=self.prompts.device)[:, None] == self.prompts  # (prompts, P)
        return self.bypass * rows[..., None], self.positions * rows

    def in_chunks(self, count: int, length: int) -> "Places":
        """The same places in rows of `length` tokens, `count` of which make up a prompt."""
        rows = self.prompts * count + self.positions // length
        return Places(rows, self.positions % length, self.vectors, self.bypass)


def nowhere(ids: Tensor) -> Places:
    """No pseudo-words at all, for ids (B, T)."""
    none = torch.zeros(0, dtype=torch.long, device=ids.device)
    return Places(none, none, torch.zeros(0, 1, device=ids.device), torch.zeros(0, 1, device=ids.device))


@dataclass(frozen=True)
class TextStates:
    """What cross-attention reads: keys and values (B, T, D), attention (B, heads, T, T) of each chunk on
    request."""

    keys: Tensor
    values: Tensor
    attention: Tensor | None = None
    # as in Conditioning, for joint attention
    added: Tensor | None = None
    added_at: Tensor | None = None
    there: Tensor | None = None  # (B, T) bool: which states there are; None: all


def encode_staged(
    encoder: Any, ids: Tensor, places: Places, *, penultimate: bool = False, attention: bool = False
) -> TextStates:
    """Text states of ids (B, T) with pseudo-words in their places, chunk by chunk where T is longer than what
    the encoder reads at once.

    `penultimate`: the last layer but one without the final norm, as SDXL listens to it. `attention`: the
    post-softmax attention of the last layer that is listened to, too.
    """
    longest, layers = encoder.config.max_position_embeddings, encoder.config.num_hidden_layers
    if ids.shape[1] > longest:
        count = ids.shape[1] // longest
        chunked = encode_staged(
            encoder, ids.view(-1, longest), places.in_chunks(count, longest), penultimate=penultimate,
            attention=attention,
        )  # fmt: skip
        keys, values = (part.reshape(*ids.shape, -1) for part in (chunked.keys, chunked.values))
        return TextStates(keys, keys if chunked.values is chunked.keys else values, chunked.attention)
    final_norm = _part(encoder, "final_layer_norm")
    last = _part(encoder, f"layers.{layers - 1}")
    heard = _part(encoder, f"layers.{layers - 2}") if penultimate else last  # whose output is listened to
    seen: dict[str, Tensor] = {}
    hooks = [
        encoder.get_input_embeddings().register_forward_hook(lambda _m, _i, out: _written(out, places)),
        final_norm.register_forward_pre_hook(_keep(seen, "last")),
        last.register_forward_pre_hook(_keep(seen, "penultimate"), with_kwargs=True),
    ]
    if attention:
        for name in ("q_proj", "k_proj"):
            part = _part(heard, f"self_attn.{name}")
            hooks.append(part.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out})))
    try:
        normed = encoder(ids).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    maps = _attention(seen["q_proj"], seen["k_proj"], encoder.config) if attention else None
    if penultimate:
        states = seen["penultimate"]
        return TextStates(states, with_bypass(states, places), maps)
    if not len(places.prompts):
        return TextStates(normed, normed, maps)
    return TextStates(normed, final_norm(with_bypass(seen["last"], places)), maps)


def with_bypass(states: Tensor, places: Places) -> Tensor:
    """The states (B, T, D) with each pseudo-word's moved by its bypass and brought back to its length."""
    where = (places.prompts, places.positions)
    words = states[where]
    moved = words + places.bypass.to(words.dtype)
    length = words.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    # without a bypass exactly the states themselves: values then equal keys to the last bit
    still = (places.bypass == 0).all(-1, keepdim=True)
    return states.index_put(where, torch.where(still, words, (moved * length).to(words.dtype)))


def _written(embedded: Tensor, places: Places) -> Tensor:
    return embedded.index_put((places.prompts, places.positions), places.vectors.to(embedded.dtype))


def _keep(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], options: Mapping[str, Any] | None = None) -> None:
        seen[name] = inputs[0] if inputs else (options or {})["hidden_states"]

    return hook


def _part(module: nn.Module, ending: str) -> nn.Module:
    """The sub-module whose name ends so; its place differs between versions of transformers."""
    return next(part for name, part in module.named_modules() if f".{name}".endswith(f".{ending}"))


def _attention(queries: Tensor, keys: Tensor, config: Any) -> Tensor:
    """Causal attention (B, heads, T, T) after the softmax, from projections (B, T, D)."""
    heads = config.num_attention_heads
    queries, keys = (rows.unflatten(-1, (heads, -1)).transpose(1, 2).float() for rows in (queries, keys))
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(ahead, float("-inf")).softmax(-1)


class SplitValues(AttentionUser):
    """Values made from another context than the keys.

    `parts`: for runs of a pass's samples, how many, and their context (1 or n, t, D), repeated where
    cross-attention is given a multiple of t words (other prompts being longer), `even` of them at most; None:
    as they are. What others put behind stays.
    """

    def __init__(self, *parts: tuple[int, Tensor | None], even: int | None = None) -> None:
        self._parts, self._even = parts, even

    def before(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None
    ) -> tuple[Tensor, Tensor, Tensor, Bias | None]:
        if all(context is None for _, context in self._parts):
            return q, k, v, bias
        made, start = [], 0
        for count, context in self._parts:
            given, start = v[start : start + count], start + count
            values = None if context is None else site.to_v(context.to(v))
            made.append(given if values is None else _instead(given, values, self._even))
        return q, k, made[0] if len(made) == 1 else torch.cat(made), bias


class ValueOffsets(AttentionUser):
    """Values of words moved by W_v(R) at their places, W_v being the block's own projection of text: keys,
    and so who attends to whom, stay (ConceptSplit, arXiv 2510.04668, changes values alone too).

    rows (B, P, W), at (B, P): places among the words.
    """

    def __init__(self, rows: Tensor, at: Tensor) -> None:
        self._rows, self._at = rows, at

    def before(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None
    ) -> tuple[Tensor, Tensor, Tensor, Bias | None]:
        assert site.text is not None
        at = self._at.to(v.device) + site.text.start
        prompts = torch.arange(len(v), device=v.device)[:, None].expand_as(at)
        moved = site.to_v(self._rows.to(v)).to(v.dtype)
        return q, k, v.index_put((prompts, at), moved, accumulate=True), bias


def _instead(given: Tensor, new: Tensor, even: int | None) -> Tensor:
    """`new` (1 or B, t, heads, d) over the front of values (B, T, heads, d), again and again up to `even`."""
    length = given.shape[1]
    times = max(1, min(even or length, length) // new.shape[1])
    if times > 1 or len(new) != len(given):
        new = new.expand(len(given), -1, -1, -1).repeat(1, times, 1, 1)
    return new if new.shape[1] == given.shape[1] else torch.cat([new, given[:, new.shape[1] :]], 1)
