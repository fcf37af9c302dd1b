"""The pictures' places in the autoencoder's posterior, found once; each step samples latents there anew."""

from typing import Any

import torch
from torch import Tensor

from ..bases.base import BaseModel
from ..bases.numbers import check_encoded
from ..data.augment import mirrored
from ..data.examples import Batch
from ..data.ragged import Ragged, buckets_of
from .kept_on_disk import KeptOnDisk

AT_ONCE = 8  # pictures that are read together


class LatentCache:
    """Means and standard deviations of the latents of N pictures; of them mirrored too where `both` is said.

    A mirrored picture's latents are not its mirrored latents: the autoencoder is asked.
    """

    def __init__(
        self,
        base: BaseModel,
        pictures: Any,
        both: bool = False,
        to_read: Tensor | None = None,
        kept: KeptOnDisk | None = None,
    ) -> None:
        """`pictures` (N, 3, H, W) in [-1, 1], or `Ragged`; `to_read` (N,) bool: these alone, else all.
        `kept`: where what was read before is found."""
        parts = pictures.parts if isinstance(pictures, Ragged) else (pictures,)
        self._buckets = buckets_of(pictures)
        self._places = pictures.place if isinstance(pictures, Ragged) else torch.arange(len(pictures))
        self._places_there = self._places.to(base.device) if len(parts) > 1 else None
        self._counts = [len(part) for part in parts]
        self._both = both
        self._kept = kept
        self._parts: list[tuple[Tensor, Tensor]] = []
        for part in parts:
            shape = (len(part) * (1 + both), *base.latent_shape(*part.shape[-2:]))
            mean, std = torch.zeros(2, *shape, device=base.device)
            self._parts.append((mean, std))
        self.read(base, pictures, torch.arange(len(pictures)) if to_read is None else to_read.nonzero()[:, 0])

    def read(self, base: BaseModel, pictures: Any, rows: Tensor) -> None:
        """Asks the autoencoder about the pictures with these numbers (B,)."""
        for bucket, (mean, std) in enumerate(self._parts):
            part = pictures.parts[bucket] if isinstance(pictures, Ragged) else pictures
            places = self._places[rows[self._buckets[rows] == bucket]]
            if not len(places):
                continue
            pixels = torch.cat([part[places], mirrored(part[places])]) if self._both else part[places]
            where = torch.cat([places, places + self._counts[bucket]]) if self._both else places
            mean[where.to(mean.device)], std[where.to(std.device)] = _encoded(base, pixels, self._kept)

    def to(self, device: torch.device) -> "LatentCache":
        """Moved there, where nothing is copied if it is there already."""
        self._parts = [(mean.to(device), std.to(device)) for mean, std in self._parts]
        self._places_there = None if self._places_there is None else self._places_there.to(device)
        return self

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) for the pictures of a batch, as they are turned in it."""
        mean, std = self._parts[batch.bucket]
        rows = batch.indices.to(mean.device)
        rows = rows if self._places_there is None else self._places_there[rows]
        if self._both and batch.mirrored is not None:
            rows = rows + self._counts[batch.bucket] * batch.mirrored
        return mean[rows], std[rows]


def _encoded(base: BaseModel, pixels: Tensor, kept: KeptOnDisk | None) -> tuple[Tensor, Tensor]:
    read = base.encode_posterior if kept is None else kept.posterior
    passes = [part for some in pixels.split(AT_ONCE) for part in some.split(base.at_once(*some.shape[-2:]))]
    posteriors = [read(part) for part in passes]
    mean, std = torch.cat([mean for mean, _ in posteriors]), torch.cat([std for _, std in posteriors])
    return check_encoded(mean), std
