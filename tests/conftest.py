"""Makes the working tree importable as `likeness_portraits`, and skips what this machine cannot run."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

# comfy-cli's and onnxruntime's makers are not told of test runs; tests/test_privacy.py takes this away again
for _name in ("DO_NOT_TRACK", "COMFY_NO_TELEMETRY", "ORT_DISABLE_TELEMETRY"):
    os.environ[_name] = "1"

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

# The repository's root is the package: no copy, no install, and the same relative imports as in ComfyUI.
_package = types.ModuleType("likeness_portraits")
_package.__path__ = [str(ROOT)]
_package.__file__ = str(ROOT / "__init__.py")
sys.modules["likeness_portraits"] = _package


def comfy_checkouts() -> list[Path]:
    """The ComfyUI checkouts the `comfy` tests run against."""
    named = os.environ.get("COMFYUI_PATHS") or os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI"
    folders = [Path(name).expanduser() for name in named.split(os.pathsep) if name]
    return [folder for folder in folders if (folder / "main.py").is_file()]


def kit_folder() -> Path | None:
    """The folder of trained networks and photographs that the `real` tests run on, where it is."""
    named = os.environ.get("LIKENESS_KIT")
    folder = Path(named).expanduser() if named else ROOT.parent / "shared" / "kit"
    return folder if (folder / "yunet_as_scrfd.onnx").is_file() else None


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing_comfy = [item for item in items if item.get_closest_marker("comfy")]
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needing_comfy and not comfy_checkouts():
        reason = "no ComfyUI here: set COMFYUI_PATH to a checkout (its folder holds main.py)"
        for item in needing_comfy:
            item.add_marker(pytest.mark.skip(reason=reason))
    needing_kit = [item for item in items if item.get_closest_marker("real")]
    if needing_kit and kit_folder() is None:
        reason = "no trained networks and photographs here: set LIKENESS_KIT to the kit's folder"
        for item in needing_kit:
            item.add_marker(pytest.mark.skip(reason=reason))
    if needing_gpu and not has_gpu():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session")
def kit() -> Path:
    """Trained networks and photographs; for tests marked `real`."""
    folder = kit_folder()
    if folder is None:
        pytest.skip("no trained networks and photographs here: set LIKENESS_KIT to the kit's folder")
    return folder


@pytest.fixture(scope="session")
def package_parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder which, on PYTHONPATH, lets another process import the working tree as `likeness_portraits`."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "likeness_portraits").symlink_to(ROOT, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def likeness(package_parent: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real command line in a process of its own: `likeness("info", path, cwd=folder)`."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(package_parent), "COLUMNS": "200", "NO_COLOR": "1"}
        environment.setdefault("OMP_NUM_THREADS", "1")
        environment |= options.pop("env", {})
        command = [sys.executable, "-m", "likeness_portraits.engine.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, **options)

    return run
