"""The run of `likeness bench claims`: cells, the table of claims, and when to stop.

A cell is one arm with one person and one training seed; each is written whole to its own file under `cells`,
and a cell whose file is there is not measured again. Cells come in an order that completes people one by one,
in a quick run the most telling ones first.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import LikenessError
from ...files import write_atomically
from . import EXPERIMENTS
from .bench import WAIT, Arm, Bench, Experiment
from .locks import held
from .pace import Pace
from .report import write_claims_report
from .statistics import SampleValues
from .table import Cell, Measured, Outcome, Plan, Row, claims_table
from .words import as_markdown, record_of

log = logging.getLogger(__name__)

QUICK_PEOPLE, QUICK_MINUTES = 2, 15.0
NOT_QUICK = "an ablation: only in a full run"
_VALUES = re.compile(r'"values": \{[^}]*\}')  # many short lists: on one line
OnCell = Callable[[int, int, str], None]  # cells done, of how many, the cell that comes


def arms_of(experiment: Experiment, quick: bool) -> list[Arm]:
    """The arms to run; a quick run leaves the ablations out."""
    return [arm for arm in experiment.arms if arm.headline or not quick]


def cells_of(experiments: Sequence[Experiment], plan: Plan) -> Iterator[Cell]:
    """All cells: the first training seed of everybody first, person by person.

    In a quick run the arms of every experiment's first claim come before the rest, for everybody.
    """
    for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
        of_seed = [
            Cell(experiment=experiment, arm=arm, person=plan.person(number), seed=seed)
            for number in range(plan.people)
            for experiment in experiments
            for arm in arms_of(experiment, plan.quick)
        ]
        yield from sorted(of_seed, key=lambda cell: not _leads(cell)) if plan.quick else of_seed


def _leads(cell: Cell) -> bool:
    """Whether the first claim of its experiment needs the cell."""
    return any(cell.arm.name in (claim.method, claim.against) for claim in cell.experiment.claims[:1])


def measure_all(
    experiments: Sequence[Experiment], plan: Plan, bench: Bench, on_cell: OnCell | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Outcome:  # fmt: skip
    """Measures what is not there yet and gives all that is; a cell that cannot be is named and left out."""
    run = _Run(list(cells_of(experiments, plan)), bench, Pace(plan, now), on_cell)
    if plan.measure:
        run.go()
    measured = [cell_measured for cell in run.cells if (cell_measured := _read(cell, bench)) is not None]
    ablations = [
        (Cell(experiment=experiment, arm=arm, person=plan.person(0), seed=plan.first_seed), NOT_QUICK)
        for experiment in experiments for arm in experiment.arms if plan.quick and not arm.headline
    ]  # fmt: skip
    return Outcome(measured=measured, left_out=[*ablations, *run.left_out])


class _Run:
    """The cells of a run, each in its turn."""

    def __init__(self, cells: list[Cell], bench: Bench, pace: Pace, on_cell: OnCell | None) -> None:
        self.cells, self.left_out = cells, list[tuple[Cell, str]]()
        self._bench, self._pace, self._on_cell = bench, pace, on_cell

    def go(self) -> None:
        for cell in self.cells:
            if (earlier := _read(cell, self._bench)) is not None:
                self._pace.saw(cell, earlier.seconds)
        left = list(enumerate(self.cells))
        while left:
            elsewhere = [(number, cell) for number, cell in left if not self._turn(number, cell)]
            if elsewhere == left:
                time.sleep(WAIT)
            left = elsewhere

    def _turn(self, number: int, cell: Cell) -> bool:
        """Measures the cell unless it is there or too late; False where another run is at it."""
        file = cell.file(self._bench)
        if file.exists():
            return True
        if reason := self._pace.too_late(cell):
            self.left_out.append((cell, reason))
            return True
        if self._on_cell is not None:
            self._on_cell(number, len(self.cells), f"{cell.experiment.name}: {cell.name}")
        with held(self._bench.folder / "locks", f"{cell.experiment.name}-{file.stem}") as ours:
            if ours and not file.exists():
                self._measure(cell, file)
            return ours

    def _measure(self, cell: Cell, file: Path) -> None:
        try:
            kept = _measured(cell, self._bench, self._pace.now)
        except LikenessError as error:
            log.warning("%s of %s was left out: %s", cell.name, cell.experiment.name, error)
            self.left_out.append((cell, f"left out: {error}"))
            return
        self._pace.saw(cell, kept["seconds"])
        with write_atomically(file) as temporary:
            temporary.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


def _read(cell: Cell, bench: Bench) -> Measured | None:
    file = cell.file(bench)
    if not file.exists():
        return None
    kept = json.loads(file.read_text("utf-8"))
    return Measured(cell=cell, metrics=kept["metrics"], seconds=kept["seconds"], drawn=tuple(kept["drawn"]))


def _measured(cell: Cell, bench: Bench, now: Callable[[], float]) -> dict[str, Any]:
    """What the cell's file is to hold."""
    started = now()
    bench.drawn.clear()
    with bench.training_only(cell.arm.trains):
        metrics = cell.experiment.measure(cell.arm, cell.person, cell.seed, bench)
    return {
        "experiment": cell.experiment.name, "arm": cell.arm.name, "person": cell.person, "seed": cell.seed,
        "metrics": {name: _plain(value) for name, value in metrics.items()},
        "drawn": list(bench.drawn), "seconds": round(now() - started, 1),
    }  # fmt: skip


def _plain(value: SampleValues) -> float | list[float]:
    return [float(entry) for entry in value] if np.ndim(value) else float(value)  # pyright: ignore


def run_claims(
    experiments: Sequence[Experiment], plan: Plan, bench: Bench, on_cell: OnCell | None = None,
    now: Callable[[], float] = time.monotonic,
) -> list[Row]:  # fmt: skip
    """Measures, writes the table and the report into the bench's folder, and gives the table.

    `claims.json` has the measured rows; `record.json` also has their people, what is missing and how all of
    it came about, and `claims.md` is that for people; `report.html` has plots and pictures.
    """
    outcome = measure_all(experiments, plan, bench, on_cell, now)
    rows = claims_table(experiments, outcome)
    record = record_of(rows, plan, _command(experiments, plan), bench.instrument)
    texts = {
        "claims.json": _json([row.plain() for row in rows if row.found is not None]),
        "record.json": _json(record),
        "claims.md": as_markdown(record),
    }
    for name, text in texts.items():
        with write_atomically(bench.folder / name) as temporary:
            temporary.write_text(text, "utf-8")
    write_claims_report(bench.folder / "report.html", experiments, plan, bench, outcome.measured, rows)
    return rows


def _json(plain: object) -> str:
    text = json.dumps(plain, indent=1) + "\n"
    return _VALUES.sub(lambda match: " ".join(match[0].split()), text)


def _command(experiments: Sequence[Experiment], plan: Plan) -> str:
    """The command that makes this table, but for its folder."""
    names = [experiment.name for experiment in experiments]
    parts = ["likeness bench claims"]
    if names != list(EXPERIMENTS):
        parts += [f"--method {name}" for name in names]
    parts += ["--quick"] * plan.quick + ["--tuning"] * plan.tuning
    parts += [f"--seeds {plan.seeds}"] * (plan.seeds > 1) + [f"--seed {plan.first_seed}"] * (
        plan.first_seed > 0
    )
    return " ".join([*parts, "--out DIR"])
