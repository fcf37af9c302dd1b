"""Measuring what the project claims: the Miniature as an instrument, and the papers' claims on it."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from ..config import BaseSpec, one_of
from ..config.specs import MINIATURES
from ..console import meter, note
from ..errors import LikenessError
from ..miniature import model, world
from .card import gates, measure_card, measure_second_card, second_gates
from .claims import EXPERIMENTS, experiment
from .claims.bench import Bench
from .claims.record import check_checkout, published
from .claims.run import QUICK_MINUTES, QUICK_PEOPLE, run_claims
from .claims.sweep import Sweep, run_sweep, sweep_values
from .claims.table import Plan
from .claims.words import as_text
from .gallery import write_sheets
from .learnability import SECOND_SEEDS, SEEDS, all_cells, measure_learnability


def measure_miniature(
    people: int, drawn: int, learnability: bool, keep: Path, kind: str = MINIATURES[0]
) -> dict[str, Any]:
    """A Miniature's card, and what it misses told on stderr; `learnability` takes an hour or two.

    What is learned is kept in the folder `keep`: the same command goes on where it was interrupted.
    """
    spec = _miniature(kind)
    first = kind == MINIATURES[0]
    card = (measure_card if first else measure_second_card)(people, drawn)
    if learnability:
        cells = all_cells(seeds=SEEDS if first else SECOND_SEEDS)
        with meter("learning") as show:
            done = count(1)
            card["learnability"] = measure_learnability(
                keep, cells, lambda key, cell: show(next(done), len(cells), f"{cell['identity']:.2f}"), spec
            )
    for gate in gates(card) if first else second_gates(card, model.card()):
        note(str(gate))
    return card


def _miniature(kind: str) -> BaseSpec:
    one_of("base", kind, MINIATURES)
    return BaseSpec(kind=kind)


def draw_sheets(folder: Path, keep: Path, kind: str = MINIATURES[0]) -> None:
    """Draws the README's sheets of a Miniature into `folder`; people learned are found in `keep`."""
    for path in write_sheets(folder, Bench(keep, base_spec=_miniature(kind))):
        note(f"look at {path}")


def measure_claims(
    out: Path, names: Sequence[str], people: int, quick: bool, minutes: float | None = None,
    only_table: bool = False, publish: Path | None = None, **plan: Any,
) -> str:  # fmt: skip
    """Runs the experiments of these names (none: all) and writes the report; gives the table as text.

    `only_table` measures nothing and looks for everybody; `publish` is a checkout whose page and record
    are to show the table.
    """
    for name in names:
        one_of("experiment", name, EXPERIMENTS)
    if publish is not None and (quick or names or plan.get("tuning")):
        raise LikenessError(
            "only a full run of all experiments on the reporting people is published; leave out --publish"
        )
    if publish is not None:
        check_checkout(publish)  # before hours of measuring
    experiments = [experiment(name) for name in names or EXPERIMENTS]
    if only_table:
        people = people or len(world.REPORTING_SEEDS)
    limit = {"within": minutes or QUICK_MINUTES} if quick else {"minutes": minutes}
    people = people or (QUICK_PEOPLE if quick else Plan.people)
    whole = Plan(people=people, quick=quick, measure=not only_table, **limit, **plan)
    with meter("measuring") as show:
        rows = run_claims(experiments, whole, Bench(out, quick=quick), show)
    if publish is not None:
        published(out, publish)
    return as_text(rows, whole)


def measure_sweep(
    out: Path, method: str, values: Sequence[str], quick: bool, pictures: int | None = None, **plan: Any
) -> dict[str, Any]:
    """Runs a sweep over `name=value,value` settings and gives what it recorded."""
    sweep = Sweep(method, dict(sweep_values(text) for text in values), pictures)
    with meter("measuring") as show:
        return run_sweep(sweep, Bench(out, quick=quick), on_cell=show, **plan)
