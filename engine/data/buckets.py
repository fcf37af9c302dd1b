"""Aspect-ratio buckets: sizes of about one area for pictures of any proportions, and batches out of one each.

A picture goes into the size of the nearest proportions, scaled to cover it and cut in the middle.
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from .concepts import Concept
from .examples import Examples, fitted_mask, fitted_pixels, generator_for, shuffled
from .ragged import together

_WIDEST = 2.5  # times longer than its other side; what is longer yet is cut

Size = tuple[int, int]  # (height, width) in pixels


def sizes_of(area_side: int, step: int) -> list[Size]:
    """The buckets for an area of `area_side` squared, which none exceeds: sides are multiples of `step`."""
    area, sizes = area_side**2, {(area_side, area_side)}
    for short in range(step, area_side, step):
        long = area // short // step * step
        if long <= _WIDEST * short:
            sizes |= {(short, long), (long, short)}
    return sorted(sizes)


def nearest_size(height: int, width: int, sizes: Sequence[Size]) -> Size:
    """The bucket whose proportions are nearest to those of a picture."""
    return min(sizes, key=lambda size: abs(log(size[1] / size[0]) - log(width / height)))


def bucketed_examples(concepts: Sequence[Concept], sizes: Sequence[Size]) -> Examples:
    """All pictures of the concepts, each in its bucket's size, its mask alike."""
    pixels, masks, owners = [], [], []
    for number, concept in enumerate(concepts):
        for picture in concept.pictures:
            height, width = picture.pixels.shape[:2]
            size = nearest_size(height, width, sizes)
            pixels.append(fitted_pixels(picture.pixels, *size))
            masks.append(fitted_mask(picture.mask, *size))
            owners.append(number)
    return Examples(
        pixels=together(pixels),
        masks=together(masks),
        concepts=torch.tensor(owners),
        prior=torch.zeros(len(owners), dtype=torch.bool),
    )


def one_bucket(buckets: Tensor, choices: Tensor, count: int, number: int, *seed: object) -> Tensor:
    """The `number`-th batch of `count` items: all of one bucket, all of `choices` (n,).

    buckets (N,) says each item's. In every round of n batches a bucket comes as often as it has items, in an
    order of its own, so that all items are met equally often; the same number gives the same batch.
    """
    of_choices = buckets[choices]
    turn, place = divmod(number, len(choices))
    order = of_choices[torch.randperm(len(choices), generator=generator_for("bucket", turn, *seed))]
    bucket = order[place]
    before = turn * int((of_choices == bucket).sum()) + int((order[:place] == bucket).sum())
    return shuffled(choices[of_choices == bucket], count, before, "bucket", int(bucket), *seed)
