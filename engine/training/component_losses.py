"""MagicTailor's formulas (arXiv 2410.13370): degradation outside masks, balancing, attention inside masks.

Tensors in, tensors out; reduced in fp32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def degradation_intensity(
    kind: str, step: int, total: int, initial: float = 0.5, exponent: float = 32.0
) -> float:
    """Strength of the noise outside the masks in step 1..total: `dynamic` holds it and lets go at the end."""
    done = step / total
    if kind == "dynamic":
        return initial * (1 - done**exponent)
    return {"fixed": initial, "linear": initial * (1 - done), "rising": initial * done}.get(kind, 0.0)


def degraded(pixels: Tensor, masks: Tensor, noise: Tensor, intensity: float) -> Tensor:
    """Dynamic Masked Degradation of pixels (B, 3, H, W) in [-1, 1]; noise like them, masks (B, 1, H, W)."""
    return (pixels + intensity * noise * (1 - masks)).clamp(-1, 1)


def reduced_masks(masks: Tensor, size: Sequence[int], smooth: bool = True) -> Tensor:
    """Masks (B, 1, H, W) at (B, 1, h, w): averaged, or every so-many-th pixel as the reference takes them."""
    return F.interpolate(masks.float(), size=size, mode="area" if smooth else "nearest")


def masked_mean_error(prediction: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Mean over all elements, masked or not: prediction, target (B, C, h, w), masks (B, 1, h, w) -> (B,)."""
    error = masks.float() * (prediction.float() - target.float())
    return error.square().flatten(1).mean(1)


def per_concept(values: Tensor, concepts: Tensor, shares: Tensor, count: int) -> Tensor:
    """Sums of values (B,) weighted by shares (B,), by concept (B,) in 0..count-1 -> (count,)."""
    return torch.zeros(count, device=values.device).index_add(0, concepts, values.float() * shares)


def even_shares(concepts: Tensor) -> Tensor:
    """Shares (B,) that make `per_concept` a mean: one over how many rows each row's concept has."""
    return 1.0 / torch.bincount(concepts)[concepts]


def selection(losses: Tensor, temperature: float | None = None) -> Tensor:
    """How much of the training each concept gets, (A,) summing to 1: all to the worst, or a soft maximum.

    The temperature is in units of the mean loss.
    """
    losses = losses.detach()
    if temperature is None:
        return F.one_hot(losses.argmax(), len(losses)).float()
    return torch.softmax(losses / (temperature * losses.mean().clamp(min=1e-12)), dim=0)


def balanced(losses: Tensor, selected: Tensor) -> Tensor:
    """The worst concept's loss: losses, selected (A,) -> scalar; others get a gradient of exactly 0."""
    return (losses * selected).sum()


def preservation(drifts: Tensor, selected: Tensor) -> Tensor:
    """Mean distance to the momentum teacher over the concepts that were not chosen: drifts, selected (A,)."""
    return (drifts * (1 - selected)).sum() / (len(drifts) - 1)


def attention_to(maps: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Attention to some tokens, averaged over layers and heads.

    maps: (B, heads, Q, T) each; positions (B, T or more), 1 where a token counts -> (B, Q). What stands
    behind the words that a base reads is padding.
    """
    positions = positions[:, : maps[0].shape[-1]]
    heads = sum(map_.shape[1] for map_ in maps)
    weights = positions.to(maps[0].dtype)[:, None, :, None]
    return torch.stack([(map_ @ weights).squeeze(-1).sum(1) for map_ in maps]).sum(0) / heads


def attention_in_mask(attention: Tensor, masks: Tensor) -> Tensor:
    """Attention, its peak scaled to 1, against the mask: attention, masks (B, Q) -> (B,)."""
    scaled = attention / attention.amax(dim=1, keepdim=True)
    return (scaled - masks).square().mean(1)
