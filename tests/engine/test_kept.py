"""What was learned is kept: runs are killed, places cannot be written, finished files stay what they are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import safe_open

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import Job
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.checkpoint import Checkpoints
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.observer import Silent
from likeness_portraits.engine.training.output import unfinished
from likeness_portraits.tests.engine.small_disk import fill, small_disk_at
from likeness_portraits.tests.engine.tiny import write_anna

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
OUT = "me.safetensors"


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_anna(tmp_path_factory.mktemp("people") / "anna")


@pytest.fixture
def here(tmp_path: Path, person: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`likeness train textual-inversion` in this process and an empty folder: status and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*options: object) -> tuple[int, str]:
        capsys.readouterr()
        arguments = ("train", "textual-inversion", person, "-o", OUT, *options)
        status = main([str(argument) for argument in arguments])
        return status, " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def begun(package_parent: Path, person: Path, tmp_path: Path):
    """The same in a process of its own."""
    threads = str(torch.get_num_threads())  # bytes are compared with a run in this process
    environment = {**os.environ, "PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": threads}
    command = [
        sys.executable,
        "-m",
        "likeness_portraits.engine.cli",
        "train",
        "textual-inversion",
        str(person),
    ]

    def run(*options: object) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, "-o", OUT, *map(str, options)], cwd=tmp_path, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    return run


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, "it ended"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def files() -> list[str]:
    """All that lies here but the runs' logs."""
    return sorted(str(path) for path in Path().rglob("*") if not path.name.endswith(".log.csv"))


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bytes(here, begun):
    state = Path("me.checkpoint", "state.safetensors")
    process = begun("--steps", 30, "--checkpoint-minutes", 0.005)
    wait_for(state.exists, process)
    first = state.stat().st_mtime_ns
    wait_for(lambda: state.stat().st_mtime_ns != first, process)  # one replaced another
    process.kill()
    process.wait()
    assert not Path(OUT).exists() and Path("me.checkpoint", "lock").exists()
    status, said = here("--steps", 30)
    assert status == 2 and "me.checkpoint holds a run that was broken off; give --resume to go on" in said
    status, said = here("--steps", 30, "--resume")
    assert status == 0 and "going on from step" in said
    resumed = Path(OUT).read_bytes()
    assert files() == [OUT] and Path("me.log.csv").read_text().count("\n") == 31  # a row for each step
    assert here("--steps", 30, "--overwrite")[0] == 0
    assert Path(OUT).read_bytes() == resumed


@posix_only
def test_closing_the_terminal_saves_as_ctrl_c_does(tmp_path: Path, person: Path, package_parent: Path):
    previews = tmp_path / "me.previews" / "step-000002.png"
    import pty

    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup would hand down that it is ignored
        os.environ |= {"PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1"}
        command = [
            "-m",
            "likeness_portraits.engine.cli",
            "train",
            "textual-inversion",
            str(person),
            "-o",
            OUT,
        ]
        os.execv(sys.executable, [sys.executable, *command, "--steps", "100000", "--preview-every", "2"])
    drain = threading.Thread(target=_drained, args=(terminal,), daemon=True)
    drain.start()
    wait_for(previews.exists)
    os.kill(pid, signal.SIGHUP)  # the shell says it, and then the kernel
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert unfinished(tmp_path / OUT) == {"step": Artifact.load(tmp_path / OUT).steps, "of": 100_000}
    assert (tmp_path / "me.checkpoint" / "state.safetensors").exists()


def _drained(terminal: int) -> None:
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass


def test_a_finished_file_is_replaced_only_where_that_is_asked_for(here):
    Path(OUT).write_bytes(b"somebody's work")
    status, said = here("--steps", 1)
    assert status == 2 and "me.safetensors is there already; give --overwrite to replace it" in said
    status, said = here("--steps", 1, "--resume")
    assert status == 2 and "me.checkpoint holds no checkpoint to go on from" in said
    assert Path(OUT).read_bytes() == b"somebody's work"
    assert here("--steps", 1, "--overwrite")[0] == 0
    assert Artifact.load(OUT).steps == 1 and files() == [OUT]


def test_resuming_where_nothing_is_begins_and_says_so(here):
    status, said = here("--steps", 1, "--resume")
    assert status == 0 and "there is no checkpoint in me.checkpoint; beginning at the first step" in said


