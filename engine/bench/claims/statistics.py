"""Paired differences with intervals over people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...evaluation.intervals import mean_interval

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
    values: Mapping[int, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Both arms' means over pictures, by person and training."""


def compare(
    first: Mapping[int, Sequence[SampleValues]], second: Mapping[int, Sequence[SampleValues]], seed: int = 0
) -> Comparison | None:
    """The comparison of two arms' cells by person, one entry per training seed; None without any.

    A person counts as the mean over their cells. From three people on, the interval is one of the mean
    over people (`mean_interval`). With fewer, people stand as they are and their pictures are
    resampled: the interval then speaks of these people only.
    """
    people = sorted(person for person in set(first) & set(second) if first[person] and second[person])
    pairs = [list(zip(first[person], second[person])) for person in people]
    if not pairs:
        return None
    values = {person: [(float(np.mean(a)), float(np.mean(b))) for a, b in cells]
              for person, cells in zip(people, pairs)}  # fmt: skip
    if len(people) < ENOUGH_PEOPLE:
        interval = confidence_interval([_differences(cells) for cells in pairs], seed)
        return replace(compared_means(values), low=interval[0], high=interval[1])
    return compared_means(values)


def compared_means(values: Mapping[int, Sequence[tuple[float, float]]]) -> Comparison:
    """The comparison that `compare` makes of three people or more, from `Comparison.values` alone."""
    means = np.array([np.mean(cells, axis=0) for cells in values.values()])  # (people, 2)
    value, other = (float(mean) for mean in means.mean(0))
    _, low, high = mean_interval(means[:, 0] - means[:, 1])
    return Comparison(value=value, other=other, difference=value - other, low=low, high=high,
                      people=len(means), values=values)  # fmt: skip


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
    return mean_interval(np.array([samples.mean() for samples in differences]))[1:]


def _differences(cells: Sequence[tuple[SampleValues, SampleValues]]) -> np.ndarray:
    """Differences of one person, picture by picture where both arms drew the same ones."""
    parts = []
    for first, second in cells:
        a, b = np.atleast_1d(np.asarray(first, float)), np.atleast_1d(np.asarray(second, float))
        parts.append(a - b if len(a) == len(b) else np.array([a.mean() - b.mean()]))
    return np.concatenate(parts)
