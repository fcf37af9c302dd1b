"""Paired differences: what counts once, what pairs, and how wide an interval is."""

import numpy as np
import pytest

from likeness_portraits.engine.bench.claims.statistics import compare, confidence_interval, widening


def test_a_person_counts_once_however_many_pictures_there_are():
    found = compare({1: [[1.0, 1.0, 1.0, 1.0]], 2: [[0.0]]}, {1: [[0.0] * 4], 2: [[0.0]]})
    assert found.value == 0.5 and found.other == 0.0 and found.difference == 0.5 and found.people == 2


def test_only_people_that_both_arms_have_are_compared():
    assert compare({1: [0.5], 2: [9.0]}, {1: [0.25], 3: [9.0]}).difference == 0.25
    assert compare({1: [1.0]}, {2: [1.0]}) is None


def test_what_both_arms_share_does_not_widen_the_interval():
    hard = [0.1, 0.9, 0.4, 0.7, 0.2]  # some people are harder to draw than others, for both arms
    found = compare(
        {person: [[value + 0.1]] for person, value in enumerate(hard)},
        {person: [[value]] for person, value in enumerate(hard)},
    )
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_interval():
    people = [np.array([value]) for value in (0.1, 0.3, -0.2, 0.5)]
    assert confidence_interval(people, 3) == confidence_interval(people, 3)
    low, high = confidence_interval(people, 3)
    assert low < np.mean(people) < high


@pytest.mark.parametrize("people", [3, 8])
def test_nineteen_in_twenty_intervals_hold_the_truth(people: int):
    rng = np.random.default_rng(0)
    held = [
        low <= 1.0 <= high
        for low, high in (
            confidence_interval([rng.normal(1.0, 0.3, 1) for _ in range(people)], n) for n in range(300)
        )
    ]
    assert np.mean(held) > 0.90


def test_fewer_people_widen_the_interval_more():
    assert widening(3) > widening(8) > widening(50) > 1


def test_one_person_alone_is_judged_by_the_pictures():
    low, high = confidence_interval([np.array([0.2, 0.4, 0.3, 0.5])])
    assert 0.2 <= low < 0.35 < high <= 0.5