@posix_only
def test_ctrl_c_leaves_a_finished_file_alone_and_replaces_an_unfinished_one(here):
    assert here("--steps", 2)[0] == 0
    finished = Path(OUT).read_bytes()

    def stop_at_preview(number: int) -> None:
        preview = Path("me.previews", f"step-{number:06d}.png").absolute()
        waiting = threading.Thread(
            target=lambda: (wait_for(preview.exists), os.kill(os.getpid(), signal.SIGINT))
        )
        waiting.start()

    stop_at_preview(2)
    status, said = here("--steps", 5000, "--preview-every", 2, "--overwrite")
    (beside,) = Path().glob("me-step-*.safetensors")
    assert status == 130 and f"what was learned is in {beside}" in said
    assert Path(OUT).read_bytes() == finished and unfinished(Path(OUT)) is None
    assert unfinished(beside) == {"step": Artifact.load(beside).steps, "of": 5000}
    shutil.rmtree("me.previews")
    os.replace(beside, OUT)
    stop_at_preview(Artifact.load(OUT).steps // 2 * 2 + 2)
    assert here("--steps", 5000, "--preview-every", 2, "--resume")[0] == 130
    assert not list(Path().glob("me-step-*.safetensors"))  # the same run's, so it took its place


def test_an_output_that_cannot_be_written_is_noticed_before_the_first_step(here, monkeypatch):
    Path(OUT).mkdir()
    status, said = here("--steps", 100_000)
    assert status == 2 and "there is a folder of that name" in said and "going on" not in said
    Path(OUT).rmdir()
    Path(OUT).touch()
    Path(OUT).chmod(0o444)
    status, said = here("--steps", 100_000, "--overwrite")
    assert status == 2 and "it is write-protected" in said


@posix_only
def test_a_limit_on_file_sizes_is_noticed_before_the_first_step(
    tmp_path: Path, package_parent: Path, person: Path
):
    program = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from likeness_portraits.engine.cli import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "train", "textual-inversion", str(person), "-o", OUT]
    environment = {**os.environ, "PYTHONPATH": str(package_parent)}
    done = subprocess.run(
        [*command, "--steps", "100000"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "the file would be larger than allowed here" in done.stderr


class Meanwhile(Silent):
    """Does something after the first step, and hears what is said."""

    def __init__(self, what: Callable[[], object]) -> None:
        self.what, self.notes = what, list[str]()

    def on_step(self, progress, losses):
        if progress.step == 1:
            self.what()

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def learning(person: Path, output: Path, steps: int = 2) -> Job:
    return Job.from_json(
        {"method": "textual-inversion", "concepts": [{"folder": str(person)}], "output": str(output),
         "settings": {"steps": steps}, "device": "cpu", "memory": 64}
    )  # fmt: skip


def test_what_cannot_be_written_at_the_end_goes_beside_it_and_it_is_said(tmp_path: Path, person: Path):
    watch = Meanwhile((tmp_path / OUT).mkdir)
    path = train(learning(person, tmp_path / OUT), watch)
    assert path == tmp_path / "me-2.safetensors" and Artifact.load(path).steps == 2
    assert watch.notes[-1].endswith(f"has come from elsewhere meanwhile; what was learned is in {path}")


def test_where_a_folder_is_gone_at_the_end_the_next_place_takes_it(tmp_path: Path, person: Path, monkeypatch):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))

    def replace_by_a_file() -> None:
        shutil.rmtree(folder)
        folder.write_text("")

    watch = Meanwhile(replace_by_a_file)
    path = train(learning(person, folder / OUT), watch)
    assert path == elsewhere / OUT and Artifact.load(path).steps == 2
    assert str(path) in watch.notes[-1]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 66 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    with small_disk_at(place, "66m"):
        yield place


