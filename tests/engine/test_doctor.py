"""What the doctor says about onnxruntime's two wheels, in each state they leave each other in."""

from pathlib import Path

import pytest

from likeness_portraits.engine.doctor import (
    BAD,
    GOOD,
    MEND,
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


def test_an_insightface_from_before_the_pure_wheel_is_to_be_renewed():
    assert old_insightface("0.7.3") == Finding(
        BAD, "insightface", "0.7.3 is too old; run `pip install 'insightface>=1.0'`"
    )
