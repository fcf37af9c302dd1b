"""A quick run: it ends in time with its last cell, begins with the most telling ones, says what it left."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from likeness_portraits.engine.bench import run as engine_bench
from likeness_portraits.engine.bench.claims import EXPERIMENTS, experiment
from likeness_portraits.engine.bench.claims.bench import Arm, Bench, Claim
from likeness_portraits.engine.bench.claims.pace import CLOSING, SLACK
from likeness_portraits.engine.bench.claims.run import QUICK_MINUTES, cells_of, run_claims
from likeness_portraits.engine.bench.claims.table import Plan
from likeness_portraits.engine.bench.claims.words import as_text
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError

PAPERS = ("personamagic", "magictailor", "magicapture", "masterweaver")


class Clock:
    """Seconds that pass only while something is measured."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Paper:
    """An experiment whose arms take the given seconds; the first two arms are its first claim."""

    paper = "none"

    def __init__(self, name: str, clock: Clock, **seconds: float) -> None:
        self.name, self.clock, self.seconds = name, clock, seconds
        self.begun: list[tuple[str, int]] = []
        self.arms = tuple(
            Arm(name=arm, settings={"of": f"{name} {arm}"}, cost=8.0 if arm == "dear" else 1.0)
            for arm in seconds
        )
        first, *others = seconds
        self.claims = tuple(
            Claim(claim=f"{first} is more than {other}", method=first, against=other, metric="size")
            for other in others
        )

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        self.begun.append((arm.name, person))
        self.clock.time += self.seconds[arm.name]
        return {"size": [self.seconds[arm.name] + picture for picture in range(3)]}


def quick(papers: list[Paper], folder: Path, clock: Clock, minutes: float = QUICK_MINUTES):
    plan = Plan(people=2, quick=True, within=minutes)
    return plan, run_claims(papers, plan, Bench(folder, quick=True), now=clock)


@pytest.mark.parametrize("slower", [0.5, 1, 3, 6])
def test_a_quick_run_ends_in_time_with_the_cell_begun_last(tmp_path: Path, slower: float):
    clock = Clock()
    papers = [Paper(name, clock, method=50 * slower, base=40 * slower, other=45 * slower) for name in "abcd"]
    _, rows = quick(papers, tmp_path, clock)
    assert clock.time <= QUICK_MINUTES * 60 - CLOSING
    if slower >= 1:  # and it did not end for nothing: another one would not have fitted
        assert clock.time + SLACK * 50 * slower > QUICK_MINUTES * 60 - CLOSING
        late = [row for row in rows if row.missing]
        assert late and {row.missing for row in late} == {"it did not fit into 15 minutes"}
    else:
        assert all(row.found.people == 2 for row in rows)


def test_every_papers_first_comparison_comes_before_any_second_one(tmp_path: Path):
    clock = Clock()
    papers = [Paper(name, clock, method=50, base=40, other=45) for name in "abcd"]
    plan, rows = quick(papers, tmp_path, clock)
    assert {row.found.people for row in rows if row.claim.against == "base"} == {2}
    text, page = as_text(rows, plan), (tmp_path / "report.html").read_text("utf-8")
    for told in (text, page):
        assert "This was a quick run: headline arms only, one seed per prompt." in told
        assert "The 95 % intervals are" in told and "in the median and" in told
        assert "4 claims on 2 people" in told and "The same command goes on with what did not fit." in told
        assert "from fewer than 3 people: these only resample pictures" in told
    assert "method is more than other: not measured, it did not fit into 15 minutes" in text


def test_the_same_command_goes_on_with_what_did_not_fit(tmp_path: Path):
    clock = Clock()
    papers = [Paper(name, clock, method=50, base=40, other=45) for name in "abcd"]
    for run in range(3):
        clock.time = 0.0
        _, rows = quick(papers, tmp_path, clock)
        assert clock.time <= QUICK_MINUTES * 60 - CLOSING, run
    assert all(row.found and row.found.people == 2 for row in rows) and clock.time == 0
    begun = [(paper.name, *cell) for paper in papers for cell in paper.begun]
    assert len(begun) == len(set(begun)) == 24  # nothing twice


def test_an_arm_that_says_it_is_dear_is_not_begun_late(tmp_path: Path):
    clock = Clock()
    paper = Paper("a", clock, method=60, base=60, other=60, dear=480)
    _, rows = quick([paper], tmp_path, clock)
    assert ("dear", 200_000) not in paper.begun and clock.time == 360  # 8 × 60 s and a margin, after 360 s
    clock.time = 0.0
    _, rows = quick([paper], tmp_path, clock)
    assert ("dear", 200_000) in paper.begun and ("dear", 200_001) not in paper.begun  # it took 480 s
    assert clock.time == 480 and rows[-1].found.people == 1