def test_a_disk_that_fills_meanwhile_takes_no_checkpoint_and_what_was_learned_goes_elsewhere(
    tmp_path: Path, small_disk: Path, person: Path, monkeypatch, caplog
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    state = small_disk / "me.checkpoint" / "state.safetensors"

    class Full(Meanwhile):
        def on_step(self, progress, losses):
            if progress.step == 2:
                self.what()
            if progress.step > 1:  # the state of step 2 had no room; that of step 1 is whole
                assert step_of(state) == 1

    watch = Full(lambda: fill(small_disk / "films"))
    job = replace(learning(person, small_disk / OUT, steps=3), checkpoint_every=1)
    path = train(job, watch)
    assert path == elsewhere / OUT and Artifact.load(path).steps == 3
    assert "the disk is full" in watch.notes[-1] and watch.notes[-1].endswith(
        f"what was learned is in {path}"
    )
    assert "the disk is full; free some space or choose another folder; training goes on" in caplog.text
    assert sorted(path.name for path in small_disk.rglob("*")) == ["films"]  # no half a file is left
    status = main(["train", "textual-inversion", str(person), "-o", str(small_disk / OUT), "--steps", "1"])
    assert status == 2  # noticed before the first step


def step_of(state: Path) -> int:
    with safe_open(state, "pt") as file:
        return json.loads(file.metadata()["position"])["phase_step"]


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path, person: Path):
    watch = Meanwhile(lambda: (tmp_path / OUT).write_bytes(b"somebody's work"))
    path = train(learning(person, tmp_path / OUT), watch)
    assert path == tmp_path / "me-2.safetensors"
    assert (tmp_path / OUT).read_bytes() == b"somebody's work"


def test_foreign_files_in_the_checkpoint_folder_stay_and_are_named_before_the_first_step(here):
    folder = Path("me.checkpoint")
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    status, said = here("--steps", 100_000)
    assert status == 2 and "me.checkpoint holds 'thesis.txt', which is no checkpoint" in said
    (folder / "thesis.txt").rename(folder / ".DS_Store")  # a look into the folder leaves this
    for name in (".state-0123456789ab.safetensors", ".tmpAb12Cd", "lock"):  # and a kill, these
        (folder / name).touch()
    assert here("--steps", 1)[0] == 0
    assert files() == [str(folder), str(folder / ".DS_Store"), OUT]


def test_a_checkpoint_folder_that_is_a_file_is_named(here):
    Path("me.checkpoint").write_text("x")
    status, said = here("--steps", 100_000)
    assert status == 2 and "me.checkpoint is a file" in said and Path("me.checkpoint").read_text() == "x"


def test_two_runs_that_write_one_output_are_told_of_each_other(here, person: Path, tmp_path: Path):
    with Checkpoints(learning(person, Path(OUT)), "").held():
        status, said = here("--steps", 100_000)
    assert status == 2 and "another run is learning to me.safetensors at this moment" in said
    assert here("--steps", 1)[0] == 0 and files() == [OUT]


def test_equal_runs_in_one_folder_of_many_are_told_of_each_other(person: Path, tmp_path: Path):
    class StopAtOnce(Silent):
        def should_stop(self) -> bool:
            return self.began

        began = False

        def on_step(self, progress, losses) -> None:
            self.began = True

    runs, job = tmp_path / "runs", learning(person, tmp_path / OUT)
    train(job, StopAtOnce(), runs=runs)
    (folder,) = runs.iterdir()
    again = learning(person, tmp_path / "second.safetensors")
    with FileLock(folder / "lock"), pytest.raises(LikenessError, match="another run is learning the same at"):
        train(again, runs=runs)
    assert not Path(again.output).exists() and (folder / "state.safetensors").exists()


def test_importing_onto_a_file_asks_first(tmp_path: Path, monkeypatch, capsys):
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    save_file({"emb_params": np.ones((1, 768), np.float32)}, "word.safetensors")
    assert main(["import", "word.safetensors", "-o", OUT]) == 0
    before = Path(OUT).read_bytes()
    assert main(["import", "word.safetensors", "-o", OUT, "--class-word", "cat"]) == 2
    assert "is there already; give --overwrite" in " ".join(capsys.readouterr().err.split())
    assert Path(OUT).read_bytes() == before
    assert main(["import", "word.safetensors", "-o", OUT, "--class-word", "cat", "--overwrite"]) == 0
    assert Artifact.load(OUT).tokens[0].class_word == "cat"


def test_equal_runs_give_equal_bytes_however_many_threads_share_the_sums(here):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert here("--steps", 8)[0] == 0
        first = Path(OUT).read_bytes()
        assert here("--steps", 8, "--overwrite")[0] == 0
    finally:
        torch.set_num_threads(threads)
    assert Path(OUT).read_bytes() == first
    assert not torch.are_deterministic_algorithms_enabled()  # the caller's choice is left alone
