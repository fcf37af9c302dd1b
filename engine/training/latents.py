"""The pictures' places in the autoencoder's posterior, found once; each step samples latents there anew."""

from typing import Any

import torch
from torch import Tensor

from ..data.augment import mirrored
from ..data.examples import Batch
from ..data.ragged import Ragged
from .base_model import BaseModel

AT_ONCE = 8  # pictures that are read together


class Moments:
    """Means and standard deviations of the latents of N pictures; of them mirrored too where `both` is said.

    A mirrored picture's latents are not its mirrored latents: the autoencoder is asked.
    """

    def __init__(self, base: BaseModel, pictures: Any, both: bool = False) -> None:
        """`pictures` (N, 3, H, W) in [-1, 1], or `Ragged`."""
        parts = pictures.parts if isinstance(pictures, Ragged) else (pictures,)
        self._parts = [_encoded(base, torch.cat([part, mirrored(part)]) if both else part) for part in parts]
        self._places = pictures.place.to(base.device) if isinstance(pictures, Ragged) else None
        self._counts = [len(part) for part in parts]
        self._both = both

    def to(self, device: torch.device) -> "Moments":
        """Moved there, where nothing is copied if it is there already."""
        self._parts = [(mean.to(device), std.to(device)) for mean, std in self._parts]
        self._places = None if self._places is None else self._places.to(device)
        return self

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) for the pictures of a batch, as they are turned in it."""
        mean, std = self._parts[batch.bucket]
        rows = batch.indices.to(mean.device)
        rows = rows if self._places is None else self._places[rows]
        if self._both and batch.mirrored is not None:
            rows = rows + self._counts[batch.bucket] * batch.mirrored
        return mean[rows], std[rows]


def _encoded(base: BaseModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    found = [base.encode_moments(some) for some in pixels.split(AT_ONCE)]
    return torch.cat([mean for mean, _ in found]), torch.cat([std for _, std in found])
