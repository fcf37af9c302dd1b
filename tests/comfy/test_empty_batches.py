"""Batches without a picture: every node that looks at pictures says so in one sentence."""

import os
import subprocess
from pathlib import Path

import pytest

from likeness_portraits.tests.comfy.hosts import environment

pytestmark = pytest.mark.comfy

CALLS = """
import sys
sys.argv = ["empty", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
from likeness_portraits.engine.comfy_bridge.masks import faces_of, masks_of
from likeness_portraits.engine.comfy_bridge.restore import Faces, enlarge_images, restored_faces
from likeness_portraits.engine.data.segment import Request
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.restore import Restoration
none = torch.zeros(0, 64, 64, 3)
for call in (
    lambda: masks_of(none, "miniature", Request(words=("head",))),
    lambda: faces_of(none, None, torch.zeros(0, 64, 64), None, 64),
    lambda: restored_faces(none, Faces(found_by="miniature"), lambda face: face, Restoration()),
    lambda: enlarge_images(none, None, 1, 512, 32),
):
    try:
        call()
    except LikenessError as error:
        print("SAID", error)
"""


def test_an_empty_batch_is_told_to_be_empty(checkout: Path, python: Path, package_parent: Path):
    path = os.pathsep.join([str(checkout), str(package_parent)])
    ran = subprocess.run(
        [python, "-c", CALLS], cwd=checkout, env=environment(PYTHONPATH=path), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = [line for line in ran.stdout.splitlines() if line.startswith("SAID")]
    wanted = "SAID there are no pictures in the batch; connect a node that gives some"
    assert said == [wanted] * 4
