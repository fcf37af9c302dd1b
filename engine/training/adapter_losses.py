"""MasterWeaver's losses, and the mixing of identities: tensors in, tensors out (arXiv 2405.05806)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def partners(count: int, mixing: str) -> Tensor:
    """With whom each of `count` samples is mixed (count,).

    `roll`: with the one half a batch on, so that every power of two of processes pairs the same samples;
    `flip`: the last with the first (reference), which leaves the middle of an odd batch with itself.
    """
    if mixing == "flip":
        return torch.arange(count - 1, -1, -1)
    return (torch.arange(count) + max(1, count // 2)) % count


def mixed_identities(tokens: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """tokens, others (B, n, D); share (B,) of the sample's own -> (B, n, D)."""
    weight = share.view(-1, 1, 1).to(tokens)
    return weight * tokens + (1 - weight) * others


def background_difference(prediction: Tensor, mixed: Tensor, faces: Tensor) -> Tensor:
    """How another identity changes what is outside the faces: predictions (B, C, h, w), faces (B, 1, h, w)
    in {0, 1} -> (B,), the mean over all elements of a sample, those in faces being 0."""
    difference = (prediction.float() - mixed.float()) * (1 - faces.float())
    return difference.square().flatten(1).mean(1)


def at_side(faces: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (B, 1, h, w) at a layer's (height, width), as weights of its queries (B, N)."""
    small = F.interpolate(faces.float(), size=size, mode="bilinear", align_corners=False)
    return small.flatten(1)


EditPair = tuple[Tensor, Tensor]  # what a layer's text branch gives with the edit and without, each (B, N, C)


def editing_direction(
    student: Sequence[EditPair], teacher: Sequence[EditPair], weights: Sequence[Tensor], form: str = "sample"
) -> Tensor:
    """How far an edit's direction in the text branch has turned from the teacher's, summed over layers.

    weights (B, N) in [0, 1]: where the faces are. `sample`: a weighted mean of 1 - cosine for each sample,
    then their mean; `batch`: one weighted mean over the batch; `reference`: as first published, with the
    weights inside the cosine, where all they do is to add 1 for each place they leave out. -> scalar.
    """
    terms = [
        _turned(edit.float() - plain.float(), (other.float() - same.float()).detach(), weight.float(), form)
        for (edit, plain), (other, same), weight in zip(student, teacher, weights)
    ]
    return torch.stack(terms).sum()


def _turned(direction: Tensor, target: Tensor, weight: Tensor, form: str) -> Tensor:
    if form == "reference":
        inside = weight[..., None]
        apart = 1 - F.cosine_similarity(inside * direction, inside * target, dim=-1)
        return apart.sum() / (weight.sum() + 1e-13)
    apart = weight * (1 - F.cosine_similarity(direction, target, dim=-1))
    if form == "batch":
        return apart.sum() / weight.sum().clamp(min=1e-6)
    return (apart.sum(1) / weight.sum(1).clamp(min=1e-6)).mean()  # an empty mask gives 0
