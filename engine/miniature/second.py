"""The second Miniature's networks: FLUX.2's architecture in small, on latents of 16 channels.

Transformer, text encoder and autoencoder are its own; world, vocabulary and judges are the first one's.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, CLIPTokenizer

from ..errors import LikenessError
from . import model

SECOND_NETWORKS = (
    "second/transformer",
    "second/vae",
    "second/text_encoder",
)  # as `model.weights_file` takes them
CHANNELS = 16
CHAT_TAPS = (2, 4, 6)  # behind these of the text encoder's layers its states are read
CHAT_LENGTH = 64  # tokens that are read, with the marks of the chat
# of Qwen's chat, each one token here; the world's words stand between the first two
CHAT_MARKS = ("<|im_start|>user", "<|im_end|>", "<|im_start|>assistant", "<think>", "</think>")


def transformer_config() -> dict[str, Any]:
    """Arguments of `diffusers.Flux2Transformer2DModel`: Klein in small, a token for each latent."""
    return {
        "patch_size": 1,
        "in_channels": CHANNELS,
        "num_layers": 2,
        "num_single_layers": 6,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": len(CHAT_TAPS) * model.TEXT_WIDTH,
        "mlp_ratio": 3.0,
        "axes_dims_rope": (8, 8, 8, 8),
        "rope_theta": 2000,
        "guidance_embeds": False,
    }


def second_vae_config() -> dict[str, Any]:
    """Arguments of `diffusers.AutoencoderKL`: the first one's with 16 channels, each of unit weight."""
    return {**model.vae_config(), "latent_channels": CHANNELS, "scaling_factor": 1.0}


def chat_text_config() -> dict[str, Any]:
    """Arguments of `transformers.Qwen3Config`."""
    return {
        "vocab_size": len(chat_tokenizer()),
        "hidden_size": model.TEXT_WIDTH,
        "intermediate_size": 2 * model.TEXT_WIDTH,
        "num_hidden_layers": CHAT_TAPS[-1],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
    }


class ChatTokenizer:
    """The world's vocabulary with the marks of Qwen's chat behind it; it puts nothing around a text."""

    def __init__(self, words: CLIPTokenizer) -> None:
        self._words: Any = words
        marks = [AddedToken(mark, normalized=False, special=True) for mark in CHAT_MARKS]
        self._words.add_tokens(marks, special_tokens=True)

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> "ChatTokenizer":
        """As transformers' own do, for ComfyUI."""
        return cls(CLIPTokenizer.from_pretrained(folder, local_files_only=True, **options))

    def __len__(self) -> int:
        return len(self._words)

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        return self._words(text, **{**options, "add_special_tokens": False})

    def get_vocab(self) -> dict[str, int]:
        return self._words.get_vocab()

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self._words.convert_tokens_to_ids(tokens)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return self._words.convert_ids_to_tokens(ids)

    def decode(self, ids: Any) -> str:
        return self._words.decode(ids)


def chat_tokenizer() -> ChatTokenizer:
    """A fresh one."""
    return ChatTokenizer(model.tokenizer())


def padding_id() -> int:
    """The id that prompts are filled up with: Qwen's, and the first Miniature's too."""
    return int(chat_tokenizer().convert_tokens_to_ids("<|endoftext|>"))


def missing_weights() -> list[str]:
    """Its weights' files that are not here."""
    files = [model.weights_file(name) for name in SECOND_NETWORKS]
    return [str(file.relative_to(model.WEIGHTS)) for file in files if not file.is_file()]


def second_weights(network: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The weights of one of `SECOND_NETWORKS`; raises LikenessError where its weights are not all here."""
    if missing_weights():
        raise LikenessError(
            "the second Miniature's weights are not part of this installation "
            f"({', '.join(missing_weights())}); reinstall likeness-portraits, or take the first: 'miniature'"
        )
    return model.state_dict(network, dtype)


def card_file() -> Path:
    """Where its card is, beside its weights."""
    return model.WEIGHTS / "second" / "card.json"


def second_card() -> dict[str, Any]:
    """Its card: the measured scores of the shipped weights on held-out people."""
    return json.loads(card_file().read_text())


def second_fingerprint() -> str:
    """Names the weights that a concept was learned on."""
    return _fingerprint(model.weights_file("second/transformer"), model.weights_file("second/text_encoder"))


@functools.cache
def _fingerprint(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