def test_where_drawing_alone_takes_minutes_no_training_is_begun(tmp_path: Path):
    """The first cell only draws; a training takes five times as long, and was never timed."""
    clock = Clock()
    paper = Paper("a", clock, method=1000, base=150)
    paper.arms = (paper.arms[1], replace(paper.arms[0], method="textual-inversion"))
    _, rows = quick([paper], tmp_path, clock)
    assert clock.time == 300 and {name for name, _ in paper.begun} == {"base"}
    assert rows[0].missing == "it did not fit into 15 minutes"


def test_the_four_methods_come_first_in_the_real_quick_run():
    plan = Plan(people=2, quick=True)
    chosen = [experiment(name) for name in EXPERIMENTS]
    cells = list(cells_of(chosen, plan))
    assert len(cells) == len({(cell.experiment.name, cell.name) for cell in cells})
    of_first = [(cell.experiment.name, cell.arm.name, cell.person) for cell in cells]
    for paper in chosen:
        if paper.name not in PAPERS:
            continue
        claim, arms = paper.claims[0], {arm.name: arm for arm in paper.arms}
        for person in (200_000, 200_001):
            for name in (claim.method, claim.against):
                assert of_first.index((paper.name, name, person)) < len(cells) / 2
                assert arms[name].headline and arms[name].cost == 1.0, "what is dear cannot lead"


def test_the_command_gives_a_quick_run_its_15_minutes_and_a_full_one_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plans: list[Plan] = []
    monkeypatch.setattr(engine_bench, "run_claims", lambda chosen, plan, *_: plans.append(plan) or [])
    for options in (["--quick"], ["--quick", "--minutes", "30"], ["--minutes", "30"], []):
        assert main(["bench", "claims", "--out", str(tmp_path), *options]) == 0
    assert [(plan.people, plan.within, plan.minutes) for plan in plans] == [
        (2, 15, None), (2, 30, None), (8, None, 30), (8, None, None)
    ]  # fmt: skip


def test_a_full_run_leaves_nothing_out_and_keeps_its_order():
    chosen = [experiment(name) for name in EXPERIMENTS]
    cells = list(cells_of(chosen, Plan(people=2)))
    assert len(cells) == 2 * sum(len(paper.arms) for paper in chosen)
    assert [cell.person for cell in cells] == sorted(cell.person for cell in cells)


def test_the_table_of_what_is_there_is_made_without_measuring(tmp_path: Path):
    clock = Clock()
    paper = Paper("a", clock, method=60, base=60)
    quick([paper], tmp_path, clock)
    before = {name: (tmp_path / name).read_bytes() for name in ("claims.json", "claims.md", "report.html")}
    for name in before:
        (tmp_path / name).unlink()
    plan = Plan(people=100, quick=True, measure=False)
    rows = run_claims([paper], plan, Bench(tmp_path, quick=True), now=clock)
    assert len(paper.begun) == 4 and rows[0].found.people == 2
    assert (tmp_path / "claims.json").read_bytes() == before["claims.json"]
    empty = run_claims([paper], plan, Bench(tmp_path / "empty", quick=True))
    assert empty[0].missing == "not yet" and len(paper.begun) == 4
    assert json.loads((tmp_path / "empty" / "claims.json").read_text()) == []


def test_an_ablation_is_told_to_belong_to_a_full_run(tmp_path: Path):
    class WithAblation(Paper):
        def __init__(self) -> None:
            super().__init__("a", Clock(), method=1, base=1, without=1)
            self.arms = (*self.arms[:2], replace(self.arms[2], headline=False))

    plan, rows = quick([WithAblation()], tmp_path, Clock())
    assert [row.missing for row in rows] == ["", "an ablation: only in a full run"]
    full = run_claims([WithAblation()], Plan(people=1), Bench(tmp_path / "full"))
    assert [row.missing for row in full] == ["", ""]


def test_a_cell_that_failed_is_told_with_its_reason(tmp_path: Path):
    class Failing(Paper):
        def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
            if arm.name == "base":
                raise LikenessError("its pictures are gone")
            return super().measure(arm, person, seed, bench)

    plan, rows = quick([Failing("a", Clock(), method=1, base=1)], tmp_path, Clock())
    assert rows[0].missing == "left out: its pictures are gone" and "pictures are gone" in as_text(rows, plan)
