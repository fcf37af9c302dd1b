"""The Miniature's text encoder, first taught to hear every attribute a caption mentions, colours included."""

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .. import model, world
from .dataset import ATTRIBUTE_NAMES, targets_of
from .fitting import fit, half_precision

UNMENTIONED = 0  # class 0 of every head; value k of an attribute is class k + 1


def mentioned(text: str) -> dict[str, bool]:
    """Which attributes the caption `text` states."""

    def any_of(words) -> bool:
        return any(word in text for word in words)

    styles = "|".join(world.ATTRIBUTES["hair_style"])
    return {
        "gender": bool(re.search(r"\b(wo)?man\b", text)),
        "skin": " skin" in text,
        "hair_style": "bald head" in text or bool(re.search(rf"\b({styles}) hair", text)),
        "hair_colour": " hair" in text,
        "eye_colour": " eyes" in text,
        "beard": any_of(world.BEARD_WORDS.values()),
        "freckles": "freckles" in text,
        "expression": any_of(word for word in world.ATTRIBUTES["expression"] if word != "neutral"),
        "glasses": any_of(world.GLASSES_WORDS.values()),
        "hat": any_of(world.HAT_WORDS.values()),
        "clothes": any_of(world.ATTRIBUTES["clothes"]),
        "clothes_colour": any_of(world.ATTRIBUTES["clothes"]),
        "scene": any_of(world.SCENE_WORDS.values()),
        "style": True,
    }


class Listener(nn.Module):
    """The text encoder with one classifier per attribute on the state of the end token."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = CLIPTextModel(CLIPTextConfig(**model.text_config()))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(model.TEXT_WIDTH, len(values) + 1) for name, values in world.ATTRIBUTES.items()}
        )

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        pooled = self.encoder(tokens).pooler_output
        return {name: head(pooled) for name, head in self.heads.items()}


def fresh_captions(rng: np.random.Generator, count: int) -> tuple[list[str], Tensor]:
    """Captions of people and contexts never repeated, and their targets (count, A) with `UNMENTIONED`."""
    texts, targets = [], []
    for seed in rng.integers(0, 2**31, count):
        identity, context = world.sample_identity(int(seed)), world.sample_context(int(seed))
        text = world.caption(identity, context, rng)
        stated = mentioned(text)
        values = zip(ATTRIBUTE_NAMES, targets_of(identity, context), strict=True)
        targets.append([value + 1 if stated[name] else UNMENTIONED for name, value in values])
        texts.append(text)
    return texts, torch.tensor(targets)


def listening_loss(listener: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Sum over attributes of the cross-entropy; tokens (B, T), targets (B, A)."""
    logits = listener(tokens)
    losses = [F.cross_entropy(logits[name].float(), targets[:, k]) for k, name in enumerate(ATTRIBUTE_NAMES)]
    return torch.stack(losses).sum()


def make_text_encoder(work: Path, steps: int, batch: int = 128, device: str = "cpu") -> Listener:
    """Trains the listener; the UNet's stage goes on from its encoder."""
    torch.manual_seed(0)
    tokenizer = model.tokenizer()
    held_out, held_out_targets = fresh_captions(np.random.default_rng(123), 512)

    def tokens_of(texts: list[str]) -> Tensor:
        return torch.tensor(
            tokenizer(texts, padding="longest", max_length=model.MAX_TOKENS, truncation=True)["input_ids"]
        )

    def loss_of(listener: nn.Module, rng: np.random.Generator, progress: float) -> Tensor:
        texts, targets = fresh_captions(rng, batch)
        with half_precision(device):
            return listening_loss(listener, tokens_of(texts).to(device), targets.to(device))

    @torch.no_grad()
    def report(listener: nn.Module) -> dict[str, float]:
        logits = listener(tokens_of(held_out).to(device))
        right = {}
        for k, name in enumerate(ATTRIBUTE_NAMES):
            stated = held_out_targets[:, k] != UNMENTIONED
            right[name] = (
                (logits[name].argmax(1).cpu() == held_out_targets[:, k])[stated].float().mean().item()
            )
        return {name: round(share, 3) for name, share in right.items()}

    listener = Listener().to(device)
    fit(
        "text", listener, loss_of, steps=steps, learning_rate=2e-3, work=work, report=report, report_every=200
    )
    return listener
