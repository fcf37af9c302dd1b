"""The report of a claims run: tables, plots and pictures in one HTML file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...evaluation.page import heading, page_picture, paragraph, table, write_page
from ...evaluation.plots import Bar, Point, bars, frontier
from ...version import VERSION
from .bench import Arm, Bench, Experiment
from .statistics import ENOUGH_PEOPLE, average
from .table import Measured, Plan, Row, values_by_person
from .words import sentences

_TITLE = "The papers' claims, measured"
_COLUMNS = ("", "claim", "metric", "method", "against", "value", "other", "difference", "95 % interval",
           "people")  # fmt: skip
FRONTIER = ("prompt", "identity")  # metrics across and up
_SHOWN = 8  # pictures of a row


def write_claims_report(
    path: Path,
    experiments: Sequence[Experiment],
    plan: Plan,
    bench: Bench,
    measured: Sequence[Measured],
    rows: Sequence[Row],
) -> Path:
    """One section per experiment: its claims, their differences, the frontier, all arms, some pictures."""
    parts = [*_head(plan, bench, rows)]
    for experiment in experiments:
        of_experiment = [row for row in rows if row.experiment == experiment.name]
        cells = [entry for entry in measured if entry.cell.experiment.name == experiment.name]
        parts += _section(experiment, of_experiment, cells, bench)
    return write_page(path, _TITLE, parts)


def _head(plan: Plan, bench: Bench, rows: Sequence[Row]) -> Iterator[str]:
    first, *more = sentences(rows, plan)
    yield paragraph(first)
    for text in more:
        yield paragraph(text, quiet=True)
    yield paragraph(
        "A claim holds (✓) when the whole 95 % interval of the paired difference lies on its side, is "
        "contradicted (✗) when all of it lies on the other, and is undecided (○) otherwise. From "
        f"{ENOUGH_PEOPLE} people on, the interval is Student's t over people, the side of its longer tail "
        "lengthened for skewness; with fewer people it only resamples their pictures, and speaks of these "
        "people alone.",
        quiet=True,
    )
    yield paragraph(
        "Identity is the cosine by a recogniser that no training uses; a drawing that copies the pose of a "
        "training picture flatters it: look at memorisation and at the pictures too.",
        quiet=True,
    )
    yield paragraph(f"likeness-portraits {VERSION}, Miniature {bench.instrument}.", quiet=True)


def _section(
    experiment: Experiment, rows: Sequence[Row], cells: Sequence[Measured], bench: Bench
) -> Iterator[str]:
    yield heading(f"{experiment.name} ({experiment.paper})")
    if not cells:
        yield paragraph("Not measured in this run.", quiet=True)
        return
    yield table(_COLUMNS, [_line(row) for row in rows if row.found is not None])
    missing = [f"{row.claim.claim} ({row.missing})" for row in rows if row.found is None]
    if missing:
        yield paragraph("Not measured: " + "; ".join(missing) + ".", quiet=True)
    differences = [
        Bar(name=f"{row.claim.metric}: {row.claim.method} − {row.claim.against}", value=row.found.difference,
            low=row.found.low, high=row.found.high, good=row.holds)
        for row in rows if row.found is not None
    ]  # fmt: skip
    if differences:
        yield heading("Differences with their intervals", 3)
        yield bars(differences, "differences")
    points = [point for arm in experiment.arms if (point := _point(arm, experiment, cells))]
    if points:
        yield heading("Identity and prompt", 3)
        yield frontier(points, *FRONTIER)
    yield heading("All arms", 3)
    yield _all_arms(experiment, cells)
    yield heading("Pictures of the first person", 3)
    yield from _pictures(experiment, cells, bench)


def _line(row: Row) -> tuple[object, ...]:
    claim, result = row.claim, row.found
    assert result is not None
    direction = claim.better if not claim.margin else f"{claim.better} by more than {claim.margin:g}"
    interval = f"{result.low:+.3f} … {result.high:+.3f}"
    return (
        row.holds, claim.claim, f"{claim.metric}, {direction}", claim.method, claim.against, result.value,
        result.other, result.difference, interval, result.people,
    )  # fmt: skip


def _point(arm: Arm, experiment: Experiment, cells: Sequence[Measured]) -> Point | None:
    across, up = (average(values_by_person(cells, experiment, arm.name, metric)) for metric in FRONTIER)
    if across is None or up is None:
        return None
    return Point(name=arm.name, x=across[0], y=up[0], x_range=across[1:], y_range=up[1:])


def _all_arms(experiment: Experiment, cells: Sequence[Measured]) -> str:
    """The mean of every metric of every arm, what the arm is, and what it cost."""
    metrics = list(dict.fromkeys(name for entry in cells for name in entry.metrics))
    lines = []
    for arm in experiment.arms:
        of_arm = [entry for entry in cells if entry.cell.arm.name == arm.name]
        if not of_arm:
            continue
        means = [average(values_by_person(cells, experiment, arm.name, metric)) for metric in metrics]
        means_in_words = [f"{mean[0]:.3f}" if mean else "" for mean in means]
        changes = ", ".join(f"{key} {value}" for key, value in {**arm.settings, **arm.options}.items())
        lines.append((arm.name, arm.method or "nothing learned", changes, len(of_arm), *means_in_words))
    return table(("arm", "method", "changes on its preset", "cells", *metrics), lines)


def _pictures(experiment: Experiment, cells: Sequence[Measured], bench: Bench) -> Iterator[str]:
    """The first pictures that each arm drew of the first person."""
    first = cells[0].cell
    for arm in experiment.arms:
        for entry in cells:
            cell = entry.cell
            if (cell.arm.name, cell.person, cell.seed) != (arm.name, first.person, first.seed):
                continue
            files = [bench.folder / "drawn" / name for name in entry.drawn]
            drawn = [np.load(file, allow_pickle=False) for file in files if file.exists()]
            if drawn:
                yield page_picture(np.concatenate(list(drawn[0][:_SHOWN]), axis=1), arm.name)
