"""MagiCapture's formulas (arXiv 2309.06895): weighted regions, attention refocusing, identity, norm pull.

Tensors in, tensors out; reduced in fp32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SUBJECT, STYLE, COMPOSED = 0, 1, 2  # what an item of training shows and names
_TINY = 1e-6  # keeps flat maps from dividing by zero
PULL = 100.0  # by how much the learning rate is multiplied to give the norm pull's share


def region_weights(
    masks: Tensor, size: Sequence[int], floor: float = 0.01, exponent: float = 1.0, smooth: bool = False
) -> Tensor:
    """Loss weights (B, 1, h, w) from masks (B, 1, H, W) in [0, 1]: (m + floor)^exponent, at most 1 in each.

    smooth: masks shrink by averaging; else every so-many-th pixel is taken, as the reference does.
    """
    small = F.interpolate(masks.float(), size=size, mode="area" if smooth else "nearest")
    weights = (small + floor) ** exponent
    return weights / weights.amax((1, 2, 3), keepdim=True).clamp(min=_TINY)


def region_error(prediction: Tensor, target: Tensor, weights: Tensor, by_area: bool = True) -> Tensor:
    """Masked reconstruction: prediction, target (B, C, h, w), weights (B, 1, h, w) -> (B,).

    by_area: over the region's share of the picture, so that small faces count as much as large ones.
    """
    error = weights * (prediction.float() - target.float())
    means = error.square().flatten(1).mean(1)
    return means / weights.flatten(1).mean(1).clamp(min=_TINY) if by_area else means


def attention_to_words(maps: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Attention to each of W words, summed over its tokens.

    maps: (B, heads, Q, T) of each layer; positions (B, W, T or more), 1.0 where a token is the word's
    -> (B, K, W, Q) with K layers times heads. What stands behind the words that a base reads is padding.
    """
    words = positions[..., : maps[0].shape[-1]].transpose(1, 2)[:, None].to(maps[0].dtype)  # (B, 1, T, W)
    return torch.cat([(map_ @ words).transpose(2, 3) for map_ in maps], dim=1)


def refocusing(attention: Tensor, regions: Tensor, present: Tensor, per_map: bool = False) -> Tensor:
    """Attention Refocusing: outside its region, a word is not to be looked at.

    attention (B, K, W, y, x); regions (B, W, h, w) in [0, 1]; present (B, W), 1.0 for words of the prompt
    -> (B,), the mean over its words. Each map is spread over 0 to 1 first; inside the region it counts as 1.
    per_map: each map is compared by itself (paper), not their average (reference).
    """
    batch, count, words, *side = attention.shape
    size = regions.shape[-2:]
    maps = attention.float().flatten(0, 2)[:, None]
    if tuple(side) != tuple(size):
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    maps = maps.view(batch, count, words, *size)
    with torch.no_grad():
        low = maps.amin((-2, -1), keepdim=True)
        span = (maps - low).amax((-2, -1), keepdim=True).clamp(min=_TINY)
    target = regions[:, None].float()
    spread = ((maps - low) / span).where(target < 0.5, 1.0)
    if not per_map:
        spread = spread.mean(1, keepdim=True)
    lost = (spread - target).square().mean((1, 3, 4))  # (B, W)
    return (lost * present).sum(1) / present.sum(1).clamp(min=1)


def word_regions(weights: Tensor, kinds: Tensor) -> Tensor:
    """Where the subject's and the style's word may be looked at: (B, 2, h, w).

    weights (B, 1, h, w): the row's own region; in a composed row that is the style's.
    """
    composed = (kinds == COMPOSED).view(-1, 1, 1, 1)
    return torch.cat([torch.where(composed, 1 - weights, weights), weights], dim=1)


def words_present(kinds: Tensor) -> Tensor:
    """Which of the two words, subject and style, a row's prompt holds: (B, 2) of 1.0 and 0.0."""
    return torch.stack([kinds != STYLE, kinds != SUBJECT], dim=1).float()


def identity_distance(embeddings: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine of embeddings (B, D) -> (B,)."""
    return 1 - F.cosine_similarity(embeddings.float(), targets.float(), dim=-1)


def style_weight(weight: float, done: float, kinds: Tensor) -> Tensor:
    """Rows with a style (B,) weigh `weight` in the first half of the phase, all others 1."""
    return torch.where(kinds != SUBJECT, weight if done < 0.5 else 1.0, 1.0)


def norm_pull(vectors: Tensor, learning_rate: float, length: float) -> Tensor:
    """Vectors (n, D) with their lengths brought nearer to `length`, their directions kept."""
    norms = vectors.norm(dim=-1, keepdim=True).clamp(min=_TINY)
    share = min(1.0, PULL * learning_rate)
    return vectors / norms * (norms + share * (length - norms))


# ------------------------------------------------------------------------------------------------------ items


def repeats(subjects: int, styles: int) -> int:
    """How often a round shows each subject picture: as often as styles outnumber them."""
    return max(1, styles // subjects)


def round_of_items(subjects: int, styles: int, pairs: bool, generator: torch.Generator) -> Tensor:
    """The reference's round as rows of (kind, subject picture, style picture), (N, 3), -1 for none.

    Each subject picture `repeats` times, each style picture once, and half as many pairs, drawn anew.
    """
    shown = repeats(subjects, styles) * subjects
    rows = [(SUBJECT, number % subjects, -1) for number in range(shown)]
    rows += [(STYLE, -1, number) for number in range(styles)]
    if pairs:
        count = min((shown + styles) // 2, subjects * styles)
        drawn = torch.randperm(subjects * styles, generator=generator)[:count].tolist()
        rows += [(COMPOSED, pair // styles, pair % styles) for pair in drawn]
    return torch.tensor(rows)
