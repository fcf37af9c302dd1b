"""Where placeholders stand among a training prompt's tokens: what attention to a word is read at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .methods.base import Method


class PlaceholderPositions:
    """For the first text encoder; each prompt is looked into once, for templates come again and again."""

    def __init__(self, method: "Method") -> None:
        self._method = method
        self._known: dict[tuple[str, str], list[int]] = {}

    def of(self, prompts: Sequence[str], placeholders: Sequence[Sequence[str]]) -> Tensor:
        """(B, K, T): 1.0 where token T of prompt B is of the K-th of its placeholders, else 0.0."""
        encoder = next(iter(self._method.base.text_encoders))
        length = self._method.longest_prompt(encoder)
        positions = torch.zeros(len(prompts), len(placeholders[0]), length)
        for row, (prompt, names) in enumerate(zip(prompts, placeholders)):
            for word, name in enumerate(names):
                positions[row, word, self._of(prompt, name, encoder)] = 1.0
        return positions

    def _of(self, prompt: str, name: str, encoder: str) -> list[int]:
        if (prompt, name) not in self._known:
            places = self._method.tokenize_prompt(prompt, self._method.rows(), encoder).places
            self._known[prompt, name] = [place[1] for place in places if place[2] == name]
        return self._known[prompt, name]
