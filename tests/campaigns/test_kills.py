"""Kills at random and chosen moments, of every method and of every command that writes.

A run that was killed, however often, ends in the very bytes of one that was not; what lies under a final name
is whole at any time; who asks politely gets an answer and no traceback.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.training.logs import read_table
from likeness_portraits.tests.campaigns.campaign import SEED, Tally, numbered
from likeness_portraits.tests.engine.tiny import write_two

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX's")

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
POLITE = {TERM: -TERM, INT: 130}  # how what keeps nothing yet ends; learning saves and ends with 130
STEPS = {  # a few steps of each method, in both phases where there are two
    "textual-inversion": "--steps 6",
    "dreambooth-lora": "--steps 4 --prior-pictures 2 --prior-steps 1 --prior-batch-size 1",
    "custom-diffusion": "--steps 4 --prior-pictures 2 --prior-steps 1 --prior-batch-size 1",
    "personamagic": "--steps 4",
    "magictailor": "--warm-up-steps 3 --balance-steps 2",
    "magicapture": "--inversion-steps 3 --tuning-steps 2",
    "masterweaver": "--identity-steps 3 --editing-steps 2 --batch-size 2 --shards {shards} --workers 0",
}
COMMANDS = {  # by name: arguments, and whether a second run in the same folder asks to be told to replace
    "export": ("export {learned} -o out", True),
    "import": ("import {learned} -o out/back.safetensors", True),
    "generate": ("generate one two three --steps 2 -o out", False),
    "masks": ("masks out --subject face", True),
    "shards": ("shards out --miniature 6 --size 2", False),
    "interval": ("interval {ann} --points 3 -o out/curve.png", False),
    "restore": ("restore {ann}/images/0.png --prompt woman --with redraw;denoise=0.2;steps=4 -o out", False),
}  # fmt: skip


class Forks:
    """The process whose forks are run and killed."""

    def __init__(self, package_parent: Path) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "likeness_portraits.tests.campaigns.forks"], text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )  # fmt: skip
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def start(self, arguments: list[str], cwd: Path) -> int:
        """The process's id."""
        assert self._server.stdin is not None
        told = {"args": arguments, "cwd": str(cwd), "log": str(cwd / "log.txt")}
        self._server.stdin.write(json.dumps(told) + "\n")
        return int(self._answer())

    def wait(self) -> int:
        """The exit status of the one that was started last."""
        return int(self._answer())

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(60)
        except subprocess.TimeoutExpired:  # a busy machine takes its time to unload it all
            self._server.kill()
            self._server.wait()


@pytest.fixture(scope="module")
def forks(package_parent: Path) -> Iterator[Forks]:
    found = Forks(package_parent)
    yield found
    found.close()


