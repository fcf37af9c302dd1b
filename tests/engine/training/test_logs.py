"""What a run measured, in files: CSV always, TensorBoard where asked for."""

import os
from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import Job
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training import logs
from likeness_portraits.engine.training.logs import LossTable, Recorded, _flat, check_tracker, read_table
from likeness_portraits.engine.training.observer import Progress, Silent
from likeness_portraits.engine.training.trainer import tiled


def progress(step: int, phase: str = "tuning") -> Progress:
    return Progress(phase=phase, phase_step=step, phase_steps=9, step=step, total=9)


def job(tmp_path: Path, **changes) -> Job:
    plain = {
        "method": "textual-inversion",
        "output": str(tmp_path / "me.safetensors"),
    }
    return Job.from_json({**plain, "concepts": [{"folder": "somewhere"}], **changes})


def told(observer: Recorded, first: int, last: int) -> None:
    for step in range(first, last + 1):
        observer.on_step(progress(step), {"diffusion": 0.5 / step, "prior": 0.25})


def rows(tmp_path: Path) -> list[dict[str, str]]:
    return read_table(tmp_path / "me.log.csv")


def test_every_step_is_a_row_with_its_terms_and_what_was_measured_then(tmp_path: Path):
    observer = Recorded(Silent(), job(tmp_path))
    told(observer, 1, 2)
    observer.on_scores(progress(2), {"validation": 0.125})
    observer.record(2, {"likeness": 0.5})
    told(observer, 3, 3)
    observer.close()
    assert rows(tmp_path) == [
        {"step": "1", "phase": "tuning", "loss": "0.75", "diffusion": "0.5", "prior": "0.25"},
        {"step": "2", "phase": "tuning", "loss": "0.5", "diffusion": "0.25", "prior": "0.25",
         "validation": "0.125", "likeness": "0.5"},
        {"step": "3", "phase": "tuning", "loss": "0.416667", "diffusion": "0.166667", "prior": "0.25"},
    ]  # fmt: skip


def test_a_run_that_goes_on_appends_and_steps_that_are_done_again_stand_once(tmp_path: Path):
    first = Recorded(Silent(), job(tmp_path))
    told(first, 1, 6)
    first.close()
    with open(tmp_path / "me.log.csv", "a") as file:
        file.write("7,tun")  # killed while writing
    further = Recorded(Silent(), job(tmp_path))
    told(further, 5, 8)  # from the checkpoint at step 4
    further.close()
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(1, 9)]
    begun_again = Recorded(Silent(), job(tmp_path))
    told(begun_again, 1, 2)
    begun_again.close()
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


def test_what_is_measured_before_the_first_step_of_a_run_that_goes_on_is_in_its_last_row(tmp_path: Path):
    first = Recorded(Silent(), job(tmp_path))
    told(first, 1, 2)
    first.close()
    enough = Recorded(Silent(), job(tmp_path))  # a stop had broken into the look; it ends the run
    enough.record(2, {"likeness": 0.5})
    enough.close()
    further = Recorded(Silent(), job(tmp_path))
    further.record(2, {"likeness": 0.75})
    told(further, 3, 3)
    further.close()
    assert [(row["step"], row["loss"], row.get("likeness")) for row in rows(tmp_path)] == [
        ("1", "0.75", None), ("2", "0.5", "0.75"), ("3", "0.416667", None),
    ]  # fmt: skip


def test_a_killed_run_has_its_rows_up_to_the_checkpoint_and_no_number_that_was_cut(tmp_path: Path):
    killed = Recorded(Silent(), job(tmp_path))
    told(killed, 1, 4)
    killed.on_checkpoint()
    killed.record(4, {"likeness": 0.5})  # of a step that is written already
    told(killed, 5, 6)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]
    killed.flush()
    path = tmp_path / "me.log.csv"
    assert [row.get("likeness") for row in rows(tmp_path)] == [*[None] * 3, "0.5", None, None]
    path.write_bytes(path.read_bytes() + b"7,tuning,0.3,0.0714")
    path.write_text(path.read_text() + f"\n{'9' * 5000},tuning,0.3,0.1,0.2,\n8,tuning,0.3,0.1,0.2,0.")
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4", "5", "6"]


class Failing:
    """A tracker as those of accelerate, that takes some numbers and then no more."""

    name = "wandb"

    def __init__(self) -> None:
        self.tracker, self.heard = self, []

    def log(self, numbers, step) -> None:
        if step > 3:
            raise OSError(28, "No space left on device")
        self.heard.append(step)

    def log_images(self, pictures, step) -> None:
        self.heard.append(f"picture {step}")

    def finish(self) -> None:
        raise AssertionError("it hears nothing more")


