"""The pack as the registry ships it: validated, packed, and unpacked into a clean ComfyUI."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from likeness_portraits.tests.comfy.hosts import PACK, ROOT, WORKFLOW, Server, to_api
from likeness_portraits.tests.comfy.test_graph import shortened

pytestmark = pytest.mark.comfy


def comfy_cli(*arguments: str, cwd: Path, home: Path) -> str:
    """What `comfy` prints; it asks nothing and leaves no trace in the user's home."""
    program = Path(sys.executable).with_name("comfy")
    if not program.exists():
        pytest.skip("comfy-cli is not installed: pip install comfy-cli")
    ran = subprocess.run(
        [program, "--skip-prompt", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1", "COLUMNS": "200"},
    )  # fmt: skip
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the working tree's tracked files: comfy-cli packs what git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: comfy-cli packs what git tracks")
    folder = tmp_path_factory.mktemp("sources") / PACK
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def packed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip that `comfy node pack` makes."""
    said = comfy_cli("node", "pack", cwd=sources, home=tmp_path_factory.mktemp("home"))
    assert (sources / "node.zip").exists(), said
    return sources / "node.zip"


def test_comfy_node_validate_finds_nothing(
    sources: Path, tmp_path: Path, first_checkout_only, checkout: Path
):
    said = comfy_cli("node", "validate", cwd=sources, home=tmp_path)
    assert "All validation checks passed" in said, said
    assert not re.search(r"\b[SE]\d{3}\b", said), said


def test_the_zip_holds_the_pack_and_no_tests(packed: Path, first_checkout_only, checkout: Path):
    names = set(zipfile.ZipFile(packed).namelist())
    wanted = {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "web/docs/LikenessApply.md"}
    wanted |= {
        "locales/en/nodeDefs.json",
        f"workflows/{WORKFLOW.stem}.json",
        f"workflows/{WORKFLOW.stem}.jpg",
    }
    wanted |= {f"engine/miniature/weights/{name}.safetensors" for name in ("unet", "vae", "text_encoder")}
    assert wanted - names == set()
    assert [name for name in names if name.startswith(("tests/", ".ci", ".git"))] == []


def test_the_zip_in_a_clean_comfyui_runs_the_bundled_workflow(
    packed: Path, python: Path, tmp_path: Path, first_checkout_only, checkout: Path
):
    pack = tmp_path / "custom_nodes" / PACK
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(pack)
    server = Server(checkout, tmp_path, pack)
    try:
        workflow: dict[str, Any] = json.loads((pack / "workflows" / WORKFLOW.name).read_text("utf-8"))
        outputs = server.run(shortened(to_api(workflow, server.nodes()), "packed"))
        saved = [entry["images"][0] for entry in outputs.values() if "images" in entry]
        assert any(file["type"] == "output" for file in saved)
    finally:
        server.stop()
