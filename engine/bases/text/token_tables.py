"""Token tables that training changed as a whole: put into text encoders, and taken out again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LikenessError


def table_difference(table: Tensor, original: Tensor, encoder: str) -> Tensor:
    """What training changed: table (n, D) minus the first rows of the encoder's own (N, D), in fp32."""
    if table.shape[1] != original.shape[1] or len(table) > len(original):
        raise LikenessError(
            f"the changed words of {encoder} have another size in this base; use the base they are from"
        )
    return table.float().to(original.device) - original[: len(table)].float()


@contextmanager
def with_table_rows(
    encoders: Mapping[str, Any], tables: Mapping[str, Tensor], strength: float
) -> Iterator[None]:
    """The text encoders with `strength` times the change in their tables; afterwards their own are back."""
    originals: dict[str, nn.Parameter] = {}
    try:
        for name, table in tables.items():
            module = encoders[name].get_input_embeddings()
            original = module._parameters["weight"]  # the object itself must come back
            moved = original.detach().clone()
            update = strength * table_difference(table, original, name)
            moved[: len(table)] = (moved[: len(table)].float() + update).to(original.dtype)
            originals[name] = original
            module._parameters["weight"] = nn.Parameter(moved, requires_grad=False)
        yield
    finally:
        for name, original in originals.items():
            encoders[name].get_input_embeddings()._parameters["weight"] = original


def diff_patch(table: Tensor, original: Tensor, encoder: str) -> tuple[Tensor]:
    """The same change as ComfyUI's weight patches have it: (N, D), 0 for rows that were not trained."""
    padded = torch.zeros(original.shape)
    padded[: len(table)] = table_difference(table, original, encoder).cpu()
    return (padded,)
