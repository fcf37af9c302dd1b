"""Loss terms shared by methods: tensors in, one value per sample or a scalar out, reduced in fp32."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pseudo_huber(prediction: Tensor, target: Tensor, size: float) -> Tensor:
    """Squared errors up to about `size`, linear beyond (Charbonnier et al. 1997): as both, (B, C, H, W)."""
    return 2 * size * (((prediction.float() - target.float()).square() + size**2).sqrt() - size)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample: prediction, target (B, C, H, W) -> (B,)."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").flatten(1).mean(1)


def masked_squared_error(
    prediction: Tensor, target: Tensor, mask: Tensor, background: float = 0.0, huber: float | None = None
) -> Tensor:
    """Squared error inside the mask, `background` times as heavy outside, as a weighted mean of each sample.

    prediction, target (B, C, H, W); mask (B, 1, H, W) in [0, 1] -> (B,). An empty mask counts as full.
    huber: size from which on errors count linearly.
    """
    weight = mask + background * (1 - mask)
    weight = weight.where(mask.flatten(1).sum(1).view(-1, 1, 1, 1) > 0, mask.new_ones(()))
    if huber is None:
        error = F.mse_loss(prediction.float(), target.float(), reduction="none")
    else:
        error = pseudo_huber(prediction, target, huber)
    # dividing by the weight's sum keeps small faces from learning slowly
    return (error * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * prediction.shape[1])


def latent_masks(masks: Tensor, latents: Tensor) -> Tensor:
    """Masks (B, 1, H, W) averaged down to the size of latents (B, C, h, w): (B, 1, h, w)."""
    return F.interpolate(masks.float(), size=latents.shape[-2:], mode="area")


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """The mean of some values: values (B,), where (B,) bool with at least one True -> scalar."""
    return (values * where).sum() / where.sum()


def tandem_equilibrium(
    attention: Tensor,
    pseudo: Tensor,
    ordinary: Tensor,
    sharpness: float = 100.0,
    queries: Tensor | None = None,
) -> Tensor:
    """Tandem Equilibrium (PersonaMagic): the strongest pseudo-word and the strongest ordinary word are pulled
    towards equal attention.

    attention (B, heads, T, T) after the softmax [query, key]; pseudo, ordinary (B, T) bool: which keys are
    which; queries (B, T) bool: which are averaged over, by default all -> (B,): -p(1 - p), p being how often
    the pseudo-word wins.
    """
    strength = attention.sum((1, 2))
    winners = [strength.masked_fill(~keys, float("-inf")).argmax(-1) for keys in (pseudo, ordinary)]
    rows = torch.arange(len(attention), device=attention.device)
    first, second = (attention[rows, :, :, winner] for winner in winners)  # (B, heads, T)
    wins = torch.sigmoid(sharpness * (first - second)).mean(1)
    if queries is None:
        share = wins.mean(-1)
    else:
        share = (wins * queries).sum(-1) / queries.sum(-1)
    return -share * (1 - share)
