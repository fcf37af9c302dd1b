"""Qwen3 as FLUX.2 Klein and Z-Image read it: a chat with one message, and the states of some layers side by
side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...config import TOKEN
from ...devices import to_device
from ...errors import LikenessError
from ...staged.text import Places, TextStates
from .. import features
from ..conditioning import Conditioning
from ..precision import device_of, dtype_of, without_autocast
from .placeholders import vectors_in_place
from .protocol import Rows, Tokens

BEFORE = "<|im_start|>user\n"  # the prompt
BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
THOUGHT = "<|im_end|>\n<|im_start|>assistant\n"  # where the answer may begin with thinking
PADDING = "<|endoftext|>"
MARKS = frozenset({"<think>"})  # what looks like a placeholder among the marks of the chat
LENGTH = 512  # tokens that are read, with the marks of the chat
TAPS = (9, 18, 27)  # layers before which the states are read, of Qwen3's 36
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def taps_for(layers: int) -> tuple[int, ...]:
    """Where a text encoder of so many layers, four at least, is read: as far along as Klein's is."""
    return TAPS if layers >= TAPS[-1] else tuple(layers * quarter // 4 for quarter in (1, 2, 3))


class QwenText:
    """A causal language model; prompts are filled up to one length.

    `multiple`: None where the picture hears padding too. Where it does not, a mask says which states there
    are, and they are as many as the longest prompt needs, filled up to a multiple of so many. `closing`: what
    stands behind the prompt.
    """

    offers = frozenset({features.STAGED_TEXT, features.TEXT_ATTENTION_MAPS})
    lora_targets: tuple[str, ...] = _ATTENTION
    pooled = False
    before = BEFORE  # what stands in front of the prompt

    def __init__(
        self, name: str, model: nn.Module, tokenizer: Any, taps: Sequence[int], length: int = LENGTH,
        multiple: int | None = None, closing: str = BEHIND,
    ) -> None:  # fmt: skip
        self.encoders: Any = nn.ModuleDict({name: model})
        self.tokenizers: dict[str, Any] = {name: tokenizer}
        self.taps, self.length = tuple(taps), length
        self.multiple, self.closing = multiple, closing
        self.checkpointing = False  # whether layers' inner states are computed again for the gradients
        self._padding: int = tokenizer.convert_tokens_to_ids(PADDING)

    def longest(self, encoder: str) -> int:
        return self.length

    def blocks(self) -> list[nn.Module]:
        (model,) = self.encoders.values()
        return [model.get_input_embeddings(), *model.layers]

    def tokenize(
        self, prompts: Sequence[str], rows: Rows | None, encoder: str, *, weights: bool = False
    ) -> Tokens:
        """Brackets are letters here, as in ComfyUI, which takes only the strokes before them away."""
        ids = torch.full((len(prompts), self.length), self._padding, dtype=torch.long)
        places: list[tuple[int, int, str, int]] = []
        for number, prompt in enumerate(prompts):
            line = self._line(prompt, rows or {}, encoder, weights)
            if len(line) > self.length:
                raise LikenessError(
                    f"the prompt '{prompt[:60]}…' is {len(line)} tokens long with the marks around it, and "
                    f"this base reads {self.length}; shorten it"
                )
            for position, piece in enumerate(line):
                if isinstance(piece, tuple):
                    places.append((number, position, *piece))
                else:
                    ids[number, position] = piece
        return Tokens(ids, tuple(places))

    def _line(self, prompt: str, rows: Rows, encoder: str, drawn: bool) -> list[int | tuple[str, int]]:
        """A prompt's ids and, in the place of placeholders, which of their vectors.

        Spaces and line breaks are those that ComfyUI leaves: before an embedding there is at least one; what
        follows it, the chat's own marks among them, is read with one space between words.
        """
        read: Callable[[str], list[int]] = lambda text: self.tokenizers[encoder](  # noqa: E731
            text, add_special_tokens=False
        )["input_ids"]
        if drawn:
            prompt = prompt.replace("\\(", "(").replace("\\)", ")")
        line: list[int | tuple[str, int]] = []
        last, matches = 0, [match for match in TOKEN.finditer(prompt) if match.group() in rows]
        for number, match in enumerate([*matches, None]):
            end = len(prompt) if match is None else match.start()
            text = prompt[last:end] + (self.closing if match is None else "")
            text = self.before + text if number == 0 else text
            if number:
                text = " ".join(text.split())
            elif match is not None and not text[-1].isspace():
                text += " "
            line += read(text) if text else []
            if match is not None:
                name = match.group()
                line += [(name, vector) for vector in range(len(rows[name][encoder]))]
                last = match.end()
        return line

    def encode(
        self, prompts: Sequence[str], rows: Rows | None, device: torch.device, *, weights: bool = False
    ) -> Conditioning:
        """Equal prompts are encoded once; states (B, T, as often the width as layers are tapped)."""
        unique = list(dict.fromkeys(prompts))
        ((name, model),) = self.encoders.items()
        tokens = self.tokenize(unique, rows, name, weights=weights)
        there = self._there(tokens.ids)
        if there is not None:
            tokens = replace(tokens, ids=tokens.ids[:, : there.shape[1]])
        with vectors_in_place(model.get_input_embeddings(), tokens, rows or {}, name):
            states = self.states_of(model, to_device(tokens.ids, device_of(model)))
        mask = None if there is None else to_device(there, device)
        conditioning = Conditioning(states=states.to(device), mask=mask)
        if len(unique) == len(prompts):
            return conditioning
        return conditioning.rows(
            to_device(torch.tensor([unique.index(prompt) for prompt in prompts]), device)
        )

    def _there(self, ids: Tensor) -> Tensor | None:
        """Which states of prompts (B, T) there are, as far as the longest of them reaches; None: all."""
        if self.multiple is None:
            return None
        ends = self._ends(ids)  # (B, 1)
        longest = ids.shape[1]
        if not ids.is_meta:
            longest = min(longest, -(-int(ends.max()) // self.multiple) * self.multiple)
        return torch.arange(longest, device=ids.device) < ends

    def _ends(self, ids: Tensor) -> Tensor:
        """Behind which place (B, 1) of prompts (B, T) nothing is but padding; before it, padding's id holds a
        place for a vector."""
        place = torch.arange(ids.shape[1], device=ids.device)
        return ((ids != self._padding) * (place + 1)).amax(1, keepdim=True)

    def states_of(self, model: Any, ids: Tensor) -> Tensor:
        """What the denoiser reads (B, T, as often the width as layers are tapped) of ids (B, T) as they
        are."""
        with ExitStack() as stack:
            stack.enter_context(without_autocast(ids.device))
            if self.checkpointing and torch.is_grad_enabled():
                stack.enter_context(_recomputed(model.layers))
            tapped = stack.enter_context(_tapped(model.layers, self.taps))
            model(input_ids=ids, attention_mask=self._mask(ids, dtype_of(model)), use_cache=False)
        return torch.cat([tapped[tap] for tap in self.taps], -1)

    def _mask(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to logits (B, 1, T, T): each place hears words before it. transformers would make the
        same, but looks at the numbers for it, and so waits for the device."""
        place = torch.arange(ids.shape[1], device=ids.device)
        heard = (place < self._ends(ids))[:, None, None, :] & (place <= place[:, None])
        return torch.zeros(heard.shape, dtype=dtype, device=ids.device).masked_fill_(
            ~heard, torch.finfo(dtype).min
        )

    def encode_staged(
        self, encoder: str, ids: Tensor, places: Places, *, attention: bool = False
    ) -> TextStates:
        """The attention is that of all the layers whose states are tapped, one after the other."""
        states, maps = self._read(encoder, ids, places, self.taps if attention else ())
        added, at = places.by_prompt(len(ids)) if len(places.prompts) else (None, None)
        there = self._there(ids)
        if there is not None:
            states, there = states[:, : there.shape[1]], there.to(places.vectors.device)
        return TextStates(states, states, maps, added, at, there)

    def _read(
        self, encoder: str, ids: Tensor, places: Places, heard: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """States of ids (B, T), and the attention (B, heads, T, T) of the layers before these taps, one after
        the other."""
        model = self.encoders[encoder]
        ids = to_device(ids, device_of(model))

        def written(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            where = to_device(places.prompts, output.device), to_device(places.positions, output.device)
            return output.index_put(where, places.vectors.to(output))

        handle = model.get_input_embeddings().register_forward_hook(written)
        seen: dict[Any, Any] = {}
        try:
            with _attention_seen(model, [tap - 1 for tap in heard], seen):
                states = self.states_of(model, ids)
        finally:
            handle.remove()
        maps = None
        if heard:
            mask = self._mask(ids, torch.float32)
            maps = torch.cat(
                [_maps(seen[tap - 1][0], seen[tap - 1][1], seen["places"], mask) for tap in heard], 1
            )
        return states.to(places.vectors.device), maps

    def said(self, parts: Sequence[TextStates], pooled: Tensor | None = None) -> Conditioning:
        (part,) = parts
        return Conditioning(states=part.keys, mask=part.there, added=part.added, added_at=part.added_at)

    def spoken(self, tokens: Tokens, encoder: str) -> tuple[Tensor, Tensor]:
        """The chat's marks, which hold attention sinks, are no words of the user."""
        before, *marks = (
            self.tokenizers[encoder](text, add_special_tokens=False)["input_ids"]
            for text in (self.before, "<|im_end|>")
        )
        positions, ((end,),) = torch.arange(tokens.ids.shape[1]), marks
        ends = torch.tensor([line.index(end) for line in tokens.ids.tolist()])[:, None]
        last = torch.stack([1 + (ids != self._padding).nonzero()[-1] for ids in tokens.ids])  # (B, 1)
        words = (positions >= len(before)) & (positions < ends)
        return words, (positions >= len(before)) & (positions < last)

    def word_rows(self, text: str) -> dict[str, Tensor]:
        ((name, model),) = self.encoders.items()
        ids = self.tokenizers[name](text, add_special_tokens=False)["input_ids"]
        return {name: model.get_input_embeddings().weight[ids].detach().float().clone()}


@contextmanager
def _attention_seen(model: Any, layers: Sequence[int], seen: dict[Any, Any]) -> Iterator[None]:
    """Within, a pass leaves the queries and keys (B, T, heads, d) of these layers behind, after their norm,
    and the cosines and sines (1, T, d) of their `places`."""

    def keep(layer: int, side: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            seen.setdefault(layer, [None, None])[side] = output

        return hook

    def places(_module: Any, _inputs: Any, output: Any) -> None:
        seen["places"] = output

    handles = [model.rotary_emb.register_forward_hook(places)] if layers else []
    for layer in layers:
        attention = model.layers[layer].self_attn
        for side, norm in enumerate((attention.q_norm, attention.k_norm)):
            handles.append(norm.register_forward_hook(keep(layer, side)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _maps(queries: Tensor, keys: Tensor, places: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Attention (B, heads of the queries, T, T) after the softmax, in fp32."""
    cos, sin = (part.float()[:, None] for part in places)  # (1, 1, T, d)

    def turned(states: Tensor) -> Tensor:
        states = states.float().transpose(1, 2)
        first, second = states.chunk(2, -1)
        return states * cos + torch.cat([-second, first], -1) * sin

    queries, keys = turned(queries), turned(keys)
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
    return (queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5 + mask).softmax(-1)


@contextmanager
def _recomputed(layers: Any) -> Iterator[None]:
    """Within, passes keep what goes into each layer alone; transformers does so only in training mode."""
    forwards = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, forwards):
            del layer.forward
            if forward is not None:
                layer.forward = forward


@contextmanager
def _tapped(layers: Any, taps: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What goes into the layers of these numbers, for one pass; the last may be behind all."""
    states: dict[int, Tensor] = {}

    def keep(tap: int) -> Callable[..., None]:
        def hook(_layer: Any, _inputs: Any, output: Any) -> None:
            states[tap] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layers[tap - 1].register_forward_hook(keep(tap)) for tap in taps]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
