"""Prompts as ComfyUI reads them: how much each word counts, and embeddings by name.

`(red:1.5)` counts one and a half times, `(red)` 1.1 times as much as what is around it; `\\(` and `\\)` are
letters. Square brackets and BREAK are letters too, as there.
"""

import math
import re
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from ...errors import LikenessError

USUAL = 1.1  # how much more brackets without a number count
_ESCAPES = (("\\(", "\x00o"), ("\\)", "\x00c"))  # what stands for them while brackets are looked for
_EMBEDDING = re.compile(r"(?<![\w/])embedding:([\w<>./-]+)")


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The prompt's stretches of text in order, without the brackets, and what each is multiplied with."""
    for written, kept in _ESCAPES:
        prompt = prompt.replace(written, kept)
    stretches = []
    for text, weight in _stretches(prompt, 1.0):
        for written, kept in _ESCAPES:
            text = text.replace(kept, written[1:])
        stretches.append((text, weight))
    return stretches


def _stretches(text: str, around: float) -> Iterator[tuple[str, float]]:
    for group in _groups(text):
        if len(group) < 2 or group[0] != "(" or group[-1] != ")":
            yield group, around
            continue
        inside, weight = group[1:-1], around * USUAL
        words, colon, number = inside.rpartition(":")
        if words:
            factor = _number(number)
            inside, weight = (inside, weight) if factor is None else (words, factor)
        yield from _stretches(inside, weight)


def _groups(text: str) -> Iterator[str]:
    """What stands in brackets, with them, and what stands between, in order; what is never closed is one."""
    depth = start = 0
    for at, letter in enumerate(text):
        if letter == "(":
            if depth == 0 and at > start:
                yield text[start:at]
                start = at
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                yield text[start : at + 1]
                start = at + 1
    if start < len(text):
        yield text[start:]


def _number(text: str) -> float | None:
    try:
        weight = float(text)
    except ValueError:
        return None
    if not math.isfinite(weight):
        raise LikenessError(f"'{text}' in a prompt is no weight; write one such as (red:1.5)")
    return weight


def weighed(states: Tensor, weights: Tensor, empty: Tensor) -> Tensor:
    """States (B, T, D) of chunks with words that count as `weights` (B, T) say: moved that much away from the
    states (T, D) of an empty prompt, or towards them."""
    weights = weights.to(states)[..., None]
    return torch.where(weights == 1, states, (states - empty) * weights + empty)


def spelled(prompt: str, placeholders: Collection[str]) -> str:
    """`embedding:v0` as `<v0>`, where that is a placeholder here; raises for embeddings that are none."""
    by_name = {placeholder.strip("<>"): placeholder for placeholder in placeholders}

    def named(match: re.Match[str]) -> str:
        name = match[1].strip("<>")
        rest = ""
        while name not in by_name and name[-1:] in (".", "-"):  # what ends a sentence
            name, rest = name[:-1], name[-1] + rest
        if name not in by_name:
            there = f"; there are {', '.join(placeholders)}" if placeholders else ""
            raise LikenessError(
                f"the prompt '{prompt}' asks for embedding:{match[1]}, which no concept defines{there}; "
                "bring it in with `likeness import` and name it with --concept"
            )
        return by_name[name] + rest

    return _EMBEDDING.sub(named, prompt)
