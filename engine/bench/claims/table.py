"""The table of claims: what a run is to measure, its cells, and what their numbers say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import LikenessError
from ...miniature import world
from .bench import Arm, Bench, Claim, Experiment, Metrics, cell_digest, resolved
from .statistics import Comparison, SampleValues, compare


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    people: int = 8  # the first so many of the reporting people
    seeds: int = 1  # trainings per person and arm
    first_seed: int = 0  # the first training's seed
    quick: bool = False  # headline arms and fewer pictures, every experiment's first claim before the rest
    minutes: float | None = None  # begin no cell after so long; None: go on to the end
    within: float | None = None  # minutes: begin only what ends by then, as far as can be told
    measure: bool = True  # False: only read what is there
    tuning: bool = False  # on the tuning people instead, to choose settings by

    def person(self, number: int) -> int:
        """The seed of the run's `number`-th person."""
        pool = world.TUNING_SEEDS if self.tuning else world.REPORTING_SEEDS
        if not 0 <= number < len(pool):
            raise LikenessError(
                f"there are {len(pool)} people to measure on; ask for fewer than {number + 1}"
            )
        return pool[number]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the big table."""

    experiment: Experiment
    arm: Arm
    person: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}-p{self.person}-s{self.seed}"

    def key(self, bench: Bench) -> str:
        """What the cell's numbers depend on, beside the code: of presets, those of the methods it trains."""
        presets = {method: resolved(method, {}) for method in self.arm.trains}
        return cell_digest(
            self.experiment.name, self.arm.method, dict(self.arm.settings), dict(self.arm.options), presets,
            self.person, self.seed, bench.quick, bench.sampling_steps, bench.instrument,
        )  # fmt: skip

    def file(self, bench: Bench) -> Path:
        return bench.folder / "cells" / self.experiment.name / f"{self.name}-{self.key(bench)[:8]}.json"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A cell with its numbers."""

    cell: Cell
    metrics: Metrics
    seconds: float
    drawn: tuple[str, ...]  # files of its pictures, in the bench's folder `drawn`


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves: the cells that are there, and why others are not."""

    measured: Sequence[Measured]
    left_out: Sequence[tuple[Cell, str]] = ()

    def why_not(self, experiment: Experiment, claim: Claim) -> str:
        """Why the claim's arms were never measured on the same person."""
        for cell, reason in self.left_out:
            if cell.experiment.name == experiment.name and cell.arm.name in (claim.method, claim.against):
                return reason
        return "not yet"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A claim as it came out; None where its cells are missing."""

    claim: Claim
    paper: str
    experiment: str
    found: Comparison | None
    missing: str = ""  # why nothing was found

    @property
    def holds(self) -> bool | None:
        """Whether it holds; None: undecided, or nothing was measured."""
        return None if self.found is None else holds(self.claim, self.found)

    def plain(self) -> dict[str, Any]:
        """The row as `claims.json` has it."""
        assert self.found is not None
        numbers = {key: round(getattr(self.found, key), 4)
                   for key in ("value", "other", "difference", "low", "high")}  # fmt: skip
        words = self.claim
        return {
            "claim": words.claim, "paper": self.paper, "method": words.method, "against": words.against,
            "metric": words.metric, **numbers, "holds": self.holds,
        }  # fmt: skip


def holds(claim: Claim, compared: Comparison) -> bool | None:
    """True: the whole interval lies on the claim's side; False: all of it on the other; None: undecided."""
    low, high, margin = compared.low, compared.high, claim.margin
    for_it, against_it = {
        "higher": (low > 0, high < 0),
        "lower": (high < 0, low > 0),
        "not lower": (low >= -margin, high < -margin),
        "not higher": (high <= margin, low > margin),
    }[claim.better]
    return True if for_it else False if against_it else None


def claims_table(experiments: Sequence[Experiment], outcome: Outcome) -> list[Row]:
    """Every claim, measured or not, in the experiments' order."""
    rows, measured = [], outcome.measured
    for experiment in experiments:
        for claim in experiment.claims:
            first, second = (
                values_by_person(measured, experiment, arm, claim.metric)
                for arm in (claim.method, claim.against)
            )
            seed = int(cell_digest(experiment.name, claim.claim, claim.metric)[:8], 16)
            compared = compare(*_common(first, second), seed)
            missing = "" if compared else outcome.why_not(experiment, claim)
            row = Row(claim=claim, paper=experiment.paper, experiment=experiment.name, found=compared,
                      missing=missing)  # fmt: skip
            rows.append(row)
    return rows


def values_by_person(
    measured: Sequence[Measured], experiment: Experiment, arm: str, metric: str
) -> dict[int, dict[int, SampleValues]]:
    """The metric of one arm: by person, then by training seed."""
    values: dict[int, dict[int, SampleValues]] = {}
    for entry in measured:
        cell = entry.cell
        if cell.experiment.name == experiment.name and cell.arm.name == arm and metric in entry.metrics:
            values.setdefault(cell.person, {})[cell.seed] = entry.metrics[metric]
    return values


def _common(
    first: dict[int, dict[int, SampleValues]], second: dict[int, dict[int, SampleValues]]
) -> tuple[dict[int, list[SampleValues]], dict[int, list[SampleValues]]]:
    """What both arms have, in the same order."""
    seeds = {
        person: sorted(first[person].keys() & second[person].keys())
        for person in first.keys() & second.keys()
    }
    return tuple({person: [arm[person][seed] for seed in of] for person, of in seeds.items() if of}
                 for arm in (first, second))  # type: ignore[return-value]  # fmt: skip
