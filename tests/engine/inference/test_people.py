"""Which word of the prompt is whose, and where people stand."""

import pytest

from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.people import boxes_of, names_in
from likeness_portraits.engine.inference.refocus import check_box


@pytest.mark.parametrize(
    ("prompt", "learned", "called"),
    [
        ("<v0> and <v1>", [["<v0>"], ["<v1>"]], [["<v0>"], ["<v1>"]]),
        ("<v1> and <v0>", [["<v0>"], ["<v1>"]], [["<v0>"], ["<v1>"]]),
        ("<anna> and <ben>", [["<v0>"], ["<v0>"]], [["<anna>"], ["<ben>"]]),
        ("<v0> and <ben>", [["<v0>"], ["<v0>"]], [["<v0>"], ["<ben>"]]),
        ("<ben> and <v1>", [["<v0>"], ["<v1>"]], [["<ben>"], ["<v1>"]]),
        ("<ben>, again <ben>, <anna>", [["<v0>"], ["<v0>"]], [["<ben>"], ["<anna>"]]),
        ("<v0> with <v1> and <ben>", [["<v0>", "<v1>"], ["<v0>"]], [["<v0>", "<v1>"], ["<ben>"]]),
        ("<anna> and <v0>", [["<v0>", "<v1>"], ["<v0>", "<v1>"]], [["<v0>", "<v1>"], ["<anna>", "<v1-2>"]]),
    ],
)
def test_a_likeness_keeps_its_word_where_the_prompt_has_it_and_takes_what_is_left_otherwise(
    prompt: str, learned: list[list[str]], called: list[list[str]]
):
    assert names_in(prompt, learned) == called


@pytest.mark.parametrize(
    ("learned", "message"),
    [
        ([["<v0>"], ["<v0>"]], "has no trigger word for likeness 2; write <v0>, or any other such as <anna>"),
        ([["<v0>"], []], "likeness 2 has no trigger word that could be kept in a region"),
    ],
)
def test_whom_the_prompt_does_not_name_is_said(learned: list[list[str]], message: str):
    with pytest.raises(LikenessError, match=message):
        names_in("a photo of <v0>", learned)


def test_people_stand_side_by_side_or_in_thirds_with_room_beside_them():
    assert boxes_of("side by side", 2) == [(0, 0, 0.5, 1), (0.5, 0, 0.5, 1)]
    assert [round(box[0], 2) for box in boxes_of("thirds", 2)] == [0, 0.67]
    assert [round(box[0], 2) for box in boxes_of("thirds", 1)] == [0.33]
    for count in range(1, 7):
        for box in boxes_of("side by side", count):
            check_box(box)
    with pytest.raises(LikenessError, match="4 people but three thirds; choose side by side"):
        boxes_of("thirds", 4)
