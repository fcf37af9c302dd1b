"""The table that this project shows: page and packaged record agree, and one command writes both."""

import json
import shutil
from pathlib import Path

import pytest

from likeness_portraits.engine.bench.claims import EXPERIMENTS, experiment
from likeness_portraits.engine.bench.claims.bench import Arm, Bench, Claim
from likeness_portraits.engine.bench.claims.record import (
    BEGIN,
    END,
    PAGE,
    RECORD,
    read_claims_record,
    with_table,
)
from likeness_portraits.engine.bench.claims.run import cells_of, run_claims
from likeness_portraits.engine.bench.claims.table import Plan
from likeness_portraits.engine.bench.claims.words import as_markdown
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import world

ROOT = Path(__file__).resolve().parents[4]


def test_the_page_shows_the_recorded_run():
    page = (ROOT / PAGE).read_text("utf-8")
    assert with_table(page, as_markdown(recorded())) == page


def recorded() -> dict:
    return read_claims_record((ROOT / RECORD).read_text("utf-8"))


def test_the_record_is_of_this_miniature_and_of_claims_that_are_made(tmp_path: Path):
    record = recorded()
    assert record["miniature"] == Bench(tmp_path).instrument
    assert record["command"] == "likeness bench claims --out DIR"
    made = {(name, claim.claim, claim.method, claim.against, claim.metric)
            for name in EXPERIMENTS for claim in experiment(name).claims}  # fmt: skip
    kept = {(row["experiment"], *(row[key] for key in ("claim", "method", "against", "metric")))
            for row in record["rows"]}  # fmt: skip
    missing = {(row["experiment"], row["claim"]) for row in record["missing"]}
    assert kept and kept <= made and missing <= {name[:2] for name in made}


class Two:
    """Numbers without any network."""

    name, paper = "two", "arXiv 0"
    arms = (Arm(name="long"), Arm(name="short"), Arm(name="absent"))
    claims = (
        Claim(claim="long is longer", method="long", against="short", metric="length"),
        Claim(claim="a | is a | in Markdown", method="short", against="long", metric="length"),
        Claim(claim="nobody measured it", method="long", against="absent", metric="length"),
    )

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        if arm.name == "absent":
            raise LikenessError("it is not there")
        share = (person - world.REPORTING_SEEDS[0]) / 10
        return {"length": [share + (arm.name == "long"), share]}


def test_the_markdown_has_the_rows_of_claims_json_and_how_many_people(tmp_path: Path):
    run_claims([Two()], Plan(people=4), Bench(tmp_path))
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    told = json.loads((tmp_path / "claims.json").read_text("utf-8"))
    assert [{key: row[key] for key in told[0]} for row in record["rows"]] == told
    assert [(row["experiment"], row["people"]) for row in record["rows"]] == [("two", 4), ("two", 4)]
    text = (tmp_path / "claims.md").read_text("utf-8")
    assert text == as_markdown(record)
    row = "| long | short | length | 0.650 | 0.150 | +0.500 | +0.500 … +0.500 | 4 |"
    assert f"| ✓ | long is longer {row}" in text and "| ✗ | a \\| is a \\| in Markdown | short |" in text
    assert "`likeness bench claims --method two --out DIR`" in text
    assert "Not measured: `two`, “nobody measured it” (left out: it is not there)." in text


def test_the_record_keeps_single_values_and_figures_that_are_not_theirs_are_noticed(tmp_path: Path):
    run_claims([Two()], Plan(people=4), Bench(tmp_path))
    text = (tmp_path / "record.json").read_text("utf-8")
    first, *others = read_claims_record(text)["rows"]
    assert first["values"]["200002"] == [[0.7, 0.2]] and len(first["values"]) == 4
    assert '"200002": [ [ 0.7, 0.2 ] ]' in text  # on one line
    for old, new, told in (
        ('"difference": 0.5', '"difference": 0.6', "not those of its single values"),
        ("[ [ 0.7, 0.2 ] ]", "[]", "not those of its single values"),
        ("[ [ 0.7, 0.2 ] ]", "[ [ 0.7 ] ]", "no record of claims"),
        ("[ [ 0.7, 0.2 ] ]", "[ [ NaN, 0.2 ] ]", "not those of its single values"),
    ):
        with pytest.raises(LikenessError, match=told):
            read_claims_record(text.replace(old, new, 1))
    for row in (first, *others):
        del row["values"]
    bare = {**json.loads(text), "rows": [first, *others]}
    assert read_claims_record(json.dumps(bare)) == bare  # as written before there were any
    assert "Of 2 claims only the means were kept" in as_markdown(bare)
    assert "only the means" not in as_markdown(json.loads(text))


def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / PAGE).parent.mkdir(parents=True)
    shutil.copy(ROOT / PAGE, folder / PAGE)
    return folder


def test_one_command_puts_a_run_into_page_and_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, out = checkout(tmp_path), tmp_path / "claims"
    chosen, bench = experiment("baselines"), Bench(out)
    for number, cell in enumerate(cells_of([chosen], Plan(people=1))):
        file = cell.file(bench)
        file.parent.mkdir(parents=True, exist_ok=True)
        metrics = {"identity": [0.1 * number, 0.2], "prompt": [0.9, 0.9]}
        file.write_text(json.dumps({"metrics": metrics, "seconds": 1.0, "drawn": []}))
    options = ["bench", "claims", "--only-table", "--out", str(out), "--publish", str(folder)]
    assert main(options) == 0
    table = (out / "claims.md").read_text("utf-8")
    assert table in (folder / PAGE).read_text("utf-8") and "custom-diffusion" in table
    assert (folder / RECORD).read_bytes() == (out / "record.json").read_bytes()
    assert "on 1 person" in capsys.readouterr().out
    assert not (out / "artifacts").exists()


@pytest.mark.parametrize("option", [["--quick"], ["--tuning"], ["--method", "broken"]])
def test_a_part_of_the_run_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
):
    options = ["bench", "claims", *option, "--only-table", "--out", str(tmp_path / "claims")]
    assert main([*options, "--publish", str(checkout(tmp_path))]) != 0
    assert "leave out --publish" in capsys.readouterr().err


def test_where_nothing_can_be_published_is_said_at_once_and_an_empty_run_wipes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["bench", "claims", "--out", str(tmp_path / "claims"), "--publish"]
    assert main([*options, str(tmp_path / "nowhere")]) == 2  # without --only-table: it would measure first
    assert (
        "there is no docs/claims.md" in capsys.readouterr().err
        and not (tmp_path / "claims" / "cells").exists()
    )
    folder = checkout(tmp_path)
    before = (folder / PAGE).read_bytes()
    assert main([*options, str(folder), "--only-table"]) == 2
    assert "nothing was measured" in capsys.readouterr().err
    assert (folder / PAGE).read_bytes() == before and not (folder / RECORD).exists()


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN} only", f"{BEGIN} {END} {BEGIN} {END}"])
def test_a_page_without_the_marks_is_left_alone(text: str):
    with pytest.raises(LikenessError, match="once each"):
        with_table(text, "table")
