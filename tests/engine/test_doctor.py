"""What the doctor says about onnxruntime's two wheels, in each state they leave each other in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from likeness_portraits.engine.doctor import (
    BAD,
    GOOD,
    MEND,
    MEND_CPU,
    REMARK,
    Finding,
    _lying_wheel,
    old_insightface,
    onnxruntime_finding,
)

CPU, GPU = "onnxruntime", "onnxruntime-gpu"
ON_CPU = ["AzureExecutionProvider", "CPUExecutionProvider"]
ON_GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    "wheels, lying, providers, has_gpu, mark, words",
    [
        ([CPU], CPU, ON_CPU, False, GOOD, "onnxruntime with Azure, CPU"),
        ([CPU], CPU, ON_CPU, True, REMARK, "for the CPU only, beside a GPU"),
        ([GPU], GPU, ON_GPU, True, GOOD, "onnxruntime-gpu with Tensorrt, CUDA, CPU"),
        ([CPU, GPU], CPU, ON_CPU, True, BAD, "onnxruntime overwrote onnxruntime-gpu"),
        ([CPU, GPU], CPU, ON_CPU, False, REMARK, "onnxruntime overwrote onnxruntime-gpu"),
        ([CPU, GPU], GPU, ON_GPU, True, REMARK, "came after onnxruntime and works"),
    ],
)
def test_every_state_of_the_two_wheels_is_told_apart(wheels, lying, providers, has_gpu, mark, words):
    finding = onnxruntime_finding(wheels, lying, providers, has_gpu)
    assert finding.mark == mark and words in finding.state
    assert (MEND in finding.state) == (mark != GOOD)


def test_whose_files_lie_in_the_shared_folder_is_read_from_their_size(tmp_path: Path):
    library = "onnxruntime/capi/onnxruntime_pybind11_state.so"
    for name, size in {CPU: 3, GPU: 5}.items():
        about = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "RECORD").write_text(f"{library},sha256=x,{size}\n")
    assert _lying_wheel([str(tmp_path)]) is None
    (tmp_path / library).parent.mkdir(parents=True)
    for name, content in {CPU: "cpu", GPU: "gpu!!"}.items():
        (tmp_path / library).write_text(content)
        assert _lying_wheel([str(tmp_path)]) == name


LEFT_BEHIND = """
import sys
from likeness_portraits.engine import doctor
doctor._has_gpu = lambda: False
sys.stdout.write(doctor._onnxruntime().state)
"""


@pytest.mark.parametrize("left", [CPU, GPU])
def test_what_uninstalling_one_wheel_leaves_of_the_other_is_told(
    left: str, tmp_path: Path, package_parent: Path
):
    """As found by experiment: a record without its files, and a folder that is no package any more."""
    about = tmp_path / f"{left.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {left}\nVersion: 1.0\n")
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    ran = subprocess.run(
        [sys.executable, "-S", "-c", LEFT_BEHIND], capture_output=True, text=True,
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{package_parent}", "PATH": ""},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith(f"{left} installed, but not all there (")
    assert ran.stdout.endswith(f"run `{MEND_CPU}`")


def test_an_insightface_from_before_the_pure_wheel_is_to_be_renewed():
    assert old_insightface("0.7.3") == Finding(
        BAD, "insightface", "0.7.3 is too old; run `pip install 'insightface>=1.0'`"
    )
