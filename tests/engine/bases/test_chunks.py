"""Long prompts: how they are cut into chunks, and contexts of unequal length beside one another."""

from math import lcm

import pytest
import torch
import torch.nn.functional as F

from likeness_portraits.engine.bases.text.chunks import evened, in_chunks, repeated, side_by_side


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


def test_repeating_a_context_leaves_attention_as_it_is():
    queries, keys, values = torch.randn(2, 5, 8), torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    once = F.scaled_dot_product_attention(queries, keys, values)
    thrice = F.scaled_dot_product_attention(queries, repeated(keys, 12), repeated(values, 12))
    torch.testing.assert_close(once, thrice)


def test_contexts_reach_their_least_common_multiple_and_keep_what_is_behind_them():
    contexts = [torch.randn(1, 2 + 1, 4), torch.randn(2, 3 + 1, 4)]
    for own, even in zip(contexts, evened(contexts, tail=1)):
        assert even.shape == (len(own), lcm(2, 3) + 1, 4)
        assert torch.equal(even[:, -1], own[:, -1])
        assert torch.equal(even[:, : own.shape[1] - 1], own[:, :-1])


def test_two_encoders_are_heard_as_far_as_both_go():
    assert side_by_side([torch.zeros(1, 77, 2), torch.zeros(1, 154, 3)]).shape == (1, 77, 5)
