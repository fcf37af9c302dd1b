import torch

from likeness_portraits.engine.training.losses import (
    latent_masks,
    masked_squared_error,
    mean_where,
    squared_error,
)

TARGET = torch.zeros(1, 1, 2, 2)
PREDICTION = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]])


def test_squared_error_is_one_mean_per_sample():
    assert squared_error(torch.cat([PREDICTION, TARGET]), TARGET.repeat(2, 1, 1, 1)).tolist() == [3.5, 0.0]


def test_a_masked_error_is_the_mean_over_the_mask_alone():
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert masked_squared_error(PREDICTION, TARGET, mask).tolist() == [5.0]  # (1 + 9) / 2
    background = masked_squared_error(PREDICTION, TARGET, mask, background=0.5)
    assert background.tolist() == [4.0]  # (1 + 9 + 0.5 * 4) / (1 + 1 + 0.5 + 0.5)


def test_a_mask_of_nothing_counts_as_everything():
    empty = torch.zeros(1, 1, 2, 2)
    assert masked_squared_error(PREDICTION, TARGET, empty).tolist() == [3.5]


def test_masks_are_averaged_down_to_the_latents():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :1] = 1
    assert latent_masks(mask, torch.zeros(1, 4, 2, 2)).tolist() == [[[[0.5, 0.0], [0.0, 0.0]]]]


def test_the_mean_of_the_chosen():
    assert mean_where(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True])) == 3.5
