"""The figures of the report, on examples that can be done by hand."""

import numpy as np
import pytest

from likeness_portraits.engine.evaluation.metrics import (
    accuracy_by_attribute,
    attributes_kept,
    context_leakage,
    distances_within,
    nearest_correlation,
    similarity_to_references,
)
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.miniature.judges import load_judges


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


def test_leakage_is_the_share_of_one_training_picture_that_came_along():
    training = {"scene": ["beach", "city"], "clothes": ["suit", "shirt"]}
    drawn = {"scene": ["beach", "beach", "space"], "clothes": ["suit", "shirt", "hoodie"]}
    assert context_leakage(drawn, training, ("scene", "clothes")).tolist() == [1.0, 0.5, 0.0]


def test_a_copy_is_as_near_as_can_be_and_a_negative_is_not_near():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    near = nearest_correlation(np.stack([known[1], 255 - known[0]]), known)
    assert near[0] == pytest.approx(1.0) and near[1] < 0.2


def test_pictures_that_are_the_same_have_no_distance():
    assert distances_within([[1.0, 0.0], [2.0, 0.0]]).tolist() == [0.0, 0.0]
    assert distances_within([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).tolist() == [1.0, 0.5, 0.5]
    assert distances_within([[1.0, 0.0]]).tolist() == [0.0]


def test_both_recognisers_tell_the_miniatures_people_apart():
    people = [world.REPORTING_SEEDS[number] for number in range(12)]
    pictures = np.concatenate([[p.pixels for p in world.example_pictures(person)] for person in people])
    same = np.kron(np.eye(len(people)), np.ones((4, 4))).astype(bool)
    pairs = np.triu(np.ones_like(same), 1).astype(bool)
    judges = load_judges()
    for vectors in (judges.embed(pictures), judges.embed_reporting(pictures)):
        cosines = vectors @ vectors.T
        alike, unlike = cosines[same & pairs], cosines[~same & pairs]
        assert (alike[:, None] > unlike).mean() > 0.98  # ROC AUC
