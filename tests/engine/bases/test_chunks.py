"""Long prompts: how they are cut into chunks, and what two encoders say of one."""

import pytest
import torch

from likeness_portraits.engine.bases.text.chunks import in_chunks, side_by_side


@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ([], [[]]),
        ([0, 0], [[]]),
        ([10], [[10]]),
        ([11], [[10], [1]]),  # a long stretch is torn apart
        ([8, 7], [[8], [7]]),  # a short one moves on whole
        ([8, 9], [[8, 2], [7]]),
        ([3, 7, 1], [[3, 7], [1]]),
        ([10, 25], [[10], [10], [10], [5]]),
    ],
)
def test_groups_fill_chunks_as_in_comfyui(sizes: list[int], chunks: list[list[int]]):
    groups = [[number] * size for number, size in enumerate(sizes)]
    found = in_chunks(groups, 10)
    assert [[chunk.count(number) for number in dict.fromkeys(chunk)] for chunk in found] == chunks
    assert [piece for chunk in found for piece in chunk] == [piece for group in groups for piece in group]


def test_two_encoders_are_heard_as_far_as_both_go():
    assert side_by_side([torch.zeros(1, 77, 2), torch.zeros(1, 154, 3)]).shape == (1, 77, 5)
