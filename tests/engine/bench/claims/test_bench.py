"""The bench on the real Miniature with next to no training: what is kept, and that a rerun is the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.bench.claims import EXPERIMENTS, experiment, table
from likeness_portraits.engine.bench.claims.bench import BUDGET, Arm, Bench, Claim, resolved
from likeness_portraits.engine.bench.claims.run import run_claims
from likeness_portraits.engine.bench.claims.table import Cell, Plan
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.miniature import world

LITTLE = {"steps": 2, "batch_size": 1}


class Little:
    """Two steps of Textual Inversion against the base."""

    name, paper = "little", "none"
    arms = (Arm(name="base"), Arm(name="words", method="textual-inversion", settings=LITTLE))
    claims = (
        Claim(claim="it is somebody", method="words", against="base", metric="identity"),
        Claim(
            claim="it obeys", method="words", against="base", metric="prompt", better="not lower", margin=1
        ),
    )

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench):
        return bench.portrait(arm, person, seed)


def test_a_rerun_elsewhere_gives_the_same_table(tmp_path: Path):
    tables = []
    for name in ("a", "b"):
        run_claims(
            [Little()], Plan(people=1, quick=True), Bench(tmp_path / name, quick=True, sampling_steps=2)
        )
        tables.append((tmp_path / name / "claims.json").read_bytes())
    assert tables[0] == tables[1] and b"it obeys" in tables[0]


def test_a_training_and_a_drawing_are_done_once(tmp_path: Path):
    bench = Bench(tmp_path, sampling_steps=2)
    person = bench.person(world.TUNING_SEEDS[0])
    first = bench.train("textual-inversion", LITTLE, [person])
    written = first.stat().st_mtime_ns
    assert bench.train("textual-inversion", LITTLE, [person]) == first
    assert first.stat().st_mtime_ns == written
    assert bench.train("textual-inversion", LITTLE, [person], seed=1) != first
    learned = bench.learn("textual-inversion", LITTLE, [person])
    drawn = bench.draw(["a photo of <v0>"], [1], [(learned, 1.0)])
    kept = list((tmp_path / "drawn").iterdir())
    assert np.array_equal(bench.draw(["a photo of <v0>"], [1], [(learned, 1.0)]), drawn)
    assert list((tmp_path / "drawn").iterdir()) == kept
    bench.draw(["a photo of <v0>"], [1], [(learned, 0.5)])
    assert len(list((tmp_path / "drawn").iterdir())) == len(kept) + 1


def test_the_real_person_scores_what_no_base_picture_does(tmp_path: Path):
    found = Bench(tmp_path, quick=True).portrait_of_the_real(world.TUNING_SEEDS[0])
    assert np.mean(found["identity"]) > 0.8 and np.mean(found["prompt"]) > 0.9
    assert np.mean(found["detected"]) == 1.0 and len(found["leakage"]) == 4


@pytest.mark.parametrize("name", ["baselines", "broken"])
def test_baselines_see_the_same_number_of_pictures(name: str):
    assert name in EXPERIMENTS
    for arm in experiment(name).arms:
        if arm.method is not None:
            settings = METHODS[arm.method].preset("miniature")
            each = settings.batch_size + getattr(settings, "prior_batch_size", 0)
            assert arm.settings["steps"] * each == BUDGET, arm.name


def test_a_training_is_another_one_when_its_preset_changes():
    """What lies in a bench's folder is found by all settings, not only by an arm's changes."""
    plain = resolved("textual-inversion", {})
    assert resolved("textual-inversion", {"steps": plain["steps"]}) == plain  # said or left to the preset
    assert resolved("textual-inversion", {"steps": plain["steps"] + 1}) != plain
    assert plain["learning_rate"] == METHODS["textual-inversion"].preset("miniature").learning_rate


class Careless(Little):
    """Trains Textual Inversion in an arm that says it trains nothing but a LoRA."""

    arms = (Arm(name="base"), Arm(name="words", method="dreambooth-lora", settings=LITTLE))

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench):
        bench.train("textual-inversion", LITTLE, [bench.person(person)])
        raise AssertionError("it was trained")


def test_a_cell_that_trains_what_its_arm_does_not_name_stops_the_run(tmp_path: Path):
    with pytest.raises(RuntimeError, match="'textual-inversion'.*the arm's `also`"):
        run_claims([Careless()], Plan(people=1, quick=True), Bench(tmp_path, quick=True))
    assert not list(tmp_path.glob("artifacts/*")) and not list(tmp_path.glob("cells/*/*"))
    bench = Bench(tmp_path)
    with bench.training_only(Arm(name="plug-in", method="personamagic", also=("textual-inversion",)).trains):
        assert bench.train("textual-inversion", LITTLE, [bench.person(world.TUNING_SEEDS[0])]).exists()


def test_a_cells_name_changes_with_the_presets_of_what_it_trains_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bench, chosen = Bench(tmp_path), experiment("personamagic")
    arms = {arm.name: arm for arm in chosen.arms}
    names = ["base", "personamagic", "dreambooth-lora", "personamagic on dreambooth-lora"]
    cells = [Cell(experiment=chosen, arm=arms[name], person=200_000, seed=0) for name in names]
    before = [cell.key(bench) for cell in cells]

    def with_another_rank(method: str, settings: dict[str, object]) -> dict[str, object]:
        return {**resolved(method, settings), **({"rank": 99} if method == "dreambooth-lora" else {})}

    monkeypatch.setattr(table, "resolved", with_another_rank)
    changed = [cell.key(bench) != was for cell, was in zip(cells, before)]
    assert changed == [False, False, True, True]
    assert replace(cells[0], person=200_001).key(bench) != before[0]
