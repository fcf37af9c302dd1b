"""Learned vectors in the place of placeholders such as `<v0>`, for any text encoder with a token table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...config import TOKEN
from ...devices import to_device
from .prompt_weights import weighted
from .protocol import Rows, Tokens

_Piece = tuple[int | tuple[str, int], float]  # an id, or a placeholder and which of its vectors; its weight


def pieces_of(
    tokenizer: Any, prompt: str, rows: Rows, encoder: str, *, weights: bool = False
) -> list[list[_Piece]]:
    """A prompt's pieces, without the tokens for start and end: stretches of text and placeholders in turn."""
    groups: list[list[_Piece]] = []
    for text, weight in weighted(prompt) if weights else [(prompt, 1.0)]:

        def read(words: str, weight: float = weight) -> list[_Piece]:
            ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
            return [(piece, weight) for piece in ids]

        last = 0
        for match in TOKEN.finditer(text):
            name = match.group()
            if name in rows:
                groups.append(read(text[last : match.start()]))
                groups.append([((name, number), weight) for number in range(len(rows[name][encoder]))])
                last = match.end()
        groups.append(read(text[last:]))
    return groups


@contextmanager
def vectors_in_place(table: nn.Module, tokens: Tokens, rows: Rows, encoder: str) -> Iterator[None]:
    """Within, the token table answers with `rows` at the placeholders' places; it is itself not touched."""
    if not tokens.places:
        yield
        return
    prompt = torch.tensor([place[0] for place in tokens.places])
    position = torch.tensor([place[1] for place in tokens.places])
    vectors = torch.stack([rows[name][encoder][number] for _, _, name, number in tokens.places])

    def replace(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        length = output.shape[1]  # of a chunk
        row = prompt * (tokens.ids.shape[1] // length) + position // length
        where = (to_device(row, output.device), to_device(position % length, output.device))
        return output.index_put(where, vectors.to(output.device, output.dtype))

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
