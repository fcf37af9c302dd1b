"""The demonstration: what it shows, what it writes, and that Ctrl-C keeps what was learned."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine import demo
from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.config.dreambooth_lora import DreamBoothLoraSettings
from likeness_portraits.engine.console import ConsoleObserver
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.demo import concept_of, run_demo
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.people import all_shots, render_person
from likeness_portraits.engine.miniature import world

PERSON = world.REPORTING_SEEDS[0]


def test_the_person_is_held_out_and_shown_in_four_masked_pictures():
    concept = concept_of(PERSON)
    assert PERSON not in world.TRAINING_SEEDS and PERSON not in world.TUNING_SEEDS
    assert len(concept.pictures) == 4 and concept.class_word in ("man", "woman")
    for picture in concept.pictures:
        assert picture.pixels.shape == (128, 128, 3)
        assert 0.1 < picture.mask.mean() < 0.7


def test_before_and_after_differ_only_in_who_is_named():
    before, after = all_shots("a man", [1, 2]), all_shots("<v0>", [1, 2])
    assert [shot.seed for shot in before] == [shot.seed for shot in after] == [1] * 8 + [2] * 8
    assert [shot.asked for shot in before] == [shot.asked for shot in after]
    assert all("<v0>" in shot.prompt and "man" not in shot.prompt for shot in after)


def test_the_reference_person_is_drawn_in_other_poses_each_round():
    once, twice = render_person(PERSON, 1), render_person(PERSON, 2)
    assert once.shape == (8, 128, 128, 3) and twice.shape == (16, 128, 128, 3)
    assert np.array_equal(twice[:8], once) and not np.array_equal(twice[8:], once)


class StopsSoon(ConsoleObserver):
    """Presses Ctrl-C after two steps."""

    def on_step(self, progress, losses) -> None:
        super().on_step(progress, losses)
        self.interrupt.pressed = progress.step >= 2


def test_a_demo_that_is_stopped_still_reports_what_was_learned(tmp_path: Path):
    report = run_demo("textual-inversion", 0, tmp_path / "demo", StopsSoon("learning"), rounds=1)
    assert report == json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["stopped"] and report["steps"] == 2 and report["method"] == "textual-inversion"
    assert Artifact.load(report["artifact"]).tokens[0].token == "<v0>"
    for name in ("identity_before", "identity_after", "identity_reference"):
        assert -1 <= report[name] <= 1
    for name in ("prompt_accuracy", "prompt_accuracy_base", "prompt_accuracy_reference"):
        assert 0 <= report[name] <= 1
    assert (
        report["identity_reference"] > report["identity_before"] + 0.25
    )  # the instrument tells people apart
    assert report["prompt_accuracy_reference"] >= 0.9
    assert len(load_concept(tmp_path / "demo" / "concept").pictures) == 4
    with Image.open(tmp_path / "demo" / "sheet.png") as sheet:
        assert sheet.width > 1500


def test_the_demo_is_of_the_miniatures_alone_and_learns_with_their_presets(tmp_path: Path):
    with pytest.raises(LikenessError, match="base"):
        run_demo("textual-inversion", 0, tmp_path / "demo", ConsoleObserver("learning"), kind="sd15")
    assert not (tmp_path / "demo").exists()
    job = demo._job("dreambooth-lora", tmp_path / "concept", tmp_path, 3, "miniature-2")
    assert job.base.kind == "miniature-2" and job.seed == 3
    assert job.settings == DreamBoothLoraSettings.preset("miniature-2")


@pytest.mark.slow
def test_the_demo_learns_a_person_and_keeps_obeying(tmp_path: Path, likeness):
    done = likeness("demo", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report == json.loads(done.stdout)
    assert report["identity_after"] - report["identity_before"] >= 0.25
    assert report["prompt_accuracy"] >= report["prompt_accuracy_base"] - 0.10
    assert report["seconds"] > report["seconds_learning"] > 0


def test_a_method_that_needs_a_style_says_so_before_anything_is_drawn(tmp_path: Path, monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr(demo, "draw", lambda *told: drawn.append("drawn"))
    with pytest.raises(
        LikenessError, match="the demo learns one person alone, and magicapture learns a person and a style"
    ):
        run_demo("magicapture", 0, tmp_path / "demo", ConsoleObserver("learning"))
    assert not drawn
