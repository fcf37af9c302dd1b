"""How long cells take on this machine, and whether one more still ends in time."""

import time
from collections.abc import Callable

from .bench import Arm
from .table import Cell, Plan

SLACK = 1.25  # a cell may take so many times what its like took
_DRAWING = 0.2  # of a cell that trains, what one that only draws takes
CLOSING = 45.0  # seconds kept for the program's start, before the first cell, and for writing the report


class Pace:
    """The clock of a run; it begins when this is made. `now` gives seconds."""

    def __init__(self, plan: Plan, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._plan, self._began = plan, now()
        self._seen: list[tuple[Cell, float]] = []

    def saw(self, cell: Cell, seconds: float) -> None:
        """Remembers what a cell took, in this run or an earlier one on the same folder."""
        self._seen.append((cell, seconds))

    def expected(self, cell: Cell) -> float:
        """Seconds that the cell may take.

        That is the most that its arm took so far, or any arm with the same training: who comes first trains
        for both. An arm that never was there may take what the dearest did, in proportion to their `cost`.
        """
        arm, name = cell.arm, cell.experiment.name
        if any((earlier.experiment.name, earlier.arm.name) == (name, arm.name) for earlier, _ in self._seen):
            return max(seconds for earlier, seconds in self._seen if _alike(earlier, cell))
        return _cost(arm) * max(
            (seconds / _cost(earlier.arm) for earlier, seconds in self._seen), default=0.0
        )

    def too_late(self, cell: Cell) -> str:
        """Why the cell is not to begin any more; "" where it may."""
        plan, gone = self._plan, self.now() - self._began
        if plan.minutes is not None and gone > plan.minutes * 60:
            return f"the {plan.minutes:g} minutes were over"
        if plan.within is not None and gone + SLACK * self.expected(cell) > plan.within * 60 - CLOSING:
            return f"it did not fit into {plan.within:g} minutes"
        return ""


def _cost(arm: Arm) -> float:
    return arm.cost * (1.0 if arm.trains else _DRAWING)


def _alike(earlier: Cell, cell: Cell) -> bool:
    if (earlier.experiment.name, earlier.arm.name) == (cell.experiment.name, cell.arm.name):
        return True
    return earlier.arm.trains == cell.arm.trains and earlier.arm.settings == cell.arm.settings
