"""Choosing a method's settings: every combination on the tuning people, who are never reported on."""

import itertools
import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ...config import METHODS, known_keys, one_of
from ...errors import LikenessError
from ...files import write_atomically
from . import experiment
from .bench import Arm, Bench, Claim, Metrics, own_settings
from .report import write_claims_report
from .run import OnCell, measure_all
from .statistics import average
from .table import Plan, values_by_person

_MOST = 64  # combinations
TOLERANCE = 0.05  # of prompt accuracy, below the best, that likeness may cost
_OWN = ("magictailor", "magicapture", "masterweaver")  # what learns no person alone: scored as in its claims
GOALS = ("identity", "component", "style", "edits")  # whose mean a choice is made by, as far as measured
_SHOWN = (*GOALS, "prompt", "leakage")


class Sweep:
    """An experiment whose arms are combinations of settings; it claims nothing.

    Each is scored as the method's own experiment does, from the settings that its arms have in common; a
    method that learns a person alone, as a portrait.
    """

    paper = "a sweep on the tuning people"
    claims: Sequence[Claim] = ()

    def __init__(self, method: str, values: Mapping[str, Sequence[Any]], pictures: int | None = None) -> None:
        """`pictures`: of each person that are learned from, for a method that learns a person alone; None:
        all four."""
        one_of("method", method, METHODS)
        if pictures is not None and method in _OWN:
            raise LikenessError(f"{method} is measured on pictures of its own; leave their number away")
        known_keys(METHODS[method], own_settings(values), "the sweep")
        combinations = [dict(zip(values, combination)) for combination in itertools.product(*values.values())]
        if not values or len(combinations) > _MOST:
            raise LikenessError(
                f"a sweep has 1 to {_MOST} combinations, this one {len(combinations)}; change it"
            )
        self.pictures = pictures
        self.name = f"sweep-{method}" + ("" if pictures is None else f"-from-{pictures}")
        self._own = experiment(method) if method in _OWN else None
        self.alike: Mapping[str, Any] = getattr(self._own, "alike", {})
        self.swept = tuple(values)
        self.arms = tuple(
            Arm(name=", ".join(f"{key} {value}" for key, value in settings.items()), method=method,
                settings={**self.alike, **settings})
            for settings in combinations
        )  # fmt: skip

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> Metrics:
        if self._own is not None:
            return self._own.measure(arm, person, seed, bench)
        return bench.portrait(arm, person, seed, self.pictures)


def run_sweep(
    sweep: Sweep, bench: Bench, *, people: int = 3, seeds: int = 1, minutes: float | None = None,
    on_cell: OnCell | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measures, writes `sweep.json` and `report.html` into the bench's folder, and gives what was written.

    Chosen is the combination with the highest mean of `GOALS` among those that obey prompts about as well as
    any. What was written: of every combination its `settings` and scores; `alike`, what they have in common
    beside the preset.
    """
    plan = Plan(people=people, seeds=seeds, minutes=minutes, tuning=True, quick=bench.quick)
    measured = measure_all([sweep], plan, bench, on_cell).measured
    lines = []
    for arm in sweep.arms:
        means = {metric: average(values_by_person(measured, sweep, arm.name, metric)) for metric in _SHOWN}
        if means["identity"] is not None:
            scores = {name: [round(number, 4) for number in score] for name, score in means.items() if score}
            settings = {name: arm.settings[name] for name in sweep.swept}
            lines.append({"settings": settings, **scores, "chosen": False})
    if lines:
        _best(lines)["chosen"] = True
    record = {
        "method": sweep.arms[0].method, "alike": dict(sweep.alike),
        **({} if sweep.pictures is None else {"pictures": sweep.pictures}),
        "people": [plan.person(n) for n in range(people)], "seeds": seeds,
        "miniature": bench.instrument, "columns": "mean, low, high of the 95 % interval", "lines": lines,
    }  # fmt: skip
    with write_atomically(bench.folder / "sweep.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    write_claims_report(bench.folder / "report.html", [sweep], plan, bench, measured, [])
    return record


def _best(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    least = max(line["prompt"][0] for line in lines) - TOLERANCE
    obedient = [line for line in lines if line["prompt"][0] >= least]
    return max(obedient, key=lambda line: fmean(line[goal][0] for goal in GOALS if goal in line))


def sweep_values(text: str) -> tuple[str, list[Any]]:
    """`rank=4,8` as a setting and its values, each read as on the command line."""
    import yaml

    name, _, listed = text.partition("=")
    try:
        values = yaml.safe_load(f"[{listed}]")
    except yaml.YAMLError:
        values = []
    if not name.strip() or not values:
        raise LikenessError(f"'{text}' is no setting with values; write it like rank=4,8,16")
    return name.strip().replace("-", "_"), values
