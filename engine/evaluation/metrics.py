"""Numbers for what was drawn: is it the person, and is it what the prompt asked for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def similarity_to_references(embeddings: "ArrayLike", references: "ArrayLike") -> np.ndarray:
    """Cosine (N,) of each embedding (N, D) to the mean direction of the references' (M, D)."""
    drawn, known = _unit(np.asarray(embeddings)), _unit(np.asarray(references))
    return drawn @ _unit(known.mean(axis=0))


def attributes_kept(read: Mapping[str, Sequence[str]], asked: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Share (N,) of the attributes asked for in each prompt that a judge read in its picture."""
    shares = [
        np.mean([read[name][index] == value for name, value in wanted.items()])
        for index, wanted in enumerate(asked)
    ]
    return np.asarray(shares, dtype=np.float64)


def accuracy_by_attribute(
    read: Mapping[str, Sequence[str]], asked: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """For each attribute, the share of pictures that show what their prompt asked for."""
    hits: dict[str, list[bool]] = {}
    for index, wanted in enumerate(asked):
        for name, value in wanted.items():
            hits.setdefault(name, []).append(read[name][index] == value)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
