"""Aspect-ratio buckets: their sizes, what becomes of a picture in one, and whose turn it is."""

from collections import Counter

import numpy as np
import pytest
import torch

from likeness_portraits.engine.data.buckets import bucketed_examples, nearest_size, one_bucket, sizes_of
from likeness_portraits.engine.data.concepts import Concept, Picture
from likeness_portraits.engine.data.examples import examples_of
from likeness_portraits.engine.data.ragged import Ragged, bucket_summary


@pytest.mark.parametrize("side", [256, 512, 768, 1024, 1536])
def test_sizes_are_multiples_of_64_of_nearly_the_squares_area_and_never_more(side: int):
    sizes = sizes_of(side, 64)
    assert (side, side) in sizes and len(sizes) >= 3
    for height, width in sizes:
        assert height % 64 == width % 64 == 0
        assert 0.75 * side**2 <= height * width <= side**2
        assert max(height, width) <= 2.5 * min(height, width)
        assert (width, height) in sizes


def test_a_picture_goes_into_the_size_of_the_nearest_proportions():
    sizes = sizes_of(512, 64)
    assert nearest_size(1000, 1000, sizes) == (512, 512)
    assert nearest_size(3000, 2000, sizes) == (640, 384)
    assert nearest_size(2000, 3000, sizes) == (384, 640)
    assert nearest_size(100, 9000, sizes) == (320, 768)


def picture(height: int, width: int, name: str = "a") -> Picture:
    """Bright in its left half, and masked there."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 200
    mask = np.zeros((height, width), np.float32)
    mask[:, : width // 2] = 1
    return Picture(name, pixels, mask)


def test_pictures_keep_their_proportions_and_masks_stay_on_what_they_mark():
    concept = Concept("<v0>", "woman", "subject", (picture(300, 200), picture(200, 300), picture(90, 60)))
    examples = bucketed_examples([concept], sizes_of(64, 8))
    assert bucket_summary(examples.pixels) == "2 of 48 x 80, 1 of 80 x 48"
    for pixels, mask in zip(examples.pixels, examples.masks):
        assert pixels.shape[1:] == mask.shape[1:]
        bright = pixels.mean(0) > 0
        assert (bright == (mask[0] > 0.5)).float().mean() > 0.97
        assert 0.45 < bright.float().mean() < 0.55  # nothing is squeezed, little is cut


def test_square_pictures_are_the_very_tensors_that_they_are_without_buckets():
    random = np.random.default_rng(0)
    pictures = tuple(
        Picture(str(side), random.integers(0, 255, (side, side, 3), dtype=np.uint8)) for side in (50, 64)
    )
    concept = Concept("<v0>", "woman", "subject", pictures)
    plain, bucketed = examples_of([concept], 64), bucketed_examples([concept], sizes_of(64, 8))
    assert isinstance(bucketed.pixels, torch.Tensor)
    assert torch.equal(plain.pixels, bucketed.pixels) and torch.equal(plain.masks, bucketed.masks)


def test_a_batch_is_of_one_size_and_all_pictures_come_equally_often():
    buckets = torch.tensor([0, 1, 0, 2, 0, 1])
    choices = torch.arange(6)
    batches = [one_bucket(buckets, choices, 2, number, 7, "p") for number in range(60)]
    assert all(len(buckets[batch].unique()) == 1 for batch in batches)
    seen = Counter(torch.cat(batches).tolist())
    assert set(seen.values()) == {20}
    assert {int(buckets[batch[0]]) for batch in batches[:6]} == {0, 1, 2}
    again = [one_bucket(buckets, choices, 2, number, 7, "p") for number in (41, 5)]
    assert torch.equal(again[0], batches[41]) and torch.equal(again[1], batches[5])
    assert any(not torch.equal(one_bucket(buckets, choices, 2, n, 8, "p"), batches[n]) for n in range(6))


def test_pictures_of_several_sizes_are_found_by_their_numbers():
    pictures = [torch.full((1, 2, 2), 0.0), torch.full((1, 3, 2), 1.0), torch.full((1, 2, 2), 2.0)]
    ragged = Ragged.of(pictures)
    assert len(ragged) == 3 and [float(one.mean()) for one in ragged] == [0, 1, 2]
    assert ragged[torch.tensor([2, 0])].mean((1, 2, 3)).tolist() == [2, 0]
    with pytest.raises(ValueError, match="too many values"):
        ragged[torch.tensor([0, 1])]
