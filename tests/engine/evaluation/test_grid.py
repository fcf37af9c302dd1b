"""Grids: which picture belongs where, what is refused, and that sheet and report show every score."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.artifact import Artifact, Token, grid_card
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.grid import (
    Grid,
    _points,
    check_size,
    lines_of,
    names_of,
    parse_numbers,
    sheet,
    write_grid_report,
)
from likeness_portraits.engine.evaluation.measure import Measures


def grid(text: bool = True) -> Grid:
    """Two prompts, two strengths, three seeds; at the second strength identity is up and prompts are down."""
    strong = np.tile(np.repeat([0.0, 1.0], 3), 2)
    identity = 0.4 + 0.3 * strong
    identity[4] = np.nan
    measures = Measures(
        judge="miniature", identity=identity, detected=np.isfinite(identity), own=0.8, strangers=0.1,
        memorisation=np.zeros(12), text=1.0 - 0.5 * strong if text else None, text_judge="miniature",
    )  # fmt: skip
    pictures = [np.full((16, 16, 3), 20 * n, np.uint8) for n in range(12)]
    return Grid(prompts=["a <v0>", "b <v0>"], strengths=[0.5, 1.0], seeds=range(7, 10), pictures=pictures,
                measures=measures)  # fmt: skip


def test_pictures_are_counted_by_prompt_then_strength_then_seed():
    places = list(grid().places())
    assert [(prompt, strength, own.start) for prompt, strength, own in places] == [
        (0, 0, 0), (0, 1, 3), (1, 0, 6), (1, 1, 9),
    ]  # fmt: skip


def test_the_frontier_has_a_point_per_strength_and_none_without_prompt_scores():
    weak, strong = _points(grid())
    assert (weak.name, strong.name) == ("0.5", "1")
    assert weak.y == pytest.approx(0.4) and strong.y == pytest.approx(0.7)  # no face counts as unknown
    assert weak.x == 1.0 and strong.x == 0.5
    assert _points(grid(text=False)) == []


@pytest.mark.parametrize("text", [True, False])
def test_the_report_holds_every_picture_and_score(tmp_path: Path, text: bool):
    page = write_grid_report(tmp_path / "deep" / "grid.html", grid(text), "people").read_text("utf-8")
    assert page.count("data:image/jpeg") == 4 and ("<svg" in page) is text
    assert "no face" in page and "2 of 3" in page and "seed" not in page.split("<h2>Pictures")[0]


def test_the_report_says_what_each_likeness_is(tmp_path: Path):
    token = Token(token="<v0>", class_word="woman")
    learned = Artifact(kind="lora", method="x", tensors={}, tokens=(token,), digest="0123456789abcdef")
    told = replace(grid(True), cards=[grid_card(learned)])
    page = write_grid_report(tmp_path / "grid.html", told, "people").read_text("utf-8")
    assert "write &lt;v0&gt; (woman) · LoRA · x · SD 1.x · pictures&#x27; digest 0123456789ab<" in page


def test_the_sheet_has_a_row_per_prompt_and_strength():
    drawn = sheet(grid())
    assert drawn.dtype == np.uint8 and drawn.shape[0] > 4 * 176


def test_two_likenesses_have_rows_and_points_of_their_own(tmp_path: Path):
    one = grid()
    both = Grid(prompts=["a <v0>"], strengths=one.strengths, seeds=one.seeds, pictures=one.pictures,
                measures=one.measures, likenesses=["words", "lora"])  # fmt: skip
    assert [(prompt, both.label(variant), own.start) for prompt, variant, own in both.places()] == [
        (0, "words, strength 0.5", 0), (0, "words, strength 1", 3),
        (0, "lora, strength 0.5", 6), (0, "lora, strength 1", 9),
    ]  # fmt: skip
    assert [point.name for point in _points(both)] == ["words 0.5", "words 1", "lora 0.5", "lora 1"]
    page = write_grid_report(tmp_path / "grid.html", both, "two").read_text("utf-8")
    assert "<th>likeness</th>" in page and "<td>lora</td>" in page and "lora, strength 0.5" in page
    assert "<th>likeness</th>" not in write_grid_report(tmp_path / "one.html", one, "one").read_text("utf-8")


def test_likenesses_are_called_by_what_learned_them_and_must_share_their_placeholders():
    assert names_of([], []) == [] and names_of(["a"], [["<v0>"]]) == [""]
    assert names_of(["a", "b", "a"], [["<v0>"]] * 3) == ["a", "b", "a 2"]
    with pytest.raises(LikenessError, match="different placeholders .<v0>; <v1>.; write {} in every prompt"):
        names_of(["a", "b"], [["<v0>"], ["<v1>"]], ["a {}", "a <v0>"])
    assert names_of(["a", "imported"], [["<v0>"], []], ["a {}", "b {}"]) == ["a", "imported"]


def test_prompts_come_one_per_line_and_strengths_with_commas():
    assert lines_of("a <v0>\n\n  b <v0>  ") == ["a <v0>", "b <v0>"]
    assert parse_numbers("0.6, 0.8;1") == [0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [(lambda: lines_of(" \n "), "one per line"), (lambda: parse_numbers("strong"), "numbers such as"),
     (lambda: parse_numbers("1, 1"), "once"), (lambda: parse_numbers(""), "once"),
     (lambda: check_size(10, 10, 10), "take fewer")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_with_what_to_write(wrong, told: str):
    with pytest.raises(LikenessError, match=told):
        wrong()
