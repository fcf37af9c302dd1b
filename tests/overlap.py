"""How much two masks have in common, for tests."""

from numpy.typing import NDArray


def mask_overlap(first: NDArray, second: NDArray) -> float:
    """Intersection over union of two masks in [0, 1]; 1 where both are empty."""
    one, other = first >= 0.5, second >= 0.5
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0
