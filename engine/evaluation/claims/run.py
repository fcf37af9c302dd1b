"""The run of `likeness bench claims`: cells, the table of claims, and when to stop.

A cell is one arm with one person and one training seed; each is written whole to its own file under `cells`,
and a cell whose file is there is not measured again. Cells come in an order that completes people one by one.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...errors import LikenessError
from ...files import write_atomically
from .bench import WAIT, Arm, Bench, Experiment
from .locks import held
from .report import write_report
from .statistics import Values
from .table import Cell, Measured, Plan, Row, table

log = logging.getLogger(__name__)

QUICK_PEOPLE, QUICK_MINUTES = 2, 13.0
OnCell = Callable[[int, int, str], None]  # cells done, of how many, the cell that comes


def arms_of(experiment: Experiment, quick: bool) -> list[Arm]:
    """The arms to run; a quick run leaves the ablations out."""
    return [arm for arm in experiment.arms if arm.headline or not quick]


def cells_of(experiments: Sequence[Experiment], plan: Plan) -> Iterator[Cell]:
    """All cells: the first training seed of everybody first, person by person."""
    for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
        for number in range(plan.people):
            for experiment in experiments:
                for arm in arms_of(experiment, plan.quick):
                    yield Cell(experiment=experiment, arm=arm, person=plan.person(number), seed=seed)


def measure_all(
    experiments: Sequence[Experiment], plan: Plan, bench: Bench, on_cell: OnCell | None = None
) -> list[Measured]:
    """Measures what is not there yet and gives all that is; a cell that cannot be is named and left out."""
    started, cells = time.monotonic(), list(cells_of(experiments, plan))

    def late() -> bool:
        return plan.minutes is not None and time.monotonic() - started > plan.minutes * 60

    def done(cell: Cell) -> bool:
        if on_cell is not None:
            on_cell(cells.index(cell), len(cells), f"{cell.experiment.name}: {cell.name}")
        return _done(cell, bench)

    left = cells
    while left and not late():
        elsewhere = [cell for cell in left if not late() and not done(cell)]  # another run is at them
        if elsewhere == left:
            time.sleep(WAIT)
        left = elsewhere
    return [measured for cell in cells if (measured := _read(cell, bench)) is not None]


def _done(cell: Cell, bench: Bench) -> bool:
    """Measures the cell unless it is there; False where another run is at it."""
    file = cell.file(bench)
    if file.exists():
        return True
    with held(bench.folder / "locks", f"{cell.experiment.name}-{file.stem}") as ours:
        if ours and not file.exists():
            try:
                _measure(cell, bench, file)
            except LikenessError as error:
                log.warning("%s of %s was left out: %s", cell.name, cell.experiment.name, error)
        return ours


def _read(cell: Cell, bench: Bench) -> Measured | None:
    file = cell.file(bench)
    if not file.exists():
        return None
    kept = json.loads(file.read_text("utf-8"))
    return Measured(cell=cell, metrics=kept["metrics"], seconds=kept["seconds"], drawn=tuple(kept["drawn"]))


def _measure(cell: Cell, bench: Bench, file: Path) -> None:
    started = time.monotonic()
    bench.drawn.clear()
    with bench.training_only(cell.arm.trains):
        metrics = cell.experiment.measure(cell.arm, cell.person, cell.seed, bench)
    kept = {
        "experiment": cell.experiment.name, "arm": cell.arm.name, "person": cell.person, "seed": cell.seed,
        "metrics": {name: _plain(value) for name, value in metrics.items()},
        "drawn": list(bench.drawn), "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


def _plain(value: Values) -> float | list[float]:
    return [float(entry) for entry in value] if np.ndim(value) else float(value)  # pyright: ignore


def run_claims(
    experiments: Sequence[Experiment], plan: Plan, bench: Bench, on_cell: OnCell | None = None
) -> list[Row]:
    """Measures, writes `claims.json` and `report.html` into the bench's folder, and gives the table."""
    measured = measure_all(experiments, plan, bench, on_cell)
    rows = table(experiments, measured)
    with write_atomically(bench.folder / "claims.json") as temporary:
        lines = [row.plain() for row in rows if row.found is not None]
        temporary.write_text(json.dumps(lines, indent=1) + "\n", "utf-8")
    write_report(bench.folder / "report.html", experiments, plan, bench, measured, rows)
    return rows
