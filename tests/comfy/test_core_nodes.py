"""ComfyUI's own newer models as back ends: their code on made-up weights, and what older hosts are told."""

import os
import subprocess
from pathlib import Path

import pytest

from likeness_portraits.tests.comfy.hosts import environment

pytestmark = pytest.mark.comfy


def said_about(model: str, checkout: Path, python: Path, package_parent: Path, folder: Path) -> list[str]:
    path = os.pathsep.join([str(checkout), str(package_parent)])
    ran = subprocess.run(
        [python, "-m", "likeness_portraits.tests.comfy.core_made"], cwd=checkout,
        env=environment(PYTHONPATH=path), input=f"{folder}\n{model}\n", capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [line for line in ran.stdout.splitlines() if line.startswith(("HAS", "LACKING", "SAID", "SEEN"))]


def test_faces_and_their_parts_come_from_comfyuis_mediapipe(checkout, python, package_parent, tmp_path):
    lines = said_about("mediapipe", checkout, python, package_parent, tmp_path)
    newer = (checkout / "comfy_extras" / "nodes_mediapipe.py").exists()
    assert lines[0] == "LACKING", "before its core nodes are there"
    if not newer:
        assert [line.split(" which runs")[0] for line in lines[2:]] == [
            "SAID sam3 this ComfyUI has no node SAM3_Detect,",
            "SAID birefnet this ComfyUI has no node LoadBackgroundRemovalModel,",
            "SAID mediapipe this ComfyUI has no node LoadMediaPipeFaceLandmarker,",
        ]
        return
    for line, file, folder, licence in zip(
        lines[2:5],
        ("sam3.1_multiplex_fp16.safetensors", "birefnet.safetensors", "mediapipe_face_fp32.safetensors"),
        ("checkpoints", "background_removal", "detection"),
        ("SAM License", "MIT", "Apache-2.0"),
    ):
        assert f"{file} missing in models/{folder}; get it from https://huggingface.co/Comfy-Org/" in line
        assert licence in line and "put it there, or choose" in line
    assert "MediaPipe marks no 'hair'; valid are face, lips" in lines[5]
    assert lines[6].startswith("SEEN mediapipe")
    assert "cannot be read as SAM 3 (" in lines[7] and "get it again from https://" in lines[7]


@pytest.mark.slow  # its encoder sees 5184 places whatever the picture's size: two minutes
@pytest.mark.parametrize("model", ["sam3", "birefnet"])
def test_words_and_subjects_come_from_comfyuis_sam3_and_birefnet(
    checkout, python, package_parent, tmp_path, model: str
):
    if not (checkout / "comfy_extras" / "nodes_sam3.py").exists():
        pytest.skip("this ComfyUI is older than its SAM 3")
    lines = said_about(model, checkout, python, package_parent, tmp_path)
    wanted = {
        "sam3": "SAID sam3 no face found in picture 1 (best score 0.",
        "birefnet": "SAID birefnet BiRefNet knows no 'head': it tells what stands in front",
    }
    assert any(line.startswith(wanted[model]) for line in lines)
    assert lines[-1].startswith(f"SEEN {model}")
