"""The whole recipe, from nothing to a measured card, with hardly any steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from likeness_portraits.engine.bench.card import gates
from likeness_portraits.engine.miniature import make, model

STAGES = [
    stage for stage in make.MAKING_STAGES if stage not in ("learnability", "sheets")
]  # those learn for an hour


def run(package_parent: Path, work: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    options = ("--work", work, "--device", "cpu", "--scale", "0.0001", "--people", "6", "--processes", "1")
    environment = {
        **os.environ,
        "PYTHONPATH": str(package_parent),
        "LIKENESS_MINIATURE": str(work / "weights"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "likeness_portraits.engine.miniature.make", *map(str, options), *stages]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_recipe_runs_from_nothing_to_a_card_and_then_finds_all_done(package_parent: Path, tmp_path: Path):
    shipped = {file.name: file.stat().st_mtime_ns for file in model.WEIGHTS.iterdir()}
    done = run(package_parent, tmp_path, *STAGES)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "weights"
    networks = {*model.NETWORKS, "id_adapter"}
    assert {f"{name}.safetensors" for name in networks} <= {file.name for file in made.iterdir()}
    card = json.loads((made / "card.json").read_text("utf-8"))
    assert card["digests"].keys() == set(model.NETWORKS) and card["size_mb"] < 30
    assert len(gates(card)) > 30 and "MISSED" in done.stderr
    assert {file.name: file.stat().st_mtime_ns for file in model.WEIGHTS.iterdir()} == shipped

    again = run(package_parent, tmp_path, "judges")
    assert again.returncode == 0, again.stderr
    assert "reader2: continuing at step 1" in again.stderr and "1/1" not in again.stderr
