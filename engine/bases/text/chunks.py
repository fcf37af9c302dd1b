"""Prompts longer than a text encoder reads at once, and two encoders' states together; as in ComfyUI."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Piece = TypeVar("Piece")

LONG = 8  # pieces from which on a stretch of text may be torn apart


def in_chunks(groups: Sequence[Sequence[Piece]], size: int) -> list[list[Piece]]:
    """A prompt's pieces in chunks of at most `size`; one empty chunk where there are none.

    Groups are stretches of text and single placeholders, in order. One that is shorter than 8 begins the next
    chunk where it does not fit, a longer one is torn apart (ComfyUI, `SDTokenizer.tokenize_with_weights`).
    """
    chunks: list[list[Piece]] = [[]]
    for group in groups:
        rest = list(group)
        while len(chunks[-1]) + len(rest) > size:
            fitting = size - len(chunks[-1]) if len(group) >= LONG else 0
            chunks[-1] += rest[:fitting]
            rest = rest[fitting:]
            chunks.append([])
        chunks[-1] += rest
    return chunks


def side_by_side(states: Sequence[Tensor]) -> Tensor:
    """Two encoders' states (B, T, D) of the same prompts as one (B, T, D + E), as far as both go."""
    length = min(part.shape[1] for part in states)
    return torch.cat([part[:, :length] for part in states], dim=-1)
