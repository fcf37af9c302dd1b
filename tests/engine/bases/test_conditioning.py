"""What prompts say: picked, joined, repeated and brought to one length."""

import pytest
import torch
import torch.nn.functional as F

from likeness_portraits.engine.bases.conditioning import Conditioning


def states(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.tensor(shape).prod())).view(shape)


def test_rows_pick_all_that_belongs_to_a_prompt():
    whole = Conditioning(
        states=states(3, 2, 4), values=-states(3, 2, 4), pooled=states(3, 5), mask=torch.eye(3, 2).bool()
    )
    picked = whole.rows(torch.tensor([2, 0]))
    assert picked.states[:, 0, 0].tolist() == [16, 0] and picked.values[:, 0, 0].tolist() == [-16, 0]
    assert picked.pooled[:, 0].tolist() == [10, 0] and picked.mask.tolist() == [[False] * 2, [True, False]]
    assert [len(part) for part in whole.split(2)] == [2, 1] and len(whole.repeat(2)) == 6
    assert torch.equal(whole.repeat(2).rows(slice(3, 6)).pooled, whole.pooled)


def test_reading_all_states_over_and_over_leaves_attention_as_it_is():
    query, said = torch.randn(2, 5, 8), Conditioning(states=torch.randn(2, 4, 8), values=torch.randn(2, 4, 8))
    thrice = said.lengthened(12)
    once = F.scaled_dot_product_attention(query, said.states, said.values)
    torch.testing.assert_close(F.scaled_dot_product_attention(query, thrice.states, thrice.values), once)


def test_prompts_of_unequal_length_meet_at_the_least_common_multiple_with_their_summaries():
    parts = [Conditioning(states=torch.randn(n, n + 1, 4), pooled=torch.randn(n, 3)) for n in (1, 2)]
    joined = Conditioning.cat(parts)
    assert joined.states.shape == (3, 6, 4)
    assert torch.equal(joined.states[0], parts[0].states[0].repeat(3, 1))
    assert torch.equal(joined.pooled, torch.cat([part.pooled for part in parts]))


def test_where_a_mask_says_which_states_there_are_the_shorter_prompt_is_filled_up_instead():
    short = Conditioning(states=torch.ones(1, 2, 4), mask=torch.ones(1, 2).bool())
    joined = Conditioning.cat([short, Conditioning(states=torch.ones(1, 3, 4))])
    assert joined.mask.tolist() == [[True, True, False], [True] * 3]
    assert joined.states[:, :, 0].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_values_of_the_one_stand_beside_the_states_of_the_other():
    apart = Conditioning(states=torch.zeros(1, 2, 1), values=torch.ones(1, 2, 1))
    joined = Conditioning.cat([Conditioning(states=torch.full((1, 2, 1), 5.0)), apart])
    assert joined.values.flatten().tolist() == [5, 5, 1, 1]


def test_precision_changes_numbers_but_not_what_is_there():
    said = Conditioning(states=torch.ones(1, 2, 4), mask=torch.ones(1, 2).bool()).to(torch.bfloat16)
    assert said.states.dtype == torch.bfloat16 and said.mask.dtype == torch.bool


def test_a_length_that_is_no_multiple_is_a_mistake():
    with pytest.raises(AssertionError):
        Conditioning(states=torch.ones(1, 2, 4)).lengthened(3)
