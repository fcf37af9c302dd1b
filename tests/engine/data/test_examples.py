"""Pictures as training sees them."""

import numpy as np
import pytest
import torch

from likeness_portraits.engine.data.concepts import Concept, Picture
from likeness_portraits.engine.data.examples import (
    Batch,
    examples_of,
    generator_for,
    shuffled,
    square_mask,
    square_pixels,
)
from likeness_portraits.engine.errors import LikenessError


def test_pictures_are_cropped_to_the_middle_square_and_scaled_to_minus_one_to_one():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:6] = 255
    assert torch.equal(square_pixels(picture, 4), torch.ones(3, 4, 4))
    assert square_pixels(picture, 2).shape == (3, 2, 2)
    assert square_pixels(np.zeros((8, 4, 3), np.uint8), 4).min() == -1


def test_masks_follow_their_pictures_and_are_full_where_there_is_none():
    mask = np.zeros((4, 8), np.float32)
    mask[:2, 2:6] = 1
    assert square_mask(mask, 2).tolist() == [[[1, 1], [0, 0]]]
    assert torch.equal(square_mask(None, 2), torch.ones(1, 2, 2))


def test_examples_know_their_concept():
    picture = Picture("a", np.zeros((8, 8, 3), np.uint8))
    one = Concept("<v0>", "woman", "subject", (picture, picture))
    two = Concept("<v1>", "hat", "component", (picture,))
    examples = examples_of([one, two], 4)
    assert examples.concepts.tolist() == [0, 0, 1]
    both = examples.joined(examples)
    assert len(both) == 6 and both.pixels.shape == (6, 3, 4, 4)


def test_every_round_shows_each_picture_once_in_a_new_order():
    choices = torch.tensor([3, 5, 7, 9])
    batches = [shuffled(choices, 2, number, "seed").tolist() for number in range(20)]
    rounds = [batches[i] + batches[i + 1] for i in range(0, 20, 2)]
    assert all(sorted(round_) == [3, 5, 7, 9] for round_ in rounds)
    assert len({tuple(round_) for round_ in rounds}) > 3
    assert shuffled(choices, 6, 1, "seed").tolist() == sum(batches, [])[6:12]
    assert [shuffled(choices, 2, number, "other").tolist() for number in range(20)] != batches


def test_random_numbers_depend_on_all_parts_of_the_seed():
    def draw(*parts):
        return torch.randn(3, generator=generator_for(*parts)).tolist()

    assert draw(1, "tuning", 5) == draw(1, "tuning", 5)
    assert len({tuple(draw(*parts)) for parts in [(1, "a", 5), (1, "a", 6), (2, "a", 5), (1, "b", 5)]}) == 4


def batch(own: int, prior: int) -> Batch:
    count = own + prior
    numbers = torch.arange(count)
    return Batch(
        pixels=numbers, masks=numbers, prompts=tuple(map(str, range(count))), concepts=numbers,
        prior=numbers >= own, indices=numbers, noise=numbers, posterior=numbers, times=numbers,
    )  # fmt: skip


def test_shards_are_equal_mixtures_and_together_the_whole():
    whole = batch(4, 2)
    shards = [whole.shard(rank, 2) for rank in range(2)]
    assert [shard.prompts for shard in shards] == [("0", "2", "4"), ("1", "3", "5")]
    assert [shard.prior.tolist() for shard in shards] == [[False, False, True]] * 2
    assert whole.shard(0, 1) is whole


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(LikenessError, match="3 pictures per pass do not divide among 2 processes"):
        batch(3, 1).shard(0, 2)
