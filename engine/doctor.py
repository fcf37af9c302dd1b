"""Looks at the machine: versions, devices, onnxruntime's state and folders, and what is wrong with them."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

from .version import VERSION

REQUIRED = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")
OPTIONAL = ("insightface", "onnxruntime", "onnxruntime-gpu", "deepspeed", "comfy-cli")
GOOD, REMARK, BAD = "✓", "·", "✗"
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
        *(_package(name, needed=False) for name in OPTIONAL),
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
    if version is not None:
        return Finding(GOOD, name, version)
    return (
        Finding(BAD, name, f"missing; run `pip install {name}`")
        if needed
        else Finding(REMARK, name, "not installed")
    )


def _devices() -> list[Finding]:
    cores = f"{os.cpu_count()} CPU cores"
    if _version("torch") is None:
        return [Finding(REMARK, "devices", cores)]
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "this torch is built without CUDA" if built is None else f"CUDA {built} finds no device"
        return [Finding(REMARK, "devices", f"{cores}, no GPU: {why}")]
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        state = f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GB free"
        found.append(Finding(GOOD, f"cuda:{index}", state))
    return found


def _onnxruntime() -> Finding:
    """The CPU and the GPU wheel share a folder: whichever came last overwrote the other."""
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu is None and gpu is None:
        return Finding(
            REMARK, "face models", 'no onnxruntime; for face detection run `pip install ".[faces]"`'
        )
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except (ImportError, AttributeError) as error:
        remedy = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        return Finding(BAD, "face models", f"onnxruntime does not load ({error}); run `{remedy}`")
    if cpu is not None and gpu is not None and "CUDAExecutionProvider" not in providers:
        remedy = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        return Finding(BAD, "face models", f"onnxruntime overwrote onnxruntime-gpu, CPU only; run `{remedy}`")
    return Finding(GOOD, "face models", f"onnxruntime with {', '.join(name[:-17] for name in providers)}")


def _folders() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 2**30
    mark = GOOD if free >= ROOM else REMARK
    writable = os.access(here, os.W_OK)
    state = f"{here}, {free:.1f} GB free" + ("" if writable else "; not writable, change to another folder")
    found = [Finding(mark if writable else BAD, "working folder", state)]
    named = os.environ.get("COMFYUI_PATH")
    if named:
        is_one = (Path(named) / "main.py").is_file()
        found.append(
            Finding(GOOD if is_one else BAD, "COMFYUI_PATH", named if is_one else f"{named} is no ComfyUI")
        )
    return found
