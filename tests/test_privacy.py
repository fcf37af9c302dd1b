"""Nobody is called and nothing is left in the user's home: every command runs behind a trap in the kernel."""

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command

from likeness_portraits.engine.cli import app
from likeness_portraits.engine.config import METHODS
from likeness_portraits.engine.data.concepts import Concept, Picture, load_concept, write_concept
from likeness_portraits.tests.engine.bases.test_base import save_folder
from likeness_portraits.tests.engine.data.packs_made import bright_detector_pack
from likeness_portraits.tests.engine.tiny import tiny_base, write_two

ROOT = Path(__file__).resolve().parents[1]
TRAP = ROOT / "tests" / "trap"
QUIETENED = ("DO_NOT_TRACK", "COMFY_NO_TELEMETRY", "ORT_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
RUN = """
import json, sys
from likeness_portraits.engine.cli import main
for line in json.load(open(sys.argv[1])):
    print("##", *line, flush=True)
    status = main(line)
    if status:
        sys.exit(f"{line} ended with {status}")
"""
TRAINED = {  # what makes each method a matter of seconds
    "textual-inversion": "--steps 1",
    "dreambooth-lora": "--steps 1 --prior-weight 0",
    "custom-diffusion": "--steps 1 --prior-pictures 1 --prior-steps 1 --prior-batch-size 1",
    "personamagic": "--steps 1",
    "magictailor": "--warm-up-steps 1 --balance-steps 1",
    "magicapture": "--inversion-steps 1 --tuning-steps 1",
    "masterweaver": "--identity-steps 1 --editing-steps 1 --batch-size 1 --shards people --workers 1",
}
QUICK = """
shards shards --miniature 2 --size 2
info ann.safetensors ann --json
export ann.safetensors -o others
train lora ann -o alias.safetensors --print-config
import others/ann-stock.safetensors others/ann-v0.safetensors -o back.safetensors
lora merge ann.safetensors others/ann-stock.safetensors -o merged.safetensors
lora resize ann.safetensors --rank 2 -o resized.safetensors
lora norms resized.safetensors
lora extract before after --rank 1 -o difference.safetensors
generate a.photo.of.<v0> --concept ann.safetensors --steps 1 -o drawn
generate a.woman --identity ann/images/0.png --steps 1 -o people
masks bare --subject face
interval ann --points 2 -o curve.png
measure drawn -r ann/images --faces miniature
measure ann/images/0.png -r ann/images --faces auraface --packs packs
restore drawn/000-seed0.png --prompt a.woman --with redraw;denoise=0.1 -o restored
doctor --data ann --faces auraface --models packs
bench speed --method textual-inversion --steps 1
grid others/ann-stock.safetensors -r ann --strengths 1 --prompt {} --trigger woman --seeds 1 --steps 1 -o grid
"""
LONG = """
evaluate ann.safetensors -p ann --rounds 1
demo --method textual-inversion --rounds 1
bench miniature --people 2 --drawn 1
bench claims --quick --minutes 0.1 --people 2
bench sweep textual-inversion --set steps=2 --people 1 --quick
bench memory --base sd15 --method textual-inversion --resolution 512
"""


def lines(text: str) -> list[list[str]]:
    return [[word.replace(".photo.of.", " photo of ").replace("a.woman", "a woman") for word in line.split()]
            for line in text.strip().splitlines()]  # fmt: skip


def learn(method: str) -> list[str]:
    """A command that learns with the method, and replaces what another test learned."""
    concepts = ["ann"] if method != "masterweaver" else []
    if method in ("magictailor", "magicapture"):
        role = "style" if method == "magicapture" else "component"
        concepts = ["ann", "bob", "--role", "subject", "--role", role]
    output = "ann.safetensors" if method == "dreambooth-lora" else f"{method}.safetensors"
    told = ["train", method, *concepts, *TRAINED[method].split()]
    return [*told, "--device", "cpu", "--overwrite", "-o", output]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two concepts, pictures without masks, a pack of face models, a model before and after."""
    folder = tmp_path_factory.mktemp("place")
    write_two(folder)
    first = load_concept(folder / "bob").pictures[0]
    bare = (Picture("0", first.pixels),)
    write_concept(folder / "bare", Concept("<v0>", "woman", "subject", bare))
    bright_detector_pack(folder / "packs")
    model = tiny_base()
    save_folder(model, folder / "before")
    with torch.no_grad():
        model.unet.get_parameter("mid_block.attentions.0.proj_in.weight").add_(1e-2)
    save_folder(model, folder / "after")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home, which is still empty at the end."""
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert left == [], "files were left in the user's home"


def trapped(home: Path, log: Path, *paths: Path) -> dict[str, str]:
    """The environment of somebody who told no library to keep quiet, with the trap in it."""
    kept = {key: value for key, value in os.environ.items()
            if key not in QUIETENED and not key.startswith(("XDG_", "HF_"))}  # fmt: skip
    return kept | {
        "HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), "LIKENESS_TRAP": str(log),
        "PYTHONPATH": os.pathsep.join(map(str, (TRAP, *paths))), "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def run_trapped(home: Path, command: Sequence[object], *paths: Path, **options: Any) -> str:
    """Runs the command behind the trap; fails where anybody was called, and says who called."""
    log = home.with_name("calls.txt")
    ran = subprocess.run(
        [sys.executable, *map(str, command)], env=trapped(home, log, *paths), capture_output=True, text=True,
        **options,
    )  # fmt: skip
    called = log.read_text() if log.exists() else ""
    assert not called and ran.returncode == 0, (
        f"{ran.returncode}\n{called}\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"
    )
    return ran.stdout


CALLS = {
    "python": "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
    "a name": "import socket; socket.getaddrinfo('example.org', 80)",
    "native code": "import ctypes, threading; where = ctypes.byref(ctypes.c_void_p()); "
    "ask = lambda: ctypes.CDLL(None).getaddrinfo(b'example.org', b'80', None, where); "
    "call = threading.Thread(target=ask); call.start(); call.join()",
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel watches on Linux alone")
@pytest.mark.parametrize("kind", CALLS)
def test_the_trap_catches_calls(home: Path, kind: str):
    log = home.with_name("calls.txt")
    ran = subprocess.run([sys.executable, "-c", CALLS[kind]], env=trapped(home, log), capture_output=True)
    assert ran.returncode == -signal.SIGSYS and log.read_text()


def loads_onnxruntime(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
    return any(name.split(".")[0] in ("onnxruntime", "insightface") for name in names)


def silences(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "silence_onnxruntime"


def test_onnxruntime_is_silenced_wherever_it_is_imported():
    found = 0
    for path in (*(ROOT / "engine").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        functions = [list(ast.walk(node)) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in filter(loads_onnxruntime, ast.walk(tree)):
            inside = [body for body in functions if node in body]
            before = [
                part for body in inside for part in body if silences(part) and part.lineno < node.lineno
            ]
            assert before, f"{path}, line {node.lineno}"
            found += 1
    assert found >= 2


def test_every_command_is_tried_here():
    tried = {line[0] if line[0] not in ("bench", "lora", "train") else " ".join(line[:2])
             for line in (*map(learn, TRAINED), *lines(QUICK), *lines(LONG))}  # fmt: skip
    known = set()
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        known |= {f"{name} {entry}" for entry in inner} if inner else {name}
    known -= {"captions"}  # takes somebody's model: tests/engine/data/test_captioner.py makes one
    assert tried == known and set(TRAINED) == set(METHODS)


def test_no_command_calls_anybody_or_leaves_anything_in_the_home(
    home: Path, place: Path, package_parent: Path, tmp_path: Path
):
    shards, *others = lines(QUICK)
    todo = [["doctor"], shards, learn("dreambooth-lora"), *others]  # first who loads onnxruntime alone
    (tmp_path / "commands.json").write_text(json.dumps(todo))
    run_trapped(home, ["-c", RUN, tmp_path / "commands.json"], package_parent, cwd=place)


@pytest.mark.slow
def test_no_method_calls_anybody(home: Path, place: Path, package_parent: Path, tmp_path: Path):
    todo = [lines("shards people --miniature 2 --size 2")[0], *map(learn, TRAINED)]
    (tmp_path / "commands.json").write_text(json.dumps(todo))
    run_trapped(home, ["-c", RUN, tmp_path / "commands.json"], package_parent, cwd=place)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(lines(LONG))))
def test_no_long_command_calls_anybody_either(
    home: Path, place: Path, package_parent: Path, tmp_path: Path, number: int
):
    todo = [learn("dreambooth-lora"), lines(LONG)[number]]
    (tmp_path / "commands.json").write_text(json.dumps(todo))
    run_trapped(home, ["-c", RUN, tmp_path / "commands.json"], package_parent, cwd=place)