def test_a_tracker_that_fails_ends_no_run_and_hears_steps_before_pictures(
    tmp_path: Path, monkeypatch, caplog
):
    tracker = Failing()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(logs, "begun_tracker", lambda name, job: tracker)
    observer = Recorded(Silent(), job(tmp_path, log=["wandb"]))
    told(observer, 1, 2)
    observer.on_preview(progress(2), np.zeros((2, 2, 3), np.uint8))
    told(observer, 3, 5)
    observer.close()
    assert tracker.heard == [1, 2, "picture 2", 3]
    assert "wandb fails ([Errno 28] No space left on device)" in caplog.text
    assert len(rows(tmp_path)) == 5


def test_a_tracker_that_does_not_begin_is_a_sentence(tmp_path: Path):
    pytest.importorskip("tensorboard")
    (tmp_path / "me.logs").write_text("no folder")
    observer = Recorded(Silent(), job(tmp_path, log=["tensorboard"]))
    with pytest.raises(LikenessError, match=r"tensorboard does not begin \(.*leave --log tensorboard away"):
        told(observer, 1, 1)


def test_a_tracker_is_told_no_paths(tmp_path: Path):
    plain = {"method": "masterweaver", "concepts": [], "settings": {"shards": str(tmp_path / "shards")}}
    told_of = _flat(job(tmp_path, **plain))
    assert told_of["method"] == "masterweaver" and str(tmp_path) not in str(told_of)


def test_long_runs_are_written_on_the_way(tmp_path: Path):
    observer = Recorded(Silent(), job(tmp_path))
    told(observer, 1, 120)
    assert len(rows(tmp_path)) == 100
    observer.close()
    assert len(rows(tmp_path)) == 120


def test_somebodys_own_table_of_that_name_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    usual = tmp_path / "me.log.csv"
    for own in (b"step,weather\n1,rain\n", b"\xff\xfe not text \x80", b"date,loss,step\n"):
        usual.write_bytes(own)
        for first in (1, 3):  # begun, and gone on with
            observer = Recorded(Silent(), job(tmp_path))
            told(observer, first, first + 1)
            observer.close()
        assert usual.read_bytes() == own and "is no log of a run" in caplog.text
        written = tmp_path / "me.likeness-log.csv"
        assert [row["step"] for row in read_table(written)] == ["1", "2", "3", "4"]
        written.unlink()
    usual.write_text("")
    told(observer := Recorded(Silent(), job(tmp_path)), 1, 2)
    observer.close()
    assert len(rows(tmp_path)) == 2


def test_a_log_that_cannot_be_written_stops_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "a file").write_text("no folder")
    table = LossTable(tmp_path / "a file" / "me.log.csv")
    table.begin(0)
    table.append([{"step": 1, "phase": "tuning", "loss": 0.5}])
    assert "learning goes on without it" in caplog.text and os.listdir(tmp_path) == ["a file"]


def test_a_tracker_that_is_not_there_is_named_with_its_extra(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        LikenessError, match=r"wandb is not installed; run `pip install 'likeness-portraits\[logs\]'"
    ):
        check_tracker("wandb")
    with pytest.raises(LikenessError, match="unknown tracker 'tensorbord'; did you mean"):
        job(tmp_path, log=["tensorbord"])


def test_previews_of_several_prompts_are_one_sheet():
    one, two = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)
    assert tiled([one]) is one
    assert tiled([one, two]).shape == (2, 6, 3)
    sheet = tiled([one] * 4 + [two])
    assert sheet.shape == (4, 12, 3) and (sheet[2:, :3] == 1).all() and (sheet[2:, 3:] == 255).all()


def test_the_command_line_writes_numbers_beside_the_output_and_into_tensorboard(tmp_path: Path, capsys):
    """On the Miniature: two steps, a sheet of two prompts, a held-out picture."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from likeness_portraits.tests.engine.tiny import write_portraits

    (tmp_path / "anna").mkdir()
    folder = write_portraits(tmp_path / "anna")
    arguments = [
        "train", "textual-inversion", str(folder), "--class-word", "woman", "--steps", "2", "--batch-size",
        "1", "--output", str(tmp_path / "me.safetensors"), "--preview-every", "2", "--preview-prompt",
        "a photo of <v0>", "--preview-prompt", "<v0> on a beach", "--hold-out", "1", "--log", "tensorboard",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "step 2: validation 0." in capsys.readouterr().err
    assert [set(row) for row in rows(tmp_path)] == [{"step", "phase", "loss", "validation"}] * 2
    assert (tmp_path / "me.previews" / "step-000002.png").exists()
    seen = EventAccumulator(str(tmp_path / "me.logs" / "me")).Reload()
    assert [one.step for one in seen.Scalars("loss")] == [1, 2]
    sheet = seen.Images("preview")[0]
    assert sheet.width == 2 * sheet.height
