"""Learning on a checkpoint that ComfyUI's own loader read, instead of on the Miniature."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.tests.comfy.hosts import Server, environment

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(server: Server, python: Path) -> str:
    """A small SD 1.5 among the server's checkpoints."""
    file = server.base / "models" / "checkpoints" / "small-sd15.safetensors"
    file.parent.mkdir(exist_ok=True)
    script = Path(__file__).with_name("make_checkpoint.py")
    ran = subprocess.run(
        [python, script, server.checkout, file], env=environment(), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return file.name


def drawing(name: str, source: str) -> dict:
    """Nodes that draw "a photo of <v0>" with the model and CLIP of a node."""
    sampling = {
        "seed": 1,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    ends = {"positive": [f"{name} text", 0], "negative": [f"{name} text", 0], "latent_image": ["latent", 0]}
    text = {"clip": [source, 1], "text": "a photo of <v0>"}
    return {
        f"{name} text": {"class_type": "CLIPTextEncode", "inputs": text},
        f"{name} sample": {"class_type": "KSampler", "inputs": {"model": [source, 0], **ends, **sampling}},
        f"{name} decode": {
            "class_type": "VAEDecode", "inputs": {"samples": [f"{name} sample", 0], "vae": ["load", 2]},
        },
        name: {"class_type": "PreviewImage", "inputs": {"images": [f"{name} decode", 0]}},
    }  # fmt: skip


def test_a_person_is_learned_on_a_checkpoint_and_changes_its_pictures(server: Server, checkpoint: str):
    graph = {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "person": {"class_type": "LikenessMiniature", "inputs": {"person": 0, "pictures": 2}},
        "concept": {
            "class_type": "LikenessConcept",
            "inputs": {
                "images": ["person", 3], "masks": ["person", 4], "class_word": "woman", "token": "<v0>",
                "role": "subject",
            },
        },
        "learn": {
            "class_type": "LikenessTrainDreamBoothLora",
            "inputs": {
                "model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "concept": ["concept", 0],
                "preset": "automatic", "steps": 2, "learning_rate": 0.05, "rank": 4, "text_encoder": "yes",
                "prior": "no", "masked": "yes", "seed": 0, "preview_every": 2, "preview_prompt": "",
                "resolution": 64, "precision": "fp32", "more_settings": "batch_size: 1",
            },
        },
        "apply": {
            "class_type": "LikenessApply",
            "inputs": {
                "model": ["load", 0], "clip": ["load", 1], "likeness": ["learn", 0], "strength_model": 1.0,
                "strength_clip": 1.0,
            },
        },
        "save": {"class_type": "LikenessSave", "inputs": {"likeness": ["learn", 0], "name": "sd15"}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        **drawing("before", "load"),
        **drawing("after", "apply"),
    }  # fmt: skip
    outputs = server.run(graph, seconds=600)
    before, after = (server.picture(outputs[name]["images"][0]) for name in ("before", "after"))
    assert np.abs(before.astype(int) - after).max() > 0
    learned = Artifact.load(server.base / "models" / "likeness" / "sd15.safetensors")
    assert (learned.base_family, learned.steps) == ("sd1", 2)
    assert {name.split("_")[1] for name in learned.lora()} == {"unet", "te"}
    assert "NOT LOADED" not in server.log.read_text()
