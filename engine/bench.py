"""Measuring what the project claims: the Miniature as an instrument, and the papers' claims on it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .config import one_of
from .console import ConsoleObserver, meter
from .demo import run_demo
from .evaluation.card import measure
from .evaluation.claims import EXPERIMENTS, experiment
from .evaluation.claims.bench import Bench
from .evaluation.claims.run import QUICK_MINUTES, QUICK_PEOPLE, run_claims
from .evaluation.claims.table import Plan, Row

BASELINES = ("dreambooth-lora", "textual-inversion")
FIGURES = (
    "identity_before",
    "identity_after",
    "identity_reference",
    "prompt_accuracy_base",
    "prompt_accuracy",
)


def learnability(people: Sequence[int], method: str) -> dict[str, Any]:
    """What learning each of `people` (seeds of the demo) from four pictures brings, on average."""
    reports = []
    for person in people:
        with TemporaryDirectory() as folder:
            reports.append(run_demo(method, person, Path(folder), ConsoleObserver(method), rounds=1))
    means = {name: round(float(np.mean([report[name] for report in reports])), 4) for name in FIGURES}
    gains = [report["identity_after"] - report["identity_before"] for report in reports]
    return {**means, "least_identity_gain": round(min(gains), 4), "people": len(people)}


def measure_miniature(people: int, drawn: int, learners: int) -> dict[str, Any]:
    """The Miniature's card; with `learners`, also what the baselines learn on it (two minutes each)."""
    card = measure(people, drawn)
    if learners:
        card["learnability"] = {method: learnability(range(learners), method) for method in BASELINES}
    return card


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
