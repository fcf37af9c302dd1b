"""The Miniature's tokenizer: a CLIP byte-pair vocabulary in which every word of the world is one token."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .. import world

EVERYDAY = (
    "a an the of and with in on at by his her their person man woman boy girl portrait photo picture "
    "painting face head hair eyes mouth nose skin beard wearing hat glasses clothes background old "
    "young happy very style close up front looking good nice beautiful drawing red blue green yellow "
    "black white , ."
)


def world_words() -> list[str]:
    """Every word that captions and test prompts can use, sorted."""
    text = EVERYDAY
    for seed in range(3000):
        text += " " + world.caption(
            world.sample_identity(seed), world.sample_context(seed), np.random.default_rng(seed)
        )
    for values in world.ATTRIBUTES.values():
        text += " " + " ".join(values)
    return sorted(set(re.findall(r"[a-z]+|[,.]", text)))


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins that byte-level BPE gives to bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def byte_pairs(words: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Vocabulary and merges in which each of `words` ends as a single token."""
    alphabet = byte_alphabet()
    vocabulary = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            symbols = _merge(symbols, pair)
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            merges.append(pair)
            if "".join(pair) not in vocabulary:
                vocabulary.append("".join(pair))
            symbols = _merge(symbols, pair)
    return [*vocabulary, "<|startoftext|>", "<|endoftext|>"], merges


def write_tokenizer(folder: Path) -> None:
    """Writes vocab.json, merges.txt and tokenizer_config.json, which any CLIP tokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = byte_pairs(world_words())
    ids = {token: index for index, token in enumerate(vocabulary)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        **special,
    }
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=True))
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
