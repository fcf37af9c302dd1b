"""Defaults are what the recorded sweeps chose."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from likeness_portraits.engine.bench.claims import sweep
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.miniature import world

FILES = sorted((Path(sweep.__file__).parents[1] / "sweeps").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_preset_holds_what_the_sweep_chose_on_tuning_people(file: Path):
    record: dict[str, Any] = json.loads(file.read_text("utf-8"))
    (chosen,) = (line["settings"] for line in record["lines"] if line["chosen"])
    preset = asdict(METHODS[record["method"]].preset("miniature"))
    assert {name: preset[name] for name in chosen} == chosen
    assert set(record["people"]) <= set(world.TUNING_SEEDS) and len(record["lines"]) > 1


def test_there_are_records():
    assert FILES
