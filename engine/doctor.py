"""Looks at the machine: versions, devices, onnxruntime's state and folders, and what is wrong with them."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .telemetry import silence_onnxruntime
from .version import VERSION

REQUIRED = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")
_OPTIONAL = ("insightface", "onnxruntime", "onnxruntime-gpu", "deepspeed", "comfy-cli")
GOOD, REMARK, BAD = "✓", "·", "✗"
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")
# insightface asks for the CPU wheel by name; without dependencies pip leaves it away, and it is not missed
MEND = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install --no-deps onnxruntime-gpu"
MEND_CPU = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install --no-deps onnxruntime"
ROOM = 5  # GB free below which learning may fail to write


class Finding(NamedTuple):
    """One thing looked at; `mark` is ✓, · (worth knowing) or ✗ (needs mending)."""

    mark: str
    what: str
    state: str


def examine() -> list[Finding]:
    """Everything worth knowing about this machine, most important first."""
    return [
        Finding(GOOD, "likeness-portraits", VERSION),
        Finding(GOOD, "python", f"{platform.python_version()} on {platform.platform()}"),
        *(_package(name, needed=True) for name in REQUIRED),
        *(_package(name, needed=False) for name in _OPTIONAL),
        *_devices(),
        _onnxruntime(),
        *_folders(),
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, needed: bool) -> Finding:
    version = _version(name)
    if name == "insightface" and version is not None and version.split(".")[0] == "0":
        return old_insightface(version)
    if version is not None:
        return Finding(GOOD, name, version)
    return (
        Finding(BAD, name, f"missing; run `pip install {name}`")
        if needed
        else Finding(REMARK, name, "not installed")
    )


def old_insightface(version: str) -> Finding:
    """Before 1.0 it needed a compiler, and breaks with newer numpy."""
    return Finding(BAD, "insightface", f"{version} is too old; run `pip install 'insightface>=1.0'`")


def _devices() -> list[Finding]:
    cores = f"{os.cpu_count()} CPU cores"
    if _version("torch") is None:
        return [Finding(REMARK, "devices", cores)]
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "this torch is built without CUDA" if built is None else f"CUDA {built} finds no device"
        return [Finding(REMARK, "devices", f"{cores}, no GPU: {why}")]
    findings = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        state = f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GB free"
        findings.append(Finding(GOOD, f"cuda:{index}", state))
    return findings


def _onnxruntime() -> Finding:
    """The CPU and the GPU wheel share a folder: whichever came last overwrote the other's files."""
    wheels = [name for name in ONNXRUNTIMES if _version(name) is not None]
    if not wheels:
        return Finding(
            REMARK, "face models", 'no onnxruntime; for face detection run `pip install ".[faces]"`'
        )
    silence_onnxruntime()
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except (ImportError, AttributeError) as error:
        # seen when one of the two wheels was uninstalled: it takes the shared files along
        mend = MEND if _has_gpu() else MEND_CPU
        return Finding(
            BAD, "face models", f"{' and '.join(wheels)} installed, but not all there ({error}); run `{mend}`"
        )
    return onnxruntime_finding(wheels, _lying_wheel(), providers, _has_gpu())


def onnxruntime_finding(
    wheels: Sequence[str], lying: str | None, providers: Sequence[str], has_gpu: bool
) -> Finding:
    """What to say of the installed wheels, the one whose files lie there and what it offers."""
    worse = BAD if has_gpu else REMARK
    if len(wheels) == 2 and (lying == "onnxruntime" or "CUDAExecutionProvider" not in providers):
        state = f"onnxruntime overwrote onnxruntime-gpu, so that faces are found on the CPU; run `{MEND}`"
        return Finding(worse, "face models", state)
    if len(wheels) == 2:
        state = (
            "onnxruntime-gpu came after onnxruntime and works; they share a folder, so look again here "
            f"after either changes, and if faces are slow run `{MEND}`"
        )
        return Finding(REMARK, "face models", state)
    if has_gpu and "CUDAExecutionProvider" not in providers:
        return Finding(REMARK, "face models", f"onnxruntime for the CPU only, beside a GPU; run `{MEND}`")
    offered = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return Finding(GOOD, "face models", f"{wheels[0]} with {offered}")


def _lying_wheel(path: Sequence[str] | None = None) -> str | None:
    """Which of the two wheels the shared library on disk belongs to, by the size that its record gives."""
    wheels = importlib.metadata.distributions(path=list(path)) if path else importlib.metadata.distributions()
    for wheel in wheels:
        for file in wheel.files or () if wheel.metadata["Name"] in ONNXRUNTIMES else ():
            if "pybind11_state" in file.name and file.size and Path(str(file.locate())).is_file():
                if Path(str(file.locate())).stat().st_size == file.size:
                    return str(wheel.metadata["Name"])
    return None


def _has_gpu() -> bool:
    if _version("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _folders() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 2**30
    mark = GOOD if free >= ROOM else REMARK
    writable = os.access(here, os.W_OK)
    state = f"{here}, {free:.1f} GB free" + ("" if writable else "; not writable, change to another folder")
    findings = [Finding(mark if writable else BAD, "working folder", state)]
    named = os.environ.get("COMFYUI_PATH")
    if named:
        is_one = (Path(named) / "main.py").is_file()
        findings.append(
            Finding(GOOD if is_one else BAD, "COMFYUI_PATH", named if is_one else f"{named} is no ComfyUI")
        )
    return findings
