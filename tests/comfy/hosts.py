"""A real ComfyUI for the tests: which Python runs it, its server, and prompts through its API.

A checkout's virtual environment is `.venv-<checkout's name>` beside it, or `.venv` or `venv` inside it, or
COMFYUI_VENV. It holds ComfyUI's requirements and ours.
"""

import io
import json
import os
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACK = "likeness-portraits"  # the folder's name in custom_nodes
WORKFLOW = ROOT / "workflows" / "01 Try it, learn a demo person.json"
CPU = ["--cpu", "--use-pytorch-cross-attention"]


def host_python(checkout: Path) -> Path | None:
    """The Python that runs this checkout, if its environment is found."""
    folders = [checkout.parent / f".venv-{checkout.name}", checkout / ".venv", checkout / "venv"]
    if os.environ.get("COMFYUI_VENV"):
        folders.insert(0, Path(os.environ["COMFYUI_VENV"]).expanduser())
    pythons = [folder / name for folder in folders for name in ("bin/python", "Scripts/python.exe")]
    return next((python for python in pythons if python.exists()), None)


def environment(**changes: str) -> dict[str, str]:
    """One thread for torch: test machines are small and shared."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


def numbers_of(script: str, python: Path, *arguments: object, timeout: float = 900) -> dict[str, Any]:
    """What a script beside this file says in its last line, a JSON object, when the host's Python runs it."""
    ran = subprocess.run(
        [python, Path(__file__).with_name(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=timeout,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


class Server:
    """ComfyUI's server with one pack in custom_nodes, and all of its folders under `base`."""

    def __init__(
        self, checkout: Path, base: Path, pack: Path = ROOT, env: Mapping[str, str] | None = None
    ) -> None:
        self.checkout, self.base = checkout, base
        self._environment = environment() if env is None else dict(env)
        for folder in ("custom_nodes", "input", "output", "user", "models"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        link = base / "custom_nodes" / PACK
        if not link.exists():
            link.symlink_to(pack, target_is_directory=True)
        settings = base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True, exist_ok=True)
        seen = {"Comfy.TutorialCompleted": True, "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"]}
        settings.write_text(json.dumps(seen))  # no dialog over the editor
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / "server.log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen:
        command = [
            host_python(self.checkout), self.checkout / "main.py", *CPU, "--port", self.port,
            "--base-directory", self.base, "--database-url", f"sqlite:///{self.base}/user/comfyui.db",
            "--disable-auto-launch", "--disable-api-nodes",
        ]  # fmt: skip
        with open(self.log, "w") as log:
            process = subprocess.Popen(
                [str(part) for part in command], cwd=self.base, stdout=log, stderr=log, env=self._environment
            )
        for _ in range(1200):
            time.sleep(0.25)
            assert process.poll() is None, f"ComfyUI ended at once:\n{self.log.read_text()[-3000:]}"
            try:
                urllib.request.urlopen(f"{self.url}/system_stats", timeout=2).close()
                return process
            except OSError:
                continue
        process.kill()
        raise AssertionError(f"no answer from ComfyUI in five minutes:\n{self.log.read_text()[-3000:]}")

    def seconds_worked(self) -> float:
        """Processor time the server used so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def alive(self) -> bool:
        return self._process.poll() is None

    def memory(self) -> int:
        """Bytes that the server holds."""
        return psutil.Process(self._process.pid).memory_info().rss

    def kill(self) -> None:
        """Ends it as a crash or the system's memory watch would."""
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        self._process = self._start()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, path: str, **query: str) -> bytes:
        address = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} refused: {error.read().decode()}") from error
        return json.loads(body) if body else None

    def nodes(self) -> dict[str, Any]:
        return json.loads(self.get("/object_info"))

    def queue(self, prompt: Mapping[str, Any]) -> str:
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 600) -> dict[str, Any]:
        """The prompt's history entry, once it ended in whatever way."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = json.loads(self.get(f"/history/{prompt_id}"))
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.1)
        raise AssertionError(f"prompt not done after {seconds} s:\n{self.log.read_text()[-3000:]}")

    def run(self, prompt: Mapping[str, Any], seconds: float = 600) -> dict[str, Any]:
        """Queues a prompt and waits; the outputs by node."""
        entry = self.wait(self.queue(prompt), seconds)
        assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)[-3000:]
        return entry["outputs"]

    def picture(self, file: Mapping[str, str]) -> np.ndarray:
        """An image of an output as (H, W, 3) uint8."""
        return np.asarray(Image.open(io.BytesIO(self.get("/view", **file))).convert("RGB"))


BYPASSED, MUTED = 4, 2  # what the editor writes as a node's mode


def to_api(workflow: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow as the editor saves it, in the form the server's API takes: subgraphs are opened."""
    prompt = {}
    for graph, name, node in _opened(_Graph.of(workflow)):
        if node["type"] not in nodes or node.get("mode") in (BYPASSED, MUTED):
            continue  # notes, too, which are drawn by the editor alone
        inputs = dict(zip_widgets(nodes[node["type"]], node.get("widgets_values") or []))
        for socket_ in node.get("inputs", []):
            if socket_.get("link") is not None:
                found = graph.source(socket_["link"])
                if found is not None:
                    inputs[socket_["name"]] = found[0]
        prompt[name] = {"class_type": node["type"], "inputs": inputs}
    return prompt


