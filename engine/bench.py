"""Measuring what the project claims: the Miniature as an instrument, and the papers' claims on it."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from .config import one_of
from .console import meter, note
from .evaluation.card import gates, measure
from .evaluation.claims import EXPERIMENTS, experiment
from .evaluation.claims.bench import Bench
from .evaluation.claims.run import QUICK_MINUTES, QUICK_PEOPLE, run_claims
from .evaluation.claims.sweep import Sweep, run_sweep, values_of
from .evaluation.claims.table import Plan, Row
from .evaluation.gallery import write_sheets
from .evaluation.learnability import all_cells, measure_learnability


def measure_miniature(people: int, drawn: int, learnability: bool, keep: Path) -> dict[str, Any]:
    """The Miniature's card, and what it misses told on stderr; `learnability` takes an hour or two.

    What is learned is kept in the folder `keep`: the same command goes on where it was interrupted.
    """
    card = measure(people, drawn)
    if learnability:
        cells = all_cells()
        with meter("learning") as show:
            done = count(1)
            card["learnability"] = measure_learnability(
                keep, cells, lambda key, cell: show(next(done), len(cells), f"{cell['identity']:.2f}")
            )
    for gate in gates(card):
        note(str(gate))
    return card


def draw_sheets(folder: Path, keep: Path) -> None:
    """Draws the README's sheets of the Miniature into `folder`; people learned are found in `keep`."""
    for path in write_sheets(folder, Bench(keep)):
        note(f"look at {path}")


def measure_claims(out: Path, names: Sequence[str], people: int, quick: bool, **plan: Any) -> str:
    """Runs the experiments of these names (none: all) and writes the report; gives the table as text."""
    for name in names:
        one_of("experiment", name, EXPERIMENTS)
    chosen = [experiment(name) for name in names or EXPERIMENTS]
    people = people or (QUICK_PEOPLE if quick else Plan.people)
    if quick and plan.get("minutes") is None:
        plan["minutes"] = QUICK_MINUTES
    with meter("measuring") as show:
        rows = run_claims(chosen, Plan(people=people, quick=quick, **plan), Bench(out, quick=quick), show)
    return as_text(rows)


def measure_sweep(out: Path, method: str, values: Sequence[str], quick: bool, **plan: Any) -> dict[str, Any]:
    """Runs a sweep over `name=value,value` settings and gives what it recorded."""
    sweep = Sweep(method, dict(values_of(text) for text in values))
    with meter("measuring") as show:
        return run_sweep(sweep, Bench(out, quick=quick), on_cell=show, **plan)


def as_text(rows: Sequence[Row]) -> str:
    """The table of claims for a terminal."""
    lines = []
    for row in rows:
        claim = row.claim
        if row.found is None:
            lines.append(f"·  {claim.claim}: not measured in this run")
            continue
        found, mark = row.found, "✓" if row.holds else "✗"
        lines.append(
            f"{mark}  {claim.claim}: {claim.metric} {found.value:.3f} against {found.other:.3f}, difference "
            f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], {found.people} people"
        )
    return "\n".join(lines)
