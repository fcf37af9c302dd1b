"""Loss terms shared by methods: tensors in, one value per sample or a scalar out, reduced in fp32."""

import torch.nn.functional as F
from torch import Tensor


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample: prediction, target (B, C, H, W) -> (B,)."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").flatten(1).mean(1)


def masked_squared_error(prediction: Tensor, target: Tensor, mask: Tensor, background: float = 0.0) -> Tensor:
    """Squared error inside the mask, `background` times as heavy outside, as a weighted mean of each sample.

    prediction, target (B, C, H, W); mask (B, 1, H, W) in [0, 1] -> (B,). An empty mask counts as full.
    """
    weight = mask + background * (1 - mask)
    weight = weight.where(mask.flatten(1).sum(1).view(-1, 1, 1, 1) > 0, mask.new_ones(()))
    error = F.mse_loss(prediction.float(), target.float(), reduction="none")
    # dividing by the weight's sum keeps small faces from learning slowly
    return (error * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * prediction.shape[1])


def latent_masks(masks: Tensor, latents: Tensor) -> Tensor:
    """Masks (B, 1, H, W) averaged down to the size of latents (B, C, h, w): (B, 1, h, w)."""
    return F.interpolate(masks.float(), size=latents.shape[-2:], mode="area")


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values: values (B,), chosen (B,) bool with at least one True -> scalar."""
    return (values * chosen).sum() / chosen.sum()
