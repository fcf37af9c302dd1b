"""What a prompt says, as a denoiser reads it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """What B prompts say: nobody changes it."""

    states: Tensor  # (B, T, D), of which attention makes keys
    values: Tensor | None = None  # (B, T, D), of which it makes values; None: of the states
    pooled: Tensor | None = None  # (B, P), a summary of each prompt, where the denoiser reads one
    mask: Tensor | None = None  # (B, T) bool: which states there are; None: all
    # where attention is joint: rows (B, P, W) that every block's values of text are moved by, through its own
    # projection, and which of the states' (B, P); None: none are moved
    added: Tensor | None = None
    added_at: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def length(self) -> int:
        """How many states each prompt has, T."""
        return self.states.shape[1]

    def rows(self, which: Any) -> "Conditioning":
        """The prompts that an index, a slice or numbers (n,) pick."""
        return self._each(lambda part: part[which])

    def split(self, size: int) -> list["Conditioning"]:
        """The prompts in turn, at most `size` together."""
        return [self.rows(slice(start, start + size)) for start in range(0, len(self), size)]

    def chunk(self, count: int) -> list["Conditioning"]:
        """The prompts in `count` parts, as torch.chunk cuts them."""
        return self.split(-(-len(self) // count))

    def repeat(self, count: int) -> "Conditioning":
        """All prompts, then all of them again, `count` times."""
        return self._each(lambda part: part.repeat(count, *[1] * (part.ndim - 1)))

    def to(self, *where: Any) -> "Conditioning":
        """On another device or, but for the mask and places, in another precision."""
        device = self.states.to(*where).device
        mask, at = (None if part is None else part.to(device) for part in (self.mask, self.added_at))
        return replace(self._each(lambda part: part.to(*where)), mask=mask, added_at=at)

    def lengthened(self, length: int) -> "Conditioning":
        """With `length` states, at least as many as there are.

        Where all are read, they come over and over, and `length` is a multiple of T: what attention gives
        stays. Where a mask says which there are, those behind them are none.
        """
        if length == self.length:
            return self
        if self.mask is None:
            times = length // self.length
            assert times * self.length == length
            values = None if self.values is None else self.values.repeat(1, times, 1)
            return replace(self, states=self.states.repeat(1, times, 1), values=values)
        more = length - self.length
        pad = torch.nn.functional.pad
        return replace(
            self,
            states=pad(self.states, (0, 0, 0, more)),
            values=None if self.values is None else pad(self.values, (0, 0, 0, more)),
            mask=pad(self.mask, (0, more)),
        )

    @staticmethod
    def common_length(parts: Sequence["Conditioning"]) -> int:
        """To how many states each of them can be lengthened."""
        lengths = [part.length for part in parts]
        return max(lengths) if any(part.mask is not None for part in parts) else math.lcm(*lengths)

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """All prompts one after the other, brought to one length."""
        if any(part.mask is not None for part in parts):
            parts = [
                part if part.mask is not None else replace(part, mask=part._all_there()) for part in parts
            ]
        if any(part.values is not None for part in parts):
            parts = [replace(part, values=part.states) if part.values is None else part for part in parts]
        if any(part.added is not None for part in parts):
            moved = [part.added for part in parts if part.added is not None]
            count, width = max(rows.shape[1] for rows in moved), moved[0].shape[2]
            parts = [part._with_places(count, width) for part in parts]
        length = Conditioning.common_length(parts)
        whole = [part.lengthened(length) for part in parts]
        joined: dict[str, Tensor | None] = {}
        for entry in fields(Conditioning):
            pieces = [getattr(part, entry.name) for part in whole]
            assert all((piece is None) == (pieces[0] is None) for piece in pieces)
            joined[entry.name] = None if pieces[0] is None else torch.cat(pieces)
        return Conditioning(**joined)  # type: ignore[arg-type]

    def _with_places(self, count: int, width: int) -> "Conditioning":
        """With so many places for rows so wide; rows of zeros, which move nothing, in those that are more."""
        added, at = self.added, self.added_at
        if added is None or at is None:
            added = self.states.new_zeros(len(self), 0, width)
            at = torch.zeros(len(self), 0, dtype=torch.long, device=self.states.device)
        more, pad = count - added.shape[1], torch.nn.functional.pad
        return replace(self, added=pad(added, (0, 0, 0, more)), added_at=pad(at, (0, more)))

    def _all_there(self) -> Tensor:
        return torch.ones(self.states.shape[:2], dtype=torch.bool, device=self.states.device)

    def _each(self, change: Any) -> "Conditioning":
        parts = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: change(part) for name, part in parts.items() if part is not None})
