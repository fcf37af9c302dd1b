"""A long queue on a real server, with cancels, deletions, kills and restarts in it: nothing is left of them.

Every prompt that nobody cancelled ends well; a learning that was cancelled or killed and queued again ends in
the bytes of one that was not; a plain picture drawn at the end is the one drawn at the beginning.
"""

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness_portraits.tests.campaigns.campaign import SEED
from likeness_portraits.tests.comfy.hosts import ROOT, WORKFLOW, Server, needs_files, quick, to_api

pytestmark = pytest.mark.comfy

LONG, SHORT = 40, 1
STEPS = {LONG: 12, SHORT: 5}  # of a learning that is broken off
GROWTH = 400 * 2**20  # bytes that a server may have gained by the end; models that it keeps are some of them
PLAIN = {
    "person": {"class_type": "LikenessMiniature", "inputs": {"person": 0, "pictures": 1}},
    "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["person", 1], "text": "a photo of a woman"}},
    "none": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["person", 1], "text": ""}},
    "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "drawn": {"class_type": "KSampler", "inputs": {
        "model": ["person", 0], "positive": ["text", 0], "negative": ["none", 0],
        "latent_image": ["latent", 0], "seed": 0, "steps": 4, "cfg": 4.0, "sampler_name": "euler",
        "scheduler": "simple", "denoise": 1.0}},
    "decoded": {"class_type": "VAEDecode", "inputs": {"samples": ["drawn", 0], "vae": ["person", 2]}},
    "saved": {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}},
}  # fmt: skip


