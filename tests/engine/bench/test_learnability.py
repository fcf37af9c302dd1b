"""Learnability: the order of runs, the figures by hand, and that a run is done only once."""

import json

import pytest

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bench import learnability
from likeness_portraits.engine.bench.claims.bench import Bench
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.miniature import model, second, world
from likeness_portraits.tests.engine.second import write_weights


def cell(identity: float, scene: float, identity_base: float = 0.1) -> learnability.LearnabilityCell:
    return {
        "identity": identity,
        "identity_base": identity_base,
        "identity_second": identity,
        "identity_second_base": identity_base,
        "scene": scene,
        "scene_base": 1.0,
        "prompt": 0.9,
        "prompt_base": 1.0,
        "seconds": 50.0,
        "cpu_seconds": 40.0,
    }


def test_all_people_come_once_before_any_comes_twice():
    cells = learnability.all_cells()
    assert len(cells) == len(set(cells)) == 60
    assert {person for _, person, _ in cells[:20]} == set(learnability.LEARNABILITY_PEOPLE)
    assert {seed for _, _, seed in cells[:20]} == {0}


def test_it_is_measured_on_people_that_no_result_is_reported_on():
    assert set(learnability.LEARNABILITY_PEOPLE) <= set(world.TUNING_SEEDS)
    assert not set(learnability.LEARNABILITY_PEOPLE) & set(world.REPORTING_SEEDS)


def test_a_person_counts_once_however_often_they_were_learned():
    runs = {
        ("dreambooth-lora", 1, 0): cell(0.2, 1.0),
        ("dreambooth-lora", 1, 1): cell(0.4, 0.8),
        ("dreambooth-lora", 2, 0): cell(0.9, 0.7),
        ("dreambooth-lora", 3, 0): cell(0.9, 0.7),
        ("textual-inversion", 1, 0): cell(0.5, 1.0),
    }
    found = learnability.learnability_summary(runs, "these weights")
    assert found["identity"] == pytest.approx((0.3 + 0.9 + 0.9) / 3, abs=1e-3)
    assert found["scene_loss"] == pytest.approx((0.1 + 0.3 + 0.3) / 3, abs=1e-3)
    assert found["textual_inversion_gain"] == pytest.approx(0.4)
    lora = found["methods"]["dreambooth-lora"]
    assert lora["people"] == 3 and lora["runs"] == 4
    assert lora["identity"]["low"] < lora["identity"]["mean"] < lora["identity"]["high"]
    assert found["fingerprint"] == "these weights"


def test_what_was_learned_and_measured_is_found_again(tmp_path):
    runs, seen = [("textual-inversion", world.TUNING_SEEDS[0], 0)], []
    first = learnability.measure_learnability(tmp_path, runs, lambda key, cell: seen.append(cell), steps=1)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    second = learnability.measure_learnability(tmp_path, runs, lambda key, cell: seen.append(cell), steps=1)
    assert first == second and seen[0] == seen[1]
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert 0 <= seen[0]["scene"] <= 1 and seen[0]["seconds"] > 0


def test_the_second_miniature_is_learned_and_drawn_by_the_same_bench(tmp_path, monkeypatch):
    pytest.importorskip("transformers.models.qwen3")
    first = Bench(tmp_path / "bench", sampling_steps=1)
    monkeypatch.setattr(model, "WEIGHTS", write_weights(tmp_path / "weights"))
    bench = Bench(tmp_path / "bench", sampling_steps=1, base_spec=BaseSpec(kind="miniature-2"))
    assert bench.instrument != first.instrument
    person, settings = world.TUNING_SEEDS[0], {"steps": 1}
    cell = learnability.measure_cell(bench, "textual-inversion", person, 0, settings)
    assert 0 <= cell["scene"] <= 1 and cell["seconds"] > 0
    (file,) = (tmp_path / "bench" / "artifacts").glob("textual-inversion-*.safetensors")
    artifact = Artifact.load(file)
    assert artifact.base_family == "miniature-2" and artifact.settings["min_snr_gamma"] is None
    assert artifact.base_fingerprint == second.second_fingerprint()
    (seconds,) = (tmp_path / "bench" / "seconds").glob("*.json")
    assert json.loads(seconds.read_text()).keys() == {"seconds", "cpu_seconds"}
