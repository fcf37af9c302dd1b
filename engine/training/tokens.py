"""The vectors that placeholders such as `<v0>` stand for: only they are trained, never the token table."""

import torch
from torch import Tensor, nn

from ..bases.base import BaseModel, Rows


class TokenRows(nn.Module):
    """New vectors (n, D) by placeholder and text encoder; `rows` goes into `BaseModel.encode_text`."""

    def __init__(self, initial: Rows) -> None:
        super().__init__()
        self._names = [(token, encoder) for token, parts in initial.items() for encoder in parts]
        self.vectors = nn.ParameterList([initial[token][encoder] for token, encoder in self._names])

    def rows(self) -> dict[str, dict[str, Tensor]]:
        """The vectors themselves, so that gradients reach them."""
        by_token: dict[str, dict[str, Tensor]] = {}
        for (token, encoder), vectors in zip(self._names, self.vectors):
            by_token.setdefault(token, {})[encoder] = vectors
        return by_token

    def tensors(self) -> dict[str, Tensor]:
        """Copies under the artifact's names: `token.v0.<encoder>`."""
        return {
            f"token.{token.strip('<>')}.{encoder}": vectors.detach().float().cpu().clone()
            for (token, encoder), vectors in zip(self._names, self.vectors)
        }


def initial_rows(base: BaseModel, text: str, vectors: int | None = None) -> dict[str, Tensor]:
    """`vectors` rows (n, D) to begin from: the text's own, repeated in turn; their mean where they are more.

    Without a number, exactly the text's own rows.
    """
    rows = {}
    for encoder, text_rows in base.word_rows(text).items():
        if vectors is None:
            rows[encoder] = text_rows
        elif vectors < len(text_rows):
            rows[encoder] = text_rows.mean(0, keepdim=True).repeat(vectors, 1)
        else:
            rows[encoder] = text_rows[torch.arange(vectors) % len(text_rows)]
    return rows