@pytest.fixture(scope="module")
def stage(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What all runs begin from: people with masks, shards, something learned."""
    folder = tmp_path_factory.mktemp("stage")
    write_two(folder)
    for line in (
        "shards shards --miniature 4 --size 2",
        f"train textual-inversion {folder}/ann --steps 1 -o t.safetensors",
    ):
        forks.start(line.split(), folder)
        assert forks.wait() == 0, (folder / "log.txt").read_text()
    return {"ann": f"{folder}/ann", "bob": f"{folder}/bob", "shards": f"{folder}/shards",
            "learned": f"{folder}/t.safetensors"}  # fmt: skip


# ------------------------------------------------------------------------------------------------- moments


@dataclass(frozen=True)
class Moment:
    """When a run is killed, and how."""

    signal: signal.Signals
    seen: Callable[[Path], bool] | None = (
        None  # as soon as this is so; None: after a share of a whole run's time
    )
    share: float = 0.0


def writing_state(folder: Path) -> bool:
    return any((folder / "me.checkpoint").glob(".state-*"))


def first_checkpoint(folder: Path) -> bool:
    return (folder / "me.checkpoint" / "state.safetensors").exists()


def writing_result(folder: Path) -> bool:
    return any(folder.glob(".me-*"))


CHOSEN = (writing_state, first_checkpoint, writing_result)


def moments(rng: random.Random, count: int, chosen: int) -> list[Moment]:
    """So many chosen ones by SIGKILL, then random ones, some of them polite."""
    found = [Moment(KILL, seen) for seen in CHOSEN[:chosen]]
    found += [Moment(rng.choice((KILL, KILL, TERM, INT)), None, rng.random()) for _ in range(count)]
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def killed_at(forks: Forks, arguments: list[str], folder: Path, moment: Moment, whole: float) -> int:
    """Starts the command, kills it at the moment unless it has ended before; its exit status."""
    pid = forks.start(arguments, folder)
    end = time.monotonic() + (120 if moment.seen else moment.share * whole)
    while time.monotonic() < end and alive(pid):
        if moment.seen is not None and moment.seen(folder):
            break
        time.sleep(0.0005 if moment.seen else 0.005)
    with suppress(ProcessLookupError):
        os.kill(pid, moment.signal)
    return forks.wait()


# ------------------------------------------------------------------------------------------------- content


def content_of(path: Path) -> str:
    """A name for what a file holds; raises where it is not whole. Tars tell the time: their entries count."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                file.get_tensor(key)
    elif path.suffix in (".png", ".jpg"):
        Image.open(path).load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".tar":
        with tarfile.open(path) as tar:
            entries = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
        return hashlib.sha256(repr(entries).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents_of(folder: Path) -> dict[str, str]:
    """By name, of all files that are not hidden; hidden ones are unfinished."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "log.txt")
    shown = (
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return {str(path.relative_to(folder)): content_of(path) for path in shown}


def check_log(folder: Path) -> None:
    told = (folder / "log.txt").read_text()
    assert "Traceback" not in told, told[-3000:]


# ------------------------------------------------------------------------------------------------- methods


def training(method: str, stage: dict[str, str]) -> list[str]:
    people = [] if method == "masterweaver" else [stage["ann"]]
    if method in ("magictailor", "magicapture"):
        role = "style" if method == "magicapture" else "component"
        people = [stage["ann"], stage["bob"], "--role", "subject", "--role", role]
    options = STEPS[method].format(**stage).split()
    return [
        "train",
        method,
        *people,
        *options,
        "--device",
        "cpu",
        "--checkpoint-every",
        "1",
        "-o",
        "me.safetensors",
    ]


def learn_killed(
    forks: Forks,
    arguments: list[str],
    folder: Path,
    moment: Moment,
    rng: random.Random,
    whole: float,
    want: str,
) -> None:
    """Kills the run once or twice and goes on with it to the end; asserts what must be so at all times."""
    folder.mkdir()
    status = killed_at(forks, arguments, folder, moment, whole)
    for again in range(6):
        there = contents_of(folder)  # whole, whatever there is
        check_log(folder)
        assert status in (0, 130, -KILL, -TERM), f"{status}\n{(folder / 'log.txt').read_text()[-3000:]}"
        if status == 0 or there.get("me.safetensors") == want and not first_checkpoint(folder):
            break  # or the run was done, and only the process was not
        if again == 0 and rng.random() < 0.4:
            second = Moment(rng.choice((KILL, INT)), None, rng.random())
            status = killed_at(forks, [*arguments, "--resume"], folder, second, whole)
        else:
            forks.start([*arguments, "--resume"], folder)
            status = forks.wait()
    there = contents_of(folder)
    there.pop("me.checkpoint/lock", None)  # of a process that was killed while it put things away
    there.pop("me.log.csv", None)
    steps = [int(row["step"]) for row in read_table(folder / "me.log.csv")]
    assert steps and steps == sorted(set(steps)), "a step has two rows in the log, or one too early"
    assert there == {"me.safetensors": want}, (folder / "log.txt").read_text()[-3000:]


def method_killed(
    forks: Forks, stage, method: str, seed: int, count: int, folder: Path, chosen: int
) -> Tally:
    tally, arguments = Tally(f"kills of {method}", seed), training(method, stage)
    (folder / "whole").mkdir()
    begun = time.monotonic()
    forks.start(arguments, folder / "whole")
    assert forks.wait() == 0, (folder / "whole" / "log.txt").read_text()
    whole = time.monotonic() - begun
    want = contents_of(folder / "whole")["me.safetensors"]
    planned = moments(random.Random(f"{method} {seed}"), count, chosen)
    for (number, rng), moment in zip(numbered(method, seed, len(planned)), planned):
        place = folder / str(number)
        tally.attempt(number, learn_killed, forks, arguments, place, moment, rng, whole, want, patience=600)
    return tally


# ------------------------------------------------------------------------------------------------ commands


def command_killed_once(
    forks: Forks,
    name: str,
    arguments: list[str],
    folder: Path,
    moment: Moment,
    whole: float,
    want: dict[str, str],
) -> None:
    """Kills the command, looks at what is there, and runs it again to its end."""
    prepare(name, arguments, folder)
    status = killed_at(forks, arguments, folder, moment, whole)
    there = contents_of(folder)
    check_log(folder)
    assert status in (0, -KILL, *POLITE.values()), status
    assert set(there.values()) <= set(want.values()), "something else than a whole run writes"
    if status != 0:
        again = [*arguments, "--overwrite"] if COMMANDS[name][1] else arguments
        if name == "shards":
            shutil.rmtree(folder / "out", ignore_errors=True)
        forks.start(again, folder)
        status = forks.wait()
    check_log(folder)
    assert status == 0, (folder / "log.txt").read_text()[-2000:]
    assert set(want.values()) <= set(contents_of(folder).values())


def prepare(name: str, arguments: list[str], folder: Path) -> None:
    folder.mkdir()
    if name == "masks":
        (folder / "out").mkdir()
        for number, shown in enumerate(world.example_pictures(world.TUNING_SEEDS[2])[:3]):
            Image.fromarray(shown.pixels).save(folder / "out" / f"{number}.png")


def command_killed(forks: Forks, stage, name: str, seed: int, count: int, folder: Path) -> Tally:
    tally = Tally(f"kills of {name}", seed)
    arguments = COMMANDS[name][0].format(**stage).split()
    prepare(name, arguments, folder / "whole")
    begun = time.monotonic()
    forks.start(arguments, folder / "whole")
    assert forks.wait() == 0, (folder / "whole" / "log.txt").read_text()
    whole, want = time.monotonic() - begun, contents_of(folder / "whole")
    planned = moments(random.Random(f"{name} {seed}"), count, chosen=0)
    for (number, _), moment in zip(numbered(name, seed, len(planned)), planned):
        place = folder / str(number)
        tally.attempt(
            number, command_killed_once, forks, name, arguments, place, moment, whole, want, patience=600
        )
    return tally


# --------------------------------------------------------------------------------------------------- tests


def test_every_method_is_killed_here():
    assert set(STEPS) == set(METHODS)


def test_learning_that_is_killed_ends_in_the_bytes_of_learning_that_is_not(forks, stage, tmp_path: Path, say):
    method_killed(forks, stage, "textual-inversion", 0, 0, tmp_path, chosen=1).close(say)


def test_a_command_that_is_killed_leaves_whole_files(forks, stage, tmp_path: Path, say):
    command_killed(forks, stage, "masks", 0, 1, tmp_path).close(say)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("method", STEPS)
def test_every_method_ends_in_the_same_bytes_however_it_is_killed(
    forks, stage, tmp_path: Path, say, method: str
):
    method_killed(forks, stage, method, SEED, 9, tmp_path, chosen=len(CHOSEN)).close(say)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_leaves_whole_files_however_it_is_killed(forks, stage, tmp_path: Path, say, name: str):
    command_killed(forks, stage, name, SEED, 8, tmp_path).close(say)
