"""Sweeps: combinations on tuning people only, the choice, and what is recorded."""

import json
from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bench.claims.bench import Arm, Bench
from likeness_portraits.engine.bench.claims.masterweaver import MasterWeaverClaims
from likeness_portraits.engine.bench.claims.sweep import Sweep, run_sweep, sweep_values
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.miniature.making.id_adapter import PEOPLE, prepare_adapter


class Guess(Sweep):
    """A sweep whose scores follow from the settings: likeness grows with rank, obedience ends above 8."""

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        assert person in world.TUNING_SEEDS
        rank = arm.settings["rank"]
        return {"identity": [rank / 32], "prompt": [1.0 if rank <= 8 else 0.7], "leakage": [0.0]}


def test_the_choice_is_the_closest_likeness_that_still_obeys(tmp_path: Path):
    record = run_sweep(Guess("dreambooth-lora", {"rank": [4, 8, 16]}), Bench(tmp_path), people=2)
    assert [line["chosen"] for line in record["lines"]] == [False, True, False]
    assert record == json.loads((tmp_path / "sweep.json").read_text())
    assert record["people"] == list(world.TUNING_SEEDS[:2]) and (tmp_path / "report.html").exists()


class Both(Sweep):
    """The person fades as the component comes."""

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        share = arm.settings["joint_share"]
        return {"identity": [0.9 - share], "component": [min(1.0, 0.2 + 3 * share)], "prompt": [1.0]}


def test_a_component_counts_as_much_as_the_person(tmp_path: Path):
    record = run_sweep(Both("magictailor", {"joint_share": [0.0, 0.25, 0.8]}), Bench(tmp_path), people=2)
    assert [line["chosen"] for line in record["lines"]] == [False, True, False]
    assert record["lines"][1]["component"][0] == pytest.approx(0.95) and "style" not in record["lines"][1]


def test_methods_of_several_concepts_are_scored_as_in_their_own_claims(tmp_path: Path):
    """Two steps on the real Miniature: the sweep asks for the component too."""
    few = {"warm_up_steps": [1], "balance_steps": [1], "batch_size": [2]}
    record = run_sweep(Sweep("magictailor", few), Bench(tmp_path, quick=True, sampling_steps=2), people=1)
    assert set(record["lines"][0]) >= {"identity", "component", "prompt", "leakage"}


def test_a_person_in_a_style_is_swept_as_it_is_claimed(tmp_path: Path):
    few = {"inversion_steps": [1], "tuning_steps": [1], "batch_size": [3]}
    record = run_sweep(Sweep("magicapture", few), Bench(tmp_path, quick=True, sampling_steps=2), people=1)
    assert set(record["lines"][0]) >= {"identity", "style", "prompt", "leakage"}


def test_an_adapter_is_swept_through_its_own_shards_and_judged_by_its_edits(tmp_path: Path):
    """One step on four people's shards, from the beginning and the settings that its arms have in common."""
    bench = Bench(tmp_path, quick=True, sampling_steps=2)
    prepare_adapter(tmp_path / f"adapters-{bench.base.fingerprint}", (1, 1), PEOPLE[:4])
    few = {"editing_weight": [0.02, 0.2], "editing_steps": [1], "batch_size": [2]}
    record = run_sweep(Sweep("masterweaver", few), bench, people=1)
    assert [line["settings"]["editing_weight"] for line in record["lines"]] == [0.02, 0.2]
    assert set(record["lines"][0]) >= {"identity", "edits", "prompt"}
    assert record["alike"] == MasterWeaverClaims.alike
    trained = [Artifact.load(file) for file in (tmp_path / "artifacts").iterdir()]
    assert {file.settings["editing_weight"] for file in trained} == {0.02, 0.2}
    assert {file.settings["identity_steps"] for file in trained} == {
        MasterWeaverClaims.alike["identity_steps"]
    }


class Edited(Sweep):
    """Edits are obeyed the more, the less the person is kept."""

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> dict[str, list[float]]:
        weight = arm.settings["editing_weight"]
        return {"identity": [0.6 - weight / 2], "edits": [0.5 + 2 * min(weight, 0.2)], "prompt": [1.0]}


def test_edits_count_as_much_as_the_person(tmp_path: Path):
    record = run_sweep(Edited("masterweaver", {"editing_weight": [0.02, 0.2, 0.4]}), Bench(tmp_path))
    assert [line["chosen"] for line in record["lines"]] == [False, True, False]


class Unseen(Bench):
    """Nothing is drawn: all learn as well."""

    def portrait_of(self, *_of: object) -> dict[str, list[float]]:  # type: ignore[override]
        return {"identity": [0.5], "prompt": [1.0], "leakage": [0.0]}


def test_a_sweep_may_learn_from_one_picture_of_each_person(tmp_path: Path):
    sweep = Sweep("textual-inversion", {"steps": [1]}, pictures=1)
    record = run_sweep(sweep, Unseen(tmp_path), people=1)
    assert record["pictures"] == 1
    (concept,) = (tmp_path / "concepts").iterdir()
    assert len(load_concept(concept).pictures) == 1
    with pytest.raises(LikenessError, match="measured on pictures of its own"):
        Sweep("magictailor", {"joint_share": [0.5]}, pictures=1)


def test_settings_are_all_combined():
    arms = Sweep("dreambooth-lora", {"rank": [4, 8], "steps": [10, 20, 30]}).arms
    assert len(arms) == 6 and arms[4].settings == {"rank": 8, "steps": 20}


def test_values_are_read_as_the_command_line_reads_them():
    assert sweep_values("learning-rate=0.001,2.0e-3") == ("learning_rate", [0.001, 0.002])
    assert sweep_values("masked_loss=true,false") == ("masked_loss", [True, False])


@pytest.mark.parametrize("text", ["rank", "rank=", "=4"])
def test_a_setting_without_values_is_refused(text: str):
    with pytest.raises(LikenessError, match="rank=4,8,16"):
        sweep_values(text)


def test_unknown_settings_and_too_many_combinations_are_refused():
    with pytest.raises(LikenessError, match="did you mean 'rank'"):
        Sweep("dreambooth-lora", {"ranc": [4]})
    with pytest.raises(LikenessError, match="100"):
        Sweep("dreambooth-lora", {"rank": range(1, 11), "steps": range(1, 11)})


def test_how_a_run_steps_is_swept_as_a_methods_own_settings_are(tmp_path: Path):
    bench = Bench(tmp_path)
    trained = [
        bench.learn("textual-inversion", settings, [bench.person(world.TUNING_SEEDS[0])])
        for settings in ({"steps": 2}, {"steps": 2, "ema": 0.9}, {"steps": 2, "optimizer": "adafactor"})
    ]
    rows = [next(iter(artifact.tensors.values())) for artifact in trained]
    assert not torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    arms = Sweep("textual-inversion", {"optimizer": ["adamw", "lion"], "steps": [1]}).arms
    assert [arm.settings["optimizer"] for arm in arms] == ["adamw", "lion"]
    with pytest.raises(LikenessError, match="'optimiser' in the sweep"):
        Sweep("textual-inversion", {"optimiser": ["adamw"]})
