"""Plots and pages: well-formed, with every name in them, and nothing from elsewhere."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.evaluation.page import page_picture, table, write_page
from likeness_portraits.engine.evaluation.plots import Bar, Point, _ticks, bars, frontier, spread_labels


def test_a_frontier_holds_every_point_higher_scores_further_up_and_right():
    plot = frontier([Point(name="worse", x=0.1, y=0.2), Point(name="a < b", x=0.9, y=0.8)], "prompt", "who")
    circles = [node for node in ET.fromstring(plot).iter() if node.tag.endswith("circle")]
    (x1, y1), (x2, y2) = [(float(node.get("cx")), float(node.get("cy"))) for node in circles]
    assert x1 < x2 and y1 > y2
    assert "a &lt; b" in plot


def test_names_of_points_that_lie_together_can_still_be_read():
    points = [Point(name=f"arm {number}", x=0.9, y=0.8 + number / 1000) for number in range(30)]
    root = ET.fromstring(frontier(points, "prompt", "who"))
    places = [float(node.get("y")) for node in root.iter() if (node.text or "").startswith("arm")]
    assert len(places) == 30 and np.diff(sorted(places)).min() >= 16.8
    assert 0 < min(places) and max(places) < float(root.get("viewBox").split()[3]) - 40


def test_places_move_no_further_than_the_gap_asks():
    assert spread_labels([10, 50, 90], 17, 100) == [10, 50, 90]
    assert spread_labels([50, 10, 12], 17, 100) == [50, 10, 27]
    assert spread_labels([95, 100, 98], 10, 100) == [80, 100, 90]
    assert spread_labels([], 10, 100) == []


def test_bars_show_intervals_around_zero_and_their_verdict():
    plot = bars([Bar(name="yes", value=0.3, low=0.1, high=0.5, good=True),
                 Bar(name="no", value=-0.1, low=-0.2, high=0.1, good=False)], "differences")  # fmt: skip
    circles = [node for node in ET.fromstring(plot).iter() if node.tag.endswith("circle")]
    assert len({node.get("fill") for node in circles}) == 2
    assert float(circles[0].get("cx")) > float(circles[1].get("cx"))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.03, 0.04), (0.5, 0.52), (-7.0, 130.0)])
def test_ticks_are_a_few_numbers_within(low: float, high: float):
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 10 and all(low <= tick <= high for tick in ticks)


def test_a_page_holds_its_pictures_itself(tmp_path: Path):
    red = np.zeros((8, 8, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    page = write_page(
        tmp_path / "page.html", "R & D", [table(["a"], [[True], [0.12345], ["<x>"]]), page_picture(red)]
    )
    text = page.read_text("utf-8")
    assert "R &amp; D" in text and "✓" in text and "0.123" in text and "&lt;x&gt;" in text
    assert 'src="data:image/jpeg;base64,' in text and "http" not in text and "<script" not in text