@dataclass(frozen=True)
class _Graph:
    """One level of a workflow: its nodes and links, and the node of the level above that stands for it."""

    nodes: Mapping[int, Mapping[str, Any]]
    links: Mapping[int, tuple[int, int, int, int]]  # origin, its slot, target, its slot
    definitions: Mapping[str, Mapping[str, Any]]
    inside: "tuple[_Graph, Mapping[str, Any]] | None" = None

    @staticmethod
    def of(workflow: Mapping[str, Any]) -> "_Graph":
        links = {link[0]: tuple(link[1:5]) for link in workflow["links"]}
        found = {one["id"]: one for one in workflow.get("definitions", {}).get("subgraphs", [])}
        return _Graph({node["id"]: node for node in workflow["nodes"]}, links, found)

    def opened(self, node: Mapping[str, Any]) -> "_Graph":
        """What a node stands for."""
        told = self.definitions[node["type"]]
        ends = ("origin_id", "origin_slot", "target_id", "target_slot")
        links = {link["id"]: tuple(link[end] for end in ends) for link in told["links"]}
        return _Graph({one["id"]: one for one in told["nodes"]}, links, self.definitions, (self, node))

    def prefix(self) -> str:
        return "" if self.inside is None else f"{self.inside[0].prefix()}{self.inside[1]['id']}:"

    def source(self, link: int) -> "tuple[Any] | None":
        """What a link brings: [node, output], or the value of a field; None where nothing comes."""
        origin, slot, *_ = self.links[link]
        if origin < 0:  # from the level above
            assert self.inside is not None
            above, node = self.inside
            socket_ = node["inputs"][slot]
            if socket_.get("link") is not None:
                return above.source(socket_["link"])
            fields = [one["name"] for one in node["inputs"] if "widget" in one]
            return (node["widgets_values"][fields.index(socket_["name"])],) if "widget" in socket_ else None
        node = self.nodes[origin]
        if node["type"] in self.definitions:
            below = self.opened(node)
            (through,) = (name for name, link in below.links.items() if link[2:] == (-20, slot))
            return below.source(through)
        if node.get("mode") == BYPASSED:
            wanted = node["outputs"][slot]["type"]
            sockets = node.get("inputs", [])
            same = [*sockets[slot : slot + 1], *sockets]
            entry = next((one for one in same if one["type"] == wanted), None)
            return None if entry is None or entry.get("link") is None else self.source(entry["link"])
        return ([f"{self.prefix()}{origin}", slot],)


def _opened(graph: _Graph) -> Iterator[tuple[_Graph, str, Mapping[str, Any]]]:
    """All nodes with the level they are on and the name they have in the API."""
    for number, node in graph.nodes.items():
        if node["type"] in graph.definitions:
            yield from _opened(graph.opened(node))
        else:
            yield graph, f"{graph.prefix()}{number}", node


def needs_files(workflow: Mapping[str, Any]) -> bool:
    """Whether a workflow names files of models that somebody has to fetch first."""
    return any("models" in node.get("properties", {}) for node in workflow["nodes"])


def zip_widgets(node: Mapping[str, Any], values: list[Any]) -> list[tuple[str, Any]]:
    """Widget values by input name, in the order in which the editor keeps them."""
    left = list(values)
    named = []
    for group in ("required", "optional"):
        for name in node["input_order"].get(group, []):
            kind, options = (*node["input"][group][name], {})[:2]
            if not (isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")):
                continue
            if options.get("forceInput"):  # a socket, whatever its kind
                continue
            # a workflow may be older than an input: the editor then takes the input's default
            named.append((name, left.pop(0) if left else options["default"]))
            seedlike = options.get("control_after_generate", name in ("seed", "noise_seed"))
            if seedlike and left and left[0] in ("fixed", "increment", "decrement", "randomize"):
                left.pop(0)
    return named


def quick(prompt: Mapping[str, Any], steps: int = 2) -> dict[str, Any]:
    """The prompt with as little learning and drawing in it as shows that all its nodes work."""
    short = {"steps": steps, "preview_every": 0, "prior": "no", "stop_by_likeness": 0}
    return {
        name: {**node, "inputs": {key: short.get(key, value) for key, value in node["inputs"].items()}}
        for name, node in prompt.items()
    }


def widget(workflow: Mapping[str, Any], nodes: Mapping[str, Any], node_type: str, title: str = "") -> str:
    """The id of the workflow's only node of a type (and title), as the API names it."""
    found = [
        str(node["id"]) for node in workflow["nodes"]
        if node["type"] == node_type and (not title or node.get("title") == title)
    ]  # fmt: skip
    assert len(found) == 1, f"{len(found)} {node_type} nodes"
    return found[0]


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures of uint8, in dB."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)
