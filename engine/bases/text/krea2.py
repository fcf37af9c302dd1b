"""Qwen3-VL as Krea 2 reads it: a chat that asks for a description, and the states of twelve layers side by
side; what asks is the same for every prompt, and heard through the prompt's states alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...devices import to_device
from ...staged.text import Places, TextStates
from ..conditioning import Conditioning
from ..precision import device_of
from .placeholders import vectors_in_place
from .protocol import Rows, Tokens
from .qwen import LENGTH, THOUGHT, QwenText

KREA2_BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
KREA2_TAPS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)  # layers before which the states are read, of 36

_END = "<|im_end|>"  # of the prompt


def krea2_taps(layers: int, count: int = len(KREA2_TAPS)) -> tuple[int, ...]:
    """Where a text encoder of so many layers is read, `count` times: as far along as Krea's is."""
    return (
        KREA2_TAPS
        if layers > KREA2_TAPS[-1]
        else tuple(layers * (tap + 1) // (count + 1) for tap in range(count))
    )


class Krea2Text(QwenText):
    """Tokens are those of the prompt and what is behind it. Padding is not heard: states are as many as the
    longest of the prompts together has, and a mask says which there are."""

    before = KREA2_BEFORE

    def __init__(
        self, name: str, model: nn.Module, tokenizer: Any, taps: Sequence[int], length: int = LENGTH
    ) -> None:
        super().__init__(name, model, tokenizer, taps, length, multiple=1, closing=THOUGHT)

    def _line(self, prompt: str, rows: Rows, encoder: str, drawn: bool) -> list[int | tuple[str, int]]:
        asked = self._asked(encoder)
        line = super()._line(prompt, rows, encoder, drawn)
        if line[: len(asked)] != asked:  # line breaks in front, which would be one token with those before
            line = super()._line(prompt.lstrip(), rows, encoder, drawn)
        return line[len(asked) :]

    def _asked(self, encoder: str) -> list[int]:
        """The ids before every prompt."""
        return self.tokenizers[encoder](self.before, add_special_tokens=False)["input_ids"]

    def encode(
        self, prompts: Sequence[str], rows: Rows | None, device: torch.device, *, weights: bool = False
    ) -> Conditioning:
        """Equal prompts are encoded once; states (B, T, twelve times the width)."""
        unique = list(dict.fromkeys(prompts))
        ((name, model),) = self.encoders.items()
        tokens = self.tokenize(unique, rows, name, weights=weights)
        whole, mask = self._whole(tokens.ids, name)
        ahead = whole.shape[1] - mask.shape[1]
        shifted = [(prompt, place + ahead, word, vector) for prompt, place, word, vector in tokens.places]
        tokens = replace(tokens, ids=whole, places=tuple(shifted))
        with vectors_in_place(model.get_input_embeddings(), tokens, rows or {}, name):
            states = self.states_of(model, to_device(whole, device_of(model)))[:, ahead:]
        conditioning = Conditioning(states=states.to(device), mask=to_device(mask, device))
        if len(unique) == len(prompts):
            return conditioning
        return conditioning.rows(
            to_device(torch.tensor([unique.index(prompt) for prompt in prompts]), device)
        )

    def _whole(self, ids: Tensor, encoder: str) -> tuple[Tensor, Tensor]:
        """Ids with what is asked before them and no more padding than the longest needs, and which of their
        own places (B, T) are no padding."""
        there = self._there(ids)
        assert there is not None
        asked = torch.tensor(self._asked(encoder), device=ids.device)[None].expand(len(ids), -1)
        return torch.cat([asked, ids[:, : there.shape[1]]], 1), there

    def encode_staged(
        self, encoder: str, ids: Tensor, places: Places, *, attention: bool = False
    ) -> TextStates:
        """The attention is that of the last three layers whose states are tapped, one after the other."""
        whole, mask = self._whole(ids, encoder)
        ahead = whole.shape[1] - mask.shape[1]
        shifted = replace(places, positions=places.positions + ahead)
        states, maps = self._read(encoder, whole, shifted, self.taps[-3:] if attention else ())
        added, at = places.by_prompt(len(ids)) if len(places.prompts) else (None, None)
        if maps is not None:  # as many as tokens: those of padding are nobody's
            more = ids.shape[1] - mask.shape[1]
            maps = torch.nn.functional.pad(maps[..., ahead:, ahead:], (0, more, 0, more))
        states = states[:, ahead:]
        return TextStates(states, states, maps, added, at, to_device(mask, states.device))

    def spoken(self, tokens: Tokens, encoder: str) -> tuple[Tensor, Tensor]:
        """The chat's marks, which hold attention sinks, are no words of the user."""
        (end,) = self.tokenizers[encoder](_END, add_special_tokens=False)["input_ids"]
        ends = torch.tensor([line.index(end) for line in tokens.ids.tolist()])[:, None]
        return torch.arange(tokens.ids.shape[1]) < ends, torch.arange(tokens.ids.shape[1]) < self._ends(
            tokens.ids
        )
