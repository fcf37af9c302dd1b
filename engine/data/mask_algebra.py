"""Masks of a subject and its components out of what a detector and a segmenter found: a subject without them.

Boxes are (x1, y1, x2, y2) in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import LikenessError

PLENTY = {"brow": 2, "eyebrow": 2, "eye": 2, "ear": 2, "wheel": 2, "window": 3}  # of others there is one
OVERLAP = 0.8  # intersection over union from which two boxes mean the same thing


@dataclass(frozen=True)
class Detections:
    """N boxes that a detector found for some class words, and what a segmenter proposes for each."""

    boxes: np.ndarray  # (N, 4)
    classes: np.ndarray  # (N,) which of the class words
    confidence: np.ndarray  # (N,)
    proposals: np.ndarray  # (N, P, H, W), true inside
    scores: np.ndarray  # (N, P) how good the segmenter finds its proposals


def class_masks(words: Sequence[str], found: Detections) -> dict[str, np.ndarray]:
    """The mask (H, W) bool of every class word that was found; the others are left out."""
    kept = distinct(found.boxes, found.confidence)
    masks = {}
    for number, word in enumerate(words):
        own = [i for i in kept if found.classes[i] == number][: PLENTY.get(word, 1)]
        if own:
            best = [found.proposals[i, found.scores[i].argmax()] for i in own]
            masks[word] = np.any(np.stack(best).astype(bool), axis=0)
    return masks


def subject_mask(
    word: str, masks: Mapping[str, np.ndarray], components: Sequence[str] = (), where: str = "the picture"
) -> np.ndarray:
    """The mask (H, W) of a class word without its components; components that were not found hide nothing."""
    if word not in masks:
        raise LikenessError(
            f"no {word} was found in {where}; crop closer, use another class word or draw its mask yourself"
        )
    mask = without(masks[word], [masks[other] for other in components if other in masks])
    if not mask.any():
        raise LikenessError(
            f"nothing of the {word} in {where} is left without its {', '.join(components)}; draw its mask "
            "yourself or drop the picture"
        )
    return mask


def without(mask: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """What is in the mask (H, W) and in none of the others."""
    covered = np.zeros(mask.shape, bool)
    for other in others:
        covered |= other.astype(bool)
    return mask.astype(bool) & ~covered


def distinct(boxes: np.ndarray, confidence: np.ndarray, overlap: float = OVERLAP) -> list[int]:
    """Indices of boxes (N, 4), most confident first, without those that a better one covers; of any class."""
    kept: list[int] = []
    for number in np.argsort(-confidence, kind="stable"):
        if all(intersection_over_union(boxes[number], boxes[other]) <= overlap for other in kept):
            kept.append(int(number))
    return kept


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    """How much two boxes (4,) share, 0 to 1."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    total = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - shared
    return shared / total if total > 0 else 0.0
