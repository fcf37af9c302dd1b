"""Pictures of several sizes side by side, where a tensor holds pictures of one size only."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """N pictures of several sizes, addressed by their numbers like a tensor (N, C, H, W)."""

    parts: tuple[Tensor, ...]  # (n, C, H, W) each: the pictures of one size
    bucket: Tensor  # (N,) which part
    place: Tensor  # (N,) where in it

    @classmethod
    def of(cls, pictures: Sequence[Tensor]) -> "Ragged":
        """Pictures (C, H, W); sizes in the order in which they come first."""
        shapes = list(dict.fromkeys(picture.shape[-2:] for picture in pictures))
        bucket = [shapes.index(picture.shape[-2:]) for picture in pictures]
        parts = [[pictures[i] for i, index in enumerate(bucket) if index == b] for b in range(len(shapes))]
        place = [bucket[:number].count(index) for number, index in enumerate(bucket)]
        return cls(tuple(torch.stack(part) for part in parts), torch.tensor(bucket), torch.tensor(place))

    def __len__(self) -> int:
        return len(self.bucket)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.parts[bucket][place] for bucket, place in zip(self.bucket.tolist(), self.place.tolist()))

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """The pictures (B, C, H, W) with these numbers (B,), which must be of one size."""
        (bucket,) = set(self.bucket[numbers].tolist())
        return self.parts[bucket][self.place[numbers]]


def bucket_summary(pixels: Tensor | Ragged) -> str:
    """The sizes of pictures in words: `3 of 384 x 640, 2 of 512 x 512` (width x height)."""
    shapes = Counter(tuple(picture.shape[-2:]) for picture in pixels)
    return ", ".join(f"{count} of {width} x {height}" for (height, width), count in shapes.most_common())


def together(pictures: Sequence[Tensor]) -> Any:
    """Pictures (C, H, W) as one tensor (N, C, H, W) where all have one size, else as `Ragged`."""
    if len({picture.shape for picture in pictures}) == 1:
        return torch.stack(list(pictures))
    return Ragged.of(pictures)


def joined(first: Any, second: Any) -> Any:
    """Pictures, then others: tensors (N, …), or `Ragged` where sizes differ."""
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape[1:] == second.shape[1:]:
        return torch.cat([first, second])
    return together([*first, *second])


def put(pictures: Any, numbers: Tensor, others: Tensor) -> None:
    """Puts others (B, C, H, W) in the place of the pictures with these numbers (B,), all of one size."""
    if isinstance(pictures, Ragged):
        (bucket,) = set(pictures.bucket[numbers].tolist())
        pictures.parts[bucket][pictures.place[numbers]] = others
    else:
        pictures[numbers] = others


def buckets_of(pictures: Any) -> Tensor:
    """Which of the sizes each of N pictures has: (N,), 0 for all where there is but one."""
    if isinstance(pictures, Ragged):
        return pictures.bucket
    return torch.zeros(len(pictures), dtype=torch.long)
