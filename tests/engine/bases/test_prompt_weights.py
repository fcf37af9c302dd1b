"""Brackets in prompts: how much words count where something is drawn; captions keep them as letters."""

import pytest
import torch

from likeness_portraits.engine.bases.text.prompt_weights import spelled, weighed, weighted
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.refocus import Focus, own_prompt_of
from likeness_portraits.tests.engine.tiny import tiny_base


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red hat", [("a red hat", 1)]),
        ("", []),
        ("a (red:1.5) hat", [("a ", 1), ("red", 1.5), (" hat", 1)]),
        ("a (red) hat", [("a ", 1), ("red", 1.1), (" hat", 1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:1.5) hat:0.5)", [("a ", 0.5), ("red", 1.5), (" hat", 0.5)]),
        ("(a (red) hat:0.5)", [("a ", 0.5), ("red", 0.5 * 1.1), (" hat", 0.5)]),
        (r"a \(red\) hat", [("a (red) hat", 1)]),
        (r"(a \(red\):1.5)", [("a (red)", 1.5)]),
        ("a [red] hat BREAK", [("a [red] hat BREAK", 1)]),
        ("a (red hat", [("a ", 1), ("(red hat", 1)]),
        ("a red) hat", [("a red) hat", 1)]),
        ("(red:much)", [("red:much", 1.1)]),
        ("(:1.5)", [(":1.5", 1.1)]),
    ],
)
def test_brackets_say_how_much_words_count(prompt: str, expected: list):
    assert weighted(prompt) == expected


@pytest.mark.parametrize("prompt", ["(red:nan)", "(red:inf)", "(a (red:-inf):1)"])
def test_a_weight_that_is_no_number_is_refused(prompt: str):
    with pytest.raises(LikenessError, match=r"in a prompt is no weight; write one such as \(red:1.5\)"):
        weighted(prompt)


def test_states_move_away_from_those_of_an_empty_prompt():
    states, empty = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([[1.0], [1.0], [7.0]])
    found = weighed(states, torch.tensor([[1.0, 1.5, 0.5]]), empty)
    assert found.flatten().tolist() == [1.0, 4.0, 6.0]


def test_learned_words_may_be_called_as_in_comfyui():
    assert spelled("a photo of embedding:v0, embedding:v0.", ["<v0>"]) == "a photo of <v0>, <v0>."
    with pytest.raises(
        LikenessError, match="asks for embedding:v1, which no concept defines; there are <v0>"
    ):
        spelled("a photo of embedding:v1", ["<v0>"])


def test_captions_keep_their_brackets_and_drawing_does_not():
    base = tiny_base()
    letters = base.tokenize(["a (red:1.5) hat"])
    read = base.tokenize(["a (red:1.5) hat"], weights=True)
    plain = base.tokenize(["a red hat"], weights=True)
    assert letters.weights is None and plain.weights is None and read.weights is not None
    assert torch.equal(read.ids, plain.ids) and not torch.equal(letters.ids, plain.ids)
    assert read.weights[0, :5].tolist() == [1, 1, 1.5, 1, 1]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_weighted_word_moves_its_own_state_alone_and_nothing_pooled(family: str):
    base = tiny_base(family=family)
    texts = ("a red hat", "a (red:1.5) hat")
    with torch.no_grad():
        plain, heavy = (base.encode_text([text], weights=True) for text in texts)
        empty = base.encode_text([""])
    moved = torch.zeros(plain.length, 1)
    moved[2] = 1  # start, a, red
    torch.testing.assert_close(heavy.states, plain.states + moved * 0.5 * (plain.states - empty.states))
    if family == "sdxl":
        torch.testing.assert_close(heavy.pooled, plain.pooled)


def test_a_region_reads_no_weight_of_somebody_else():
    focus = Focus(token="<v0>", region=(0, 0, 0.5, 1))
    prompt = "a photo of (<v0>:1.2) and (<v1>:1.3), on a (beach:1.1)"
    assert own_prompt_of(prompt, focus) == "a photo of (<v0>:1.2), on a (beach:1.1)"
