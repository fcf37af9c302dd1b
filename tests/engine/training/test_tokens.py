"""Only the new rows learn."""

import pytest
import torch

from likeness_portraits.engine.training.tokens import TokenRows, initial_rows
from likeness_portraits.tests.engine.tiny import tiny_base


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def test_gradients_reach_the_rows_and_nothing_else(base):
    tokens = TokenRows({"<v0>": initial_rows(base, "woman", 2), "<v1>": initial_rows(base, "man", 1)})
    base.encode_text(["a photo of <v0>", "a man"], tokens.rows()).states.square().sum().backward()
    used, unused = tokens.parameters()
    assert used.grad is not None and (used.grad.abs().sum(1) > 0).all()
    assert unused.grad is None  # no prompt names <v1>
    assert all(weight.grad is None for weight in base.parameters())


def test_the_token_table_is_left_as_it_is_even_when_a_prompt_fails(base):
    table = base.text_encoders["clip_l"].get_input_embeddings()
    before = table.weight.clone()
    with pytest.raises(RuntimeError):
        base.encode_text(["a <v0>"], {"<v0>": {"clip_l": torch.zeros(1, 7)}})  # wrong width
    tokens = TokenRows({"<v0>": initial_rows(base, "woman", 1)})
    base.encode_text(["a <v0>"], tokens.rows()).states.sum().backward()
    assert torch.equal(table.weight, before)
    assert not table._forward_hooks


def test_rows_begin_as_the_texts_own_repeated_or_averaged(base):
    woman = base.word_rows("woman")["clip_l"]
    assert len(woman) == 1
    assert torch.equal(initial_rows(base, "woman", 2)["clip_l"], woman.repeat(2, 1))
    pair = torch.cat([base.word_rows("old")["clip_l"], woman])
    own = initial_rows(base, "old woman")["clip_l"]
    assert torch.equal(own[-1], pair[-1])
    assert torch.equal(initial_rows(base, "old woman", 1)["clip_l"][0], own.mean(0))


def test_tensors_are_copies_under_the_artifacts_names(base):
    tokens = TokenRows({"<my-face>": initial_rows(base, "woman", 1)})
    (name,) = tokens.tensors()
    assert name == "token.my-face.clip_l"
    tokens.tensors()[name].zero_()
    assert next(tokens.parameters()).abs().sum() > 0