def templates(nodes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Our templates as the API takes them, with two steps of everything."""
    files = sorted((ROOT / "workflows").glob("*.json"))
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in files}
    return {name: quick(to_api(one, nodes)) for name, one in found.items() if not needs_files(one)}


def seeded(prompt: dict[str, Any], seed: int) -> dict[str, Any]:
    """The prompt with another seed everywhere, so that nothing of it is remembered."""
    return {
        name: {
            **node,
            "inputs": {key: seed if key == "seed" else value for key, value in node["inputs"].items()},
        }
        for name, node in prompt.items()
    }


def learning(template: dict[str, Any], seed: int, steps: int, name: str) -> dict[str, Any]:
    """Learning alone, of so many steps, saved under a name."""
    found = seeded(template, seed)
    (learn,) = (name for name, node in found.items() if node["class_type"] == "LikenessTrainDreamBoothLora")
    found[learn]["inputs"]["steps"] = steps
    needed, waiting = set(), [learn]
    while waiting:
        needed.add(waiting[-1])
        inputs = found[waiting.pop()]["inputs"].values()
        waiting += [value[0] for value in inputs if isinstance(value, list) and value[0] not in needed]
    save = {"class_type": "LikenessSave", "inputs": {"likeness": [learn, 0], "name": name}}
    return {key: node for key, node in found.items() if key in needed} | {"save": save}


class Hosts:
    """The server of now: the same folders through kills and restarts."""

    def __init__(self, checkout: Path, base: Path) -> None:
        self.checkout, self.base = checkout, base
        self.server = Server(checkout, base)
        self.logs: list[str] = []
        self.restarts = 0

    def restart(self) -> None:
        self.server.kill()
        self.logs.append(self.server.log.read_text())
        self.server = Server(self.checkout, self.base)
        self.restarts += 1

    def close(self) -> str:
        self.server.stop()
        return "".join([*self.logs, self.server.log.read_text()])


def plain_picture(server: Server) -> np.ndarray:
    # another size first: else ComfyUI remembers the picture
    once = json.loads(json.dumps(PLAIN))
    once["drawn"]["inputs"]["seed"] = time.monotonic_ns() % 2**32
    server.run(once)
    return server.picture(server.run(PLAIN)["saved"]["images"][0])


def started(server: Server, prompt_id: str, seconds: float = 120) -> bool:
    """Waits until the prompt runs; whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        queue = json.loads(server.get("/queue"))
        if any(entry[1] == prompt_id for entry in queue["queue_running"]):
            return True
        if json.loads(server.get(f"/history/{prompt_id}")):
            return False
        time.sleep(0.02)
    return False


def learned_bytes(base: Path, name: str) -> str:
    return hashlib.sha256((base / "models" / "likeness" / f"{name}.safetensors").read_bytes()).hexdigest()


def broken_off(
    hosts: Hosts, template: dict[str, Any], rng: random.Random, number: int, how: str, steps: int
) -> None:
    """A learning is cancelled, or the server killed, in its midst; queued again it ends in the same bytes."""
    seed = rng.randrange(2**31)
    name, whole = f"broken-{number}", f"whole-{number}"
    told = hosts.server.queue(learning(template, seed, steps, name))
    if started(hosts.server, told):
        time.sleep(rng.uniform(0.2, 3.0))
    if how == "kill":
        hosts.restart()
    else:
        hosts.server.post("/interrupt", {})
        hosts.server.wait(told)
    again = hosts.base / "models" / "likeness" / f"{name}.safetensors"
    if not again.exists():  # it may have been too quick for us
        hosts.server.run(learning(template, seed, steps, name))
    hosts.server.post("/free", {"unload_models": True, "free_memory": True})  # nothing is remembered of it
    hosts.server.run(learning(template, seed, steps, whole))
    assert learned_bytes(hosts.base, name) == learned_bytes(hosts.base, whole), (how, number)


def queue_tried(
    checkout: Path, base: Path, seed: int, count: int, breaks: int, say: Callable[[str], None]
) -> None:
    rng, counts = random.Random(f"queue {seed}"), Counter[str]()
    hosts = Hosts(checkout, base)
    known = templates(hosts.server.nodes())
    whole = count > SHORT
    known = known if whole else {WORKFLOW.stem: known[WORKFLOW.stem]}
    before = plain_picture(hosts.server)
    for name in known if whole else ():  # everything is loaded once before memory is looked at
        hosts.server.run(known[name])
    memory = hosts.server.memory()
    waiting: list[tuple[str, str]] = []
    for number in range(count):
        name = rng.choice(sorted(known))
        waiting.append((name, hosts.server.queue(seeded(known[name], rng.randrange(2**31)))))
        if rng.random() < 0.15:
            hosts.server.post("/queue", {"delete": [waiting.pop()[1]]})
            counts["deleted"] += 1
        if rng.random() < 0.25 and started(hosts.server, waiting[0][1] if waiting else "", 20):
            time.sleep(rng.uniform(0, 2))
            hosts.server.post("/interrupt", {})
            counts["cancel pressed"] += 1
        while len(waiting) > 3 or waiting and number == count - 1:
            entry = hosts.server.wait(waiting.pop(0)[1], 1200)["status"]
            cancelled = any(kind == "execution_interrupted" for kind, _ in entry["messages"])
            assert entry["status_str"] == "success" or cancelled, json.dumps(entry["messages"])[-2000:]
            counts["cancelled" if cancelled else "done"] += 1
    grown = hosts.server.memory() - memory
    if whole:
        assert np.array_equal(plain_picture(hosts.server), before), "something is left in the model"
    for number in range(breaks):
        broken_off(hosts, known[WORKFLOW.stem], rng, number, ("cancel", "kill")[number % 2], STEPS[count])
        counts["broken off and gone on with"] += 1
    assert np.array_equal(plain_picture(hosts.server), before), "something is left in the model"
    shown = hosts.server.nodes()["LikenessLoad"]["input"]["required"]
    assert not any(Path(str(entry)).name.startswith(".") for entry in list(shown.values())[0][0])
    told = hosts.close()
    counts["restarts"] = hosts.restarts
    say(f"campaign queue, seed {seed}: {count} prompts, {dict(sorted(counts.items()))}, "
        f"memory {grown / 2**20:+.0f} MB, the plain picture bit-identical")  # fmt: skip
    assert grown < GROWTH or not whole  # of few prompts each loads something new
    assert "Traceback" not in told, told[told.index("Traceback") - 500 :][:3000]


def test_a_short_queue_leaves_nothing_behind(checkout: Path, tmp_path: Path, say):
    queue_tried(checkout, tmp_path, 0, SHORT, 1, say)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_long_queue_leaves_nothing_behind(checkout: Path, tmp_path: Path, say):
    queue_tried(checkout, tmp_path, SEED, LONG, 6, say)
