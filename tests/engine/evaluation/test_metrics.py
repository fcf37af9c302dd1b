"""The figures of the report, on examples that can be done by hand."""

import numpy as np
import pytest

from likeness_portraits.engine.evaluation.metrics import (
    accuracy_by_attribute,
    attributes_kept,
    similarity_to_references,
)


def test_similarity_is_the_cosine_to_the_mean_direction_of_the_references():
    references = [[2.0, 0.0], [0.0, 5.0]]  # lengths do not count: the mean points to (1, 1)
    drawn = [[3.0, 3.0], [1.0, 0.0], [-1.0, -1.0]]
    expected = [1.0, np.sqrt(0.5), -1.0]
    assert similarity_to_references(drawn, references) == pytest.approx(expected)


READ = {"hat": ["crown", "none", "crown"], "scene": ["beach", "beach", "city"]}
ASKED = [{"hat": "crown", "scene": "beach"}, {"hat": "crown", "scene": "beach"}, {"scene": "space"}]


def test_each_picture_scores_the_share_of_what_its_prompt_asked_for():
    assert attributes_kept(READ, ASKED).tolist() == [1.0, 0.5, 0.0]


def test_an_attribute_counts_only_where_it_was_asked_for():
    assert accuracy_by_attribute(READ, ASKED) == {"hat": 0.5, "scene": pytest.approx(2 / 3)}
