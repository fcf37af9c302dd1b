"""The second Miniature's text encoder: a causal Qwen3, first taught to hear every attribute."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from ...bases.text.qwen import BEFORE, BEHIND, QwenText
from .. import model, second, world
from .dataset import ATTRIBUTE_NAMES
from .fitting import fit
from .text import UNMENTIONED, fresh_captions, listening_loss


def chat_text_encoder() -> Any:
    """transformers' Qwen3Model of the second Miniature's sizes, with random weights."""
    rope: Any = {"rope_theta": 1e6}  # newer transformers name it otherwise, and still take it so
    return Qwen3Model(Qwen3Config(**second.chat_text_config(), **rope))


class ChatListener(nn.Module):
    """The text encoder with one classifier per attribute on what it knows at the last mark of the chat."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = chat_text_encoder()
        width = len(second.CHAT_TAPS) * model.TEXT_WIDTH
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(values) + 1) for name, values in world.ATTRIBUTES.items()}
        )
        self._tokenizer = second.chat_tokenizer()
        self._padding = second.padding_id()
        self._reading = QwenText("qwen3_4b", self.encoder, self._tokenizer, second.CHAT_TAPS)

    def tokens_of(self, texts: Sequence[str]) -> Tensor:
        """Ids (B, 64) of texts as one message of a chat each; what is too long is cut, with its marks."""
        ids = torch.full((len(texts), second.CHAT_LENGTH), self._padding)
        for row, line in zip(ids, self._tokenizer([BEFORE + text + BEHIND for text in texts])["input_ids"]):
            row[: len(line)] = torch.tensor(line[: second.CHAT_LENGTH])
        return ids

    def ends_of(self, tokens: Tensor) -> Tensor:
        """Where padding begins (B, 1)."""
        return (tokens != self._padding).sum(1, keepdim=True)

    def states(self, tokens: Tensor) -> Tensor:
        """What the transformer reads (B, 64, 384) of tokens (B, 64)."""
        return self._reading.states_of(self.encoder, tokens)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        last = self.ends_of(tokens) - 1  # (B, 1)
        summary = self.states(tokens).take_along_dim(last[..., None], 1)[:, 0]
        return {name: head(summary.float()) for name, head in self.heads.items()}


def heard(listener: ChatListener, tokens: Tensor, targets: Tensor) -> dict[str, float]:
    """By attribute, the share of captions whose statement of it is heard; targets (B, A)."""
    with torch.no_grad():
        logits = {name: part.cpu() for name, part in listener(tokens).items()}
    right = {}
    for number, name in enumerate(ATTRIBUTE_NAMES):
        true = targets[:, number]
        stated = true != UNMENTIONED
        right[name] = round(float((logits[name].argmax(1) == true)[stated].float().mean()), 3)
    return right


def make_chat_listener(work: Path, steps: int, batch: int = 64, device: str = "cpu") -> ChatListener:
    """Trains the listener; the transformer's stage goes on from its encoder."""
    torch.manual_seed(0)
    listener = ChatListener().to(device)
    held_out, held_out_targets = fresh_captions(np.random.default_rng(123), 512)

    def loss_of(listener: ChatListener, rng: np.random.Generator, progress: float) -> Tensor:
        texts, targets = fresh_captions(rng, batch)
        return listening_loss(listener, listener.tokens_of(texts).to(device), targets.to(device))

    def report(listener: ChatListener) -> dict[str, float]:
        return heard(listener, listener.tokens_of(held_out).to(device), held_out_targets)

    return fit(
        "text16", listener, loss_of, steps=steps, learning_rate=2e-3, work=work, report=report,
        report_every=100, groups=_groups(listener),
    )  # fmt: skip


def _groups(listener: ChatListener) -> list[dict[str, Any]]:
    """All but the last norm, which nothing is read behind."""
    unheard = {id(weight) for weight in listener.encoder.norm.parameters()}
    return [{"params": [p for p in listener.parameters() if id(p) not in unheard], "rate": 1.0}]
