"""A server with our templates' nodes calls nobody and leaves nothing in the user's home."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from likeness_portraits.tests.comfy.hosts import ROOT, Server, needs_files, quick, to_api
from likeness_portraits.tests.engine.data.packs_made import bright_detector_pack
from likeness_portraits.tests.test_privacy import trapped

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel watches on Linux alone"),
]
FACES = {
    "people": {"class_type": "LikenessMiniature", "inputs": {"person": 0, "pictures": 1}},
    "found": {"class_type": "LikenessDetectFaces",
              "inputs": {"images": ["people", 3], "pack": "auraface", "number": -1, "size": 64}},
    "seen": {"class_type": "PreviewImage", "inputs": {"images": ["found", 0]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def watched(checkout: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind the trap, with an empty home, which was left empty and called nobody in the end."""
    base = tmp_path_factory.mktemp("watched")
    home, calls = base / "home", base / "calls.txt"
    home.mkdir()
    bright_detector_pack(base / "models" / "insightface")
    server = Server(checkout, base, env=trapped(home, calls))
    yield server
    alive = server.alive()
    server.stop()
    assert calls.read_text() == "" and alive, "somebody was called"
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*")) == []


def test_our_templates_call_nobody(watched: Server):
    nodes = watched.nodes()
    watched.run(FACES)
    for file in sorted((ROOT / "workflows").glob("*.json")):
        workflow = json.loads(file.read_text("utf-8"))
        if not needs_files(workflow):
            watched.run(quick(to_api(workflow, nodes)))
