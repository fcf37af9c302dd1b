"""The picture of a run's losses."""

import numpy as np
import pytest
from PIL import ImageColor

from likeness_portraits.engine.evaluation.loss_plot import INKS, plot_losses


def ink_columns(plot: np.ndarray, ink: str) -> dict[int, float]:
    """Mean height (0 at the bottom) of the ink's pixels, by column, below the legend."""
    rows, columns = np.nonzero((plot[40:] == ImageColor.getrgb(ink)).all(axis=-1))
    return {int(x): len(plot) - 40 - rows[columns == x].mean() for x in np.unique(columns)}


def test_a_falling_loss_falls_in_the_plot():
    plot = plot_losses({"diffusion": [(step, 1 - step / 100) for step in range(1, 100)]}, 400, 200)
    curve = ink_columns(plot, INKS[0])
    assert plot.shape == (200, 400, 3)
    assert curve[min(curve)] > curve[max(curve)]


def test_each_term_has_an_ink_of_its_own():
    plot = plot_losses({"low": [(1, 0.1), (9, 0.1)], "high": [(1, 0.9), (9, 0.9)]}, 400, 200)
    low, high = (np.mean(list(ink_columns(plot, ink).values())) for ink in INKS[:2])
    assert low < high


@pytest.mark.parametrize("losses", [{}, {"a": []}, {"a": [(1, float("nan"))]}, {"a": [(1, 0.5)]}])
def test_runs_with_hardly_anything_to_show_are_drawn(losses: dict):
    assert plot_losses(losses).shape == (384, 768, 3)
