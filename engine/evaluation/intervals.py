"""The 95 % interval of a mean of few values that may be bounded and skewed."""

import numpy as np
from scipy import special

_LEVEL = 0.95
_MOST = 0.5  # of Student's half width, by which skewness may lengthen one side


def mean_interval(samples: np.ndarray) -> tuple[float, float, float]:
    """The mean of samples (N,), and the ends of its interval; a single value is its own interval.

    Student's t, whose side towards the longer tail reaches further, by Johnson's (1978) correction for
    skewness with its second term; the other side stays as it is. docs/claims.md has the measured coverage.
    """
    samples = np.asarray(samples, np.float64)
    count, middle = len(samples), float(np.mean(samples))
    if count < 2:
        return middle, middle, middle
    spread = float(samples.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(middle)):  # all alike but for rounding
        return middle, middle, middle
    student = float(special.stdtrit(count - 1, (1 + _LEVEL) / 2))  # scipy.stats is slow to import
    half = student * spread / count**0.5
    unbiased = count**2 / ((count - 1) * max(count - 2, 1))
    third = float(np.mean((samples - middle) ** 3)) * unbiased
    shift = third / (6 * count * spread**2) * (1 + 2 * student**2)
    shift = min(max(shift, -_MOST * half), _MOST * half)
    return middle, middle - half + min(shift, 0.0), middle + half + max(shift, 0.0)
