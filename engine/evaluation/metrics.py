"""Numbers for what was drawn: is it the person, and is it what the prompt asked for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def similarity_to_references(embeddings: "ArrayLike", references: "ArrayLike") -> np.ndarray:
    """Cosine (N,) of each embedding (N, D) to the mean direction of the references' (M, D)."""
    drawn, directions = unit(np.asarray(embeddings)), unit(np.asarray(references))
    return drawn @ unit(directions.mean(axis=0))


def nearest_similarity(embeddings: "ArrayLike", references: "ArrayLike") -> np.ndarray:
    """Cosine (N,) of each embedding (N, D) to that of the references' (M, D) that it is nearest to."""
    return (unit(np.asarray(embeddings)) @ unit(np.asarray(references)).T).max(axis=1)


def own_nearness(references: "ArrayLike") -> float:
    """Median cosine of a person's pictures (M, D) to the nearest other one of them; at least two."""
    directions = unit(np.asarray(references))
    similarity = directions @ directions.T
    np.fill_diagonal(similarity, -np.inf)
    return float(np.median(similarity.max(axis=1)))


def copying(embeddings: "ArrayLike", learned: "ArrayLike", real: "ArrayLike") -> np.ndarray:
    """How much nearer (N,) embeddings (N, D) are to a learned picture (M, D) than a person's pictures (R, D)
    usually are to each other, at least two of them (WithAnyone, 2510.14975): above 0 it copies."""
    return nearest_similarity(embeddings, learned) - own_nearness(real)


def attributes_kept(read: Mapping[str, Sequence[str]], asked: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Share (N,) of the attributes asked for in each prompt that a judge read in its picture."""
    shares = [
        np.mean([read[name][index] == value for name, value in attributes.items()])
        for index, attributes in enumerate(asked)
    ]
    return np.asarray(shares, dtype=np.float64)


def accuracy_by_attribute(
    read: Mapping[str, Sequence[str]], asked: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """For each attribute, the share of pictures that show what their prompt asked for."""
    hits: dict[str, list[bool]] = {}
    for index, attributes in enumerate(asked):
        for name, value in attributes.items():
            hits.setdefault(name, []).append(read[name][index] == value)
    return {name: float(np.mean(kept)) for name, kept in hits.items()}


def context_leakage(
    read: Mapping[str, Sequence[str]], training: Mapping[str, Sequence[str]], attributes: Sequence[str]
) -> np.ndarray:
    """How much (N,) of one training picture's context came along in pictures that asked for none.

    The largest share, over the training pictures, of `attributes` that read the same in both. Strangers'
    pictures agree by chance too: compare with the base's.
    """
    drawn = np.stack([np.asarray(read[name]) for name in attributes], 1)  # (N, A)
    contexts = np.stack([np.asarray(training[name]) for name in attributes], 1)  # (M, A)
    return (drawn[:, None] == contexts[None]).mean(2).max(1)


def nearest_correlation(
    pictures: Sequence[np.ndarray] | np.ndarray, references: Sequence[np.ndarray] | np.ndarray, side: int = 32
) -> np.ndarray:
    """Pixel correlation (N,) of each picture (H, W, 3) with the reference most like it: 1 is a copy."""
    return (_flat(pictures, side) @ _flat(references, side).T).max(1)


def distances_within(vectors: "ArrayLike") -> np.ndarray:
    """Mean distance (N,), 1 - cosine, of each vector (N, D) to the others; 0: all pictures are the same."""
    directions = unit(np.asarray(vectors))
    if len(directions) < 2:
        return np.zeros(len(directions))
    return (1 - directions @ directions.T).sum(1) / (len(directions) - 1)


def _flat(pictures: Sequence[np.ndarray] | np.ndarray, side: int) -> np.ndarray:
    """Small versions of pictures as unit vectors (N, side * side * 3) of mean 0."""
    small = [np.asarray(Image.fromarray(pixels).resize((side, side))).ravel() for pixels in pictures]
    flat = np.stack(small).astype(np.float64)
    return unit(flat - flat.mean(1, keepdims=True))


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors (N, D) at length 1; a zero stays zero."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
