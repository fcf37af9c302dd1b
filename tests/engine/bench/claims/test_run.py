"""The claims run: what a table says, that it is found again, and that broken methods are caught."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.bench.claims import EXPERIMENTS, experiment
from likeness_portraits.engine.bench.claims.bench import Arm, Bench, Claim
from likeness_portraits.engine.bench.claims.run import cells_of, run_claims
from likeness_portraits.engine.bench.claims.statistics import Comparison
from likeness_portraits.engine.bench.claims.table import Plan, holds
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import world

COLUMNS = ["claim", "paper", "method", "against", "metric", "value", "other", "difference", "low", "high",
           "holds"]  # fmt: skip


class Lengths:
    """An experiment without any network: its numbers follow from person and seed."""

    name, paper = "lengths", "none"
    arms = (Arm(name="long"), Arm(name="short"), Arm(name="absent", headline=False))
    claims = (
        Claim(claim="long is longer", method="long", against="short", metric="length"),
        Claim(claim="short is not", method="short", against="long", metric="length"),
        Claim(claim="nobody measured it", method="long", against="absent", metric="length"),
    )

    def __init__(self) -> None:
        self.measured: list[tuple[str, int, int]] = []

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        if arm.name == "absent":
            raise LikenessError("it is not there")
        self.measured.append((arm.name, person, seed))
        rng = np.random.default_rng([person, seed])
        return {"length": list(rng.uniform(0, 1, 3) + (arm.name == "long"))}


def test_the_table_says_what_holds_and_leaves_out_what_was_not_measured(tmp_path: Path):
    rows = run_claims([Lengths()], Plan(people=4), Bench(tmp_path))
    assert [row.holds for row in rows] == [True, False, None] and rows[2].found is None
    told = json.loads((tmp_path / "claims.json").read_text())
    assert [list(row) for row in told] == [COLUMNS] * 2
    assert told[0]["difference"] == pytest.approx(1.0) and told[0]["holds"] is True


def test_cells_that_are_there_are_not_measured_again_and_the_table_stays_the_same(tmp_path: Path):
    first, again = Lengths(), Lengths()
    run_claims([first], Plan(people=2), Bench(tmp_path))
    table = (tmp_path / "claims.json").read_bytes()
    run_claims([again], Plan(people=2), Bench(tmp_path))
    assert len(first.measured) == 4 and again.measured == []
    assert (tmp_path / "claims.json").read_bytes() == table
    run_claims([again], Plan(people=3), Bench(tmp_path))
    assert {person for _, person, _ in again.measured} == {world.REPORTING_SEEDS[2]}


if sys.platform != "win32":
    import fcntl


class Busy(Lengths):
    """Its first cell is another run's until the second is done."""

    def __init__(self, lock: Path) -> None:
        super().__init__()
        self.other = open(lock, "a")  # noqa: SIM115 (held open on purpose)
        fcntl.flock(self.other, fcntl.LOCK_EX)

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        self.other.close()
        return super().measure(arm, person, seed, bench)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_two_runs_on_one_folder_share_the_cells_between_them(tmp_path: Path):
    bench, plan = Bench(tmp_path), Plan(people=1, quick=True)
    first = next(cells_of([Lengths()], plan))
    (tmp_path / "locks").mkdir()
    busy = Busy(tmp_path / "locks" / f"lengths-{first.file(bench).stem}")
    rows = run_claims([busy], plan, bench)
    assert [name for name, _, _ in busy.measured] == ["short", "long"] and rows[0].found is not None


def test_another_folder_gives_the_same_table(tmp_path: Path):
    for name in ("a", "b"):
        run_claims([Lengths()], Plan(people=3, seeds=2), Bench(tmp_path / name))
    assert (tmp_path / "a" / "claims.json").read_bytes() == (tmp_path / "b" / "claims.json").read_bytes()


class Dots(Lengths):
    """The same, with metrics that the frontier shows and a picture."""

    name = "dots"

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        lengths = super().measure(arm, person, seed, bench)["length"]
        bench.pictures(arm.name, lambda: np.full((3, 8, 8, 3), 90, np.uint8))
        return {"length": lengths, "identity": lengths, "prompt": [1 - value for value in lengths]}


@pytest.mark.parametrize("people", [1, 4])
def test_the_report_is_one_file_with_table_plots_and_pictures(tmp_path: Path, people: int):
    run_claims([Dots(), Lengths()], Plan(people=people), Bench(tmp_path))
    report = (tmp_path / "report.html").read_text("utf-8")
    assert "long is longer" in report and "nobody measured it" in report
    assert report.count("<svg") >= 3 and report.count("data:image/jpeg") == 2
    assert "<script" not in report and 'src="http' not in report


def test_people_are_completed_one_by_one_and_come_from_the_reporting_split():
    cells = list(cells_of([Lengths()], Plan(people=2, seeds=2)))
    assert [cell.person for cell in cells[:6]] == [200_000] * 3 + [200_001] * 3
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6
    assert not set(world.REPORTING_SEEDS) & set(world.TUNING_SEEDS)
    assert next(cells_of([Lengths()], Plan(tuning=True))).person in world.TUNING_SEEDS


def test_a_run_out_of_time_reports_what_it_has(tmp_path: Path):
    run_claims([Lengths()], Plan(people=2), Bench(tmp_path))
    late = Lengths()
    rows = run_claims([late], Plan(people=9, minutes=0.0), Bench(tmp_path))
    assert late.measured == [] and rows[0].found.people == 2


@pytest.mark.parametrize(
    ("better", "margin", "expected"),
    [("higher", 0, None), ("lower", 0, None), ("not lower", 0.2, True), ("not lower", 0.05, None),
     ("not higher", 0.4, True), ("not higher", 0.2, None)],
)  # fmt: skip
def test_a_claim_holds_when_its_whole_interval_is_on_its_side(
    better: str, margin: float, expected: bool | None
):
    judged(better, margin, (-0.1, 0.3), expected)


@pytest.mark.parametrize(
    ("better", "margin", "interval", "expected"),
    [("higher", 0, (0.1, 0.3), True), ("higher", 0, (-0.3, -0.1), False), ("higher", 0, (0, 0), None),
     ("lower", 0, (0.1, 0.3), False), ("lower", 0, (-0.3, -0.1), True), ("lower", 0, (0, 0), None),
     ("not lower", 0.2, (-0.5, -0.3), False), ("not higher", 0.2, (0.3, 0.5), False),
     ("not lower", 0.2, (-0.5, -0.1), None), ("not higher", 0.2, (0.1, 0.5), None)],
)  # fmt: skip
def test_a_claim_is_contradicted_when_its_whole_interval_is_on_the_other_side(
    better: str, margin: float, interval: tuple[float, float], expected: bool | None
):
    judged(better, margin, interval, expected)


def judged(better: str, margin: float, interval: tuple[float, float], expected: bool | None) -> None:
    low, high = interval
    found = Comparison(value=0, other=0, difference=(low + high) / 2, low=low, high=high, people=5)
    claim = Claim(claim="c", method="a", against="b", metric="m", better=better, margin=margin)
    assert holds(claim, found) is expected


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_compares_arms_that_it_has(name: str):
    chosen = experiment(name)
    arms = {arm.name for arm in chosen.arms}
    assert chosen.name == name and len(arms) == len(chosen.arms)
    assert {claim.method for claim in chosen.claims} | {claim.against for claim in chosen.claims} <= arms
    assert any(claim.better in ("higher", "lower") for claim in chosen.claims)  # not only "no worse"
