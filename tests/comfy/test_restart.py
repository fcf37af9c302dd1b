"""A server that is killed while it learns: the same queue entry goes on, and nothing is left over."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server
from likeness_portraits.tests.engine.small_disk import fill, small_disk_at

pytestmark = pytest.mark.comfy

STEPS, MINUTES = 60, 0.02  # 1.2 seconds


@pytest.fixture
def own(checkout: Path, python: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that may be killed."""
    server = Server(checkout, tmp_path)
    yield server
    server.stop()


def training(name: str, **changes: Any) -> dict[str, Any]:
    told = {
        "preset": "miniature", "steps": STEPS, "learning_rate": 0.0, "vectors": 1, "seed": 3,
        "masked": "as the preset says", "preview_every": 0, "preview_prompt": "",
        "checkpoint_minutes": MINUTES, **changes,
    }  # fmt: skip
    sockets = {"model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "concept": ["concept", 0]}
    return {
        "base": node("LikenessMiniature", person=0, pictures=4),
        "concept": node(
            "LikenessConcept", images=["base", 3], class_word="woman", token="<v0>", role="subject"
        ),
        "learn": node("LikenessTrainTextualInversion", **sockets, **told),
        "save": node("LikenessSave", likeness=["learn", 0], name=name),
    }  # fmt: skip


def kept(server: Server) -> list[Path]:
    return list((server.base / "user" / "__likeness" / "runs").glob("*.checkpoint/state.safetensors"))


def step_in(file: Path) -> tuple[int, float]:
    """The step that a checkpoint is of, and when it was written."""
    written = file.stat().st_mtime
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["position"])["phase_step"], written


def test_a_killed_server_loses_no_more_than_the_interval_between_checkpoints(own: Server):
    own.queue(training("mine"))
    end, seen = time.monotonic() + 300, {0: 0.0}
    while max(seen) < 0.6 * STEPS:
        assert time.monotonic() < end, own.log.read_text()[-2000:]
        seen |= dict(step_in(file) for file in kept(own))
        time.sleep(0.02)
    time.sleep(0.7 * 60 * MINUTES)  # not just when everything is on disk
    own.kill()
    killed = time.time()
    (file,) = kept(own)
    step, written = step_in(file)
    steps = sorted(seen)[1:]
    each = (seen[steps[-1]] - seen[steps[0]]) / max(steps[-1] - steps[0], 1)  # seconds, writing included
    lost = killed - written  # the interval, and the step it ended in
    assert lost <= 60 * MINUTES + 3 * each + 1
    own.start_again()
    own.run(training("mine"))
    assert f"learning: step {step + 1} of {STEPS}" in own.log.read_text()
    shutil.rmtree(own.base / "user" / "__likeness" / "learned")  # else nothing is learned twice
    own.run(training("whole", preview_prompt="<v0>"))
    assert f"learning: step 1 of {STEPS}" in own.log.read_text()
    mine, whole = (own.base / "models" / "likeness" / f"{name}.safetensors" for name in ("mine", "whole"))
    assert mine.read_bytes() == whole.read_bytes() and Artifact.load(mine).steps == STEPS
    assert not kept(own)
    assert not list((own.base / "temp" / "likeness" / "runs").glob("*"))


def ended(server: Server, prompt_id: str) -> str:
    """How a prompt ended, with what was said."""
    status = server.wait(prompt_id)["status"]
    return f"{status['status_str']} {json.dumps(status['messages'])}"


@pytest.mark.slow
def test_two_servers_on_one_user_folder_are_told_of_each_other(own: Server, checkout: Path, tmp_path: Path):
    other = tmp_path / "other"
    (other / "user").mkdir(parents=True)
    shared = own.base / "user" / "__likeness"
    shared.mkdir()
    (other / "user" / "__likeness").symlink_to(shared, target_is_directory=True)
    second = Server(checkout, other)
    try:
        first = own.queue(training("mine"))
        end = time.monotonic() + 300
        while not kept(own):
            assert time.monotonic() < end, own.log.read_text()[-2000:]
            time.sleep(0.02)
        told = ended(second, second.queue(training("mine")))
        assert told.startswith("error") and "another run is learning the same at this moment" in told
        second.run(training("another", seed=4, steps=1))  # what is no equal run goes on
        assert ended(own, first).startswith("success")
        second.run(training("mine"))  # and is not learned twice
        assert "learning: step 1 of 60" not in second.log.read_text()
        files = [server.base / "models" / "likeness" / "mine.safetensors" for server in (own, second)]
        assert files[0].read_bytes() == files[1].read_bytes()
    finally:
        second.stop()


@pytest.mark.slow
def test_a_full_disk_in_the_user_folder_loses_nothing_that_was_learned(own: Server):
    place = own.base / "user" / "__likeness"
    place.mkdir()
    with small_disk_at(place, "1m"):
        fill(place / "films")
        own.run(training("mine", steps=3, checkpoint_minutes=0.001))
        said = own.log.read_text()
        assert "the disk is full; free some space" in said and "Traceback" not in said
        assert Artifact.load(own.base / "models" / "likeness" / "mine.safetensors").steps == 3
        (only,) = (own.base / "temp" / "likeness" / "runs").glob("*.safetensors")
        assert Artifact.load(only).steps == 3  # nor is the first copy removed
        assert not list(place.rglob("*.safetensors"))  # no half of one


def test_what_killed_writes_left_is_not_offered_and_old_runs_are_swept(own: Server):
    likenesses, runs = own.base / "models" / "likeness", own.base / "user" / "__likeness" / "runs"
    old, foreign = runs / "0123456789abcdef-150.checkpoint", runs / "notes.checkpoint"
    for folder in (likenesses / "me.checkpoint", old, foreign):
        folder.mkdir(parents=True)
        (folder / "state.safetensors").touch()
    (foreign / "thesis.txt").touch()
    for folder in (old, foreign):
        os.utime(folder, (0, 0))
    (likenesses / ".anna-0123456789ab.safetensors").touch()
    os.utime(likenesses / ".anna-0123456789ab.safetensors", (0, 0))
    own.run(training("anna", steps=1))
    assert not old.exists() and (foreign / "thesis.txt").exists()
    assert not (likenesses / ".anna-0123456789ab.safetensors").exists()  # its writer is long gone
    (likenesses / ".bo-0123456789ab.safetensors").touch()
    offered = own.nodes()["LikenessLoad"]["input"]["required"]["name"]
    assert "anna.safetensors" in json.dumps(offered) and "bo-0123456789ab" not in json.dumps(offered)
    assert "state.safetensors" not in json.dumps(offered)


def test_an_embedding_goes_with_the_last_clip_that_knows_it(own: Server):
    folder = own.base / "temp" / "likeness" / "embeddings"
    for seed in range(3):
        graph = training("x", steps=1, seed=seed)
        graph["apply"] = node(
            "LikenessApply", model=["base", 0], clip=["base", 1], likeness=["learn", 0], strength_model=1.0,
            strength_clip=1.0,
        )  # fmt: skip
        graph["text"] = node("CLIPTextEncode", clip=["apply", 1], text="a photo of <v0>")
        graph["end"] = node("PreviewAny", source=["text", 0])
        own.run(graph)
    own.post("/free", {"unload_models": True, "free_memory": True})
    end = time.monotonic() + 60
    while len(list(folder.glob("*/*.safetensors"))) > 1:
        assert time.monotonic() < end, sorted(folder.rglob("*"))
        time.sleep(0.5)
