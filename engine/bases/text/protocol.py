"""What a base may ask of whatever reads its prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...staged.text import Places, TextStates
from ..conditioning import Conditioning

Rows = Mapping[str, Mapping[str, Tensor]]  # vectors (n, D) by placeholder, then by text encoder (clip_l, …)


@dataclass(frozen=True)
class Tokens:
    """Tokenised prompts: ids (B, T), and which of their places are taken by placeholder vectors."""

    ids: Tensor
    places: tuple[tuple[int, int, str, int], ...]  # (prompt, position, placeholder, which of its vectors)
    weights: Tensor | None = None  # (B, T) how much each counts; None: all alike


class TextStack(Protocol):
    """Text encoders and their tokenizers, by ComfyUI's names, in the order of `Family.encoders`."""

    encoders: nn.ModuleDict
    tokenizers: dict[str, Any]
    offers: frozenset[str]  # of `features`
    lora_targets: tuple[str, ...]  # endings of paths of an encoder's attention projections
    pooled: bool  # whether a summary of each prompt is read too

    def tokenize(
        self, prompts: Sequence[str], rows: Rows | None, encoder: str, *, weights: bool = False
    ) -> Tokens:
        """Token ids of prompts whose placeholders (`<v0>`) take one place for each of their vectors.

        `weights`: brackets say how much words count, as where something is drawn (`prompt_weights`); else
        they are letters, as in captions that are learned from.
        """
        ...

    def encode(
        self, prompts: Sequence[str], rows: Rows | None, device: torch.device, *, weights: bool = False
    ) -> Conditioning:
        """What the prompts say, on the device, with `rows` in the place of placeholders."""
        ...

    def encode_staged(
        self, encoder: str, ids: Tensor, places: Places, *, attention: bool = False
    ) -> TextStates:
        """States of ids (B, T) with each prompt's own vectors in their places; with the attention of what is
        listened to, (B, heads, T, T), on request."""
        ...

    def said(self, parts: Sequence[TextStates], pooled: Tensor | None = None) -> Conditioning:
        """What the encoders' states tell a denoiser, in the order of the encoders."""
        ...

    def spoken(self, tokens: Tokens, encoder: str) -> tuple[Tensor, Tensor]:
        """Which places (B, T) of tokenised prompts are words of the user, and which listen to them, with no
        padding among them."""
        ...

    def word_rows(self, text: str) -> dict[str, Tensor]:
        """The token tables' own rows (n, D) for a text, by text encoder, as copies."""
        ...

    def longest(self, encoder: str) -> int:
        """Places that an encoder reads at once, its own marks among them."""
        ...

    def blocks(self) -> list[nn.Module]:
        """The parts that work one after the other, of an encoder so large that it should leave the device;
        none of a small one."""
        ...
