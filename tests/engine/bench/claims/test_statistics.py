"""Paired differences: what counts once, what pairs, and how wide an interval is."""

import numpy as np
import pytest

from likeness_portraits.engine.bench.claims.statistics import compare, compared_means, confidence_interval
from likeness_portraits.engine.evaluation.intervals import mean_interval


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


DRAWN = {
    "normal": (lambda rng, n: rng.normal(1.0, 0.3, n), 1.0),
    "skewed": (lambda rng, n: rng.beta(8, 2, n), 0.8),
    "proportions": (lambda rng, n: (rng.binomial(16, 0.93, n) - rng.binomial(16, 0.96, n)) / 16, -0.03),
}


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("people", [4, 8, 16])
def test_nineteen_in_twenty_intervals_hold_the_truth(people: int, kind: str):
    rng, (draw, truth) = np.random.default_rng(0), DRAWN[kind]
    ends = np.array([mean_interval(draw(rng, people))[1:] for _ in range(2000)])
    held = np.mean((ends[:, 0] <= truth + 1e-9) & (truth - 1e-9 <= ends[:, 1]))
    assert 0.935 < held < 0.98


def test_the_interval_reaches_further_towards_the_longer_tail_and_ties_have_none():
    mean, low, high = mean_interval(np.array([0.9, 0.92, 0.94, 0.91, 0.3]))
    assert mean - low > 1.2 * (high - mean)
    mirrored = mean_interval(-np.array([0.9, 0.92, 0.94, 0.91, 0.3]))
    assert mirrored == pytest.approx((-mean, -high, -low))
    assert mean_interval(np.array([0.1 + 0.2, 0.3, 0.3])) == pytest.approx((0.3, 0.3, 0.3))


def test_a_comparison_can_be_made_again_from_what_it_keeps():
    found = compare(
        {1: [[0.5, 0.7], [0.4]], 2: [[0.2]], 3: [[0.9]]}, {1: [[0.1, 0.3], [0.4]], 2: [0.1], 3: [0.2]}
    )
    assert found.values[1] == [pytest.approx((0.6, 0.2)), pytest.approx((0.4, 0.4))]
    assert compared_means(found.values) == found


def test_one_person_alone_is_judged_by_the_pictures():
    low, high = confidence_interval([np.array([0.2, 0.4, 0.3, 0.5])])
    assert 0.2 <= low < 0.35 < high <= 0.5
