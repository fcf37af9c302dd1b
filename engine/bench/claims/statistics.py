"""Paired differences with bootstrap intervals over people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

RESAMPLES = 4000
ENOUGH_PEOPLE = 3  # from here on people are resampled; below, only the pictures of those there are

SampleValues = float | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two arms in one metric, over the people that both were measured on; the interval is of 95 %."""

    value: float
    other: float
    difference: float
    low: float
    high: float
    people: int


def compare(
    first: Mapping[int, Sequence[SampleValues]], second: Mapping[int, Sequence[SampleValues]], seed: int = 0
) -> Comparison | None:
    """The comparison of two arms' cells by person, one entry per training seed; None without any.

    A person counts as the mean over their cells. From three people on, the interval is a bootstrap over
    people, widened as Student's t is for so few. With fewer, people stand as they are and their pictures are
    resampled: the interval then speaks of these people only.
    """
    people = sorted(set(first) & set(second))
    pairs = [list(zip(first[person], second[person])) for person in people]
    pairs = [cells for cells in pairs if cells]
    if not pairs:
        return None
    value = float(np.mean([np.mean([np.mean(a) for a, _ in cells]) for cells in pairs]))
    other = float(np.mean([np.mean([np.mean(b) for _, b in cells]) for cells in pairs]))
    differences = [_differences(cells) for cells in pairs]
    low, high = confidence_interval(differences, seed)
    difference = value - other
    return Comparison(
        value=value, other=other, difference=difference, low=low, high=high, people=len(pairs)
    )  # fmt: skip


def average(
    values: Mapping[int, Mapping[int, SampleValues]], seed: int = 0
) -> tuple[float, float, float] | None:
    """Mean over people with its 95 % interval, of values by person and training seed; None without any."""
    people = [np.concatenate([np.atleast_1d(np.asarray(cell, float)) for cell in cells.values()])
              for cells in values.values() if cells]  # fmt: skip
    if not people:
        return None
    return float(np.mean([samples.mean() for samples in people])), *confidence_interval(people, seed)


def confidence_interval(differences: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean over people; `differences` holds each person's, picture by picture."""
    rng = np.random.default_rng(seed)
    people = len(differences)
    if people < ENOUGH_PEOPLE:
        resampled = [rng.choice(samples, (RESAMPLES, len(samples))).mean(1) for samples in differences]
        low, high = np.quantile(np.mean(resampled, axis=0), (0.025, 0.975))
        return float(low), float(high)
    means = np.array([samples.mean() for samples in differences])
    middle = means.mean()
    low, high = np.quantile(rng.choice(means, (RESAMPLES, people)).mean(1), (0.025, 0.975))
    wider = widening(people)
    return float(middle - wider * (middle - low)), float(middle + wider * (high - middle))


def widening(people: int) -> float:
    """By how much a bootstrap over so few people falls short: t over normal, and the spread's lost degree."""
    degrees = people - 1
    student = special.stdtrit(degrees, 0.975)  # scipy.stats.t.ppf, which takes a second to import
    return float(student / special.ndtri(0.975) * (people / degrees) ** 0.5)


def _differences(cells: Sequence[tuple[SampleValues, SampleValues]]) -> np.ndarray:
    """Differences of one person, picture by picture where both arms drew the same ones."""
    parts = []
    for first, second in cells:
        a, b = np.atleast_1d(np.asarray(first, float)), np.atleast_1d(np.asarray(second, float))
        parts.append(a - b if len(a) == len(b) else np.array([a.mean() - b.mean()]))
    return np.concatenate(parts)
