"""Measuring what the project claims: so far, what the Miniature is worth as an instrument."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .console import ConsoleObserver
from .demo import run_demo
from .evaluation.card import measure

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
