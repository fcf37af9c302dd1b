"""The template 09, masks, in a running ComfyUI, as its nodes are now."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness_portraits.engine.data.overlays import VEIL, VEIL_STRENGTH
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.comfy.draw_workflows import ROOT
from likeness_portraits.tests.comfy.hosts import Server, to_api
from likeness_portraits.tests.overlap import mask_overlap

pytestmark = pytest.mark.comfy

MASKS = ROOT / "workflows" / "09 Masks for training.json"
PERSON = 4  # as the workflow says


@pytest.fixture(scope="module")
def outputs(server: Server, nodes: dict[str, Any]) -> dict[str, Any]:
    """What the workflow's nodes showed, by class, after a few steps of learning inside the masks."""
    prompt = to_api(json.loads(MASKS.read_text("utf-8")), nodes)
    (learn,) = (name for name, node in prompt.items() if node["class_type"].startswith("LikenessTrain"))
    prompt[learn]["inputs"]["steps"] = 3
    return {prompt[name]["class_type"]: shown for name, shown in server.run(prompt).items()}


def test_the_overlay_in_the_node_shows_the_head_without_its_hair(server: Server, outputs: dict[str, Any]):
    portraits = world.example_pictures(world.REPORTING_SEEDS[PERSON], 4)
    shown = outputs["LikenessSegmentText"]["images"]
    assert len(shown) == 4
    for file, portrait in zip(shown, portraits):
        veiled = portrait.pixels + (VEIL - portrait.pixels) * VEIL_STRENGTH
        seen = server.picture(file).astype(np.float32)
        open_ = np.abs(seen - portrait.pixels).sum(-1) <= np.abs(seen - veiled).sum(-1)
        true = portrait.mask((*world.FACE_PARTS, "ear", "neck"))
        assert mask_overlap(open_.astype(np.float32), true) > 0.75


def test_faces_are_cut_out_and_the_concept_is_judged_in_words(server: Server, outputs: dict[str, Any]):
    assert [server.picture(file).shape for file in outputs["PreviewImage"]["images"]] == [(256, 256, 3)] * 4
    assert outputs["LikenessConcept"]["text"] == ["the pictures look good"]
    name = Path(outputs["LikenessSave"]["text"][0]).name  # numbered where another test saved one before
    assert name.startswith("masks") and name.endswith(".safetensors")
