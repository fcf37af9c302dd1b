"""MagiCapture inside ComfyUI: learned there from two sets of pictures, drawn by stock nodes and by ours."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.artifact import Artifact, export_stock, import_file
from likeness_portraits.tests.comfy.hosts import Server, environment, psnr
from likeness_portraits.tests.comfy.test_components import (
    COUNT_MODULES,
    GUIDANCE,
    SEED,
    STEPS,
    drawn,
    node,
)
from likeness_portraits.tests.engine.artifact.test_magicapture_files import sd_file

pytestmark = pytest.mark.comfy

PROMPT = "a <v1> of <v0>"
SD1 = {
    "1024": "768",
    '"num_head_channels": 64, "num_heads": -1': '"num_heads": 8',
    'True, "legacy"': 'False, "legacy"',
}


def learning(role: str = "style") -> dict[str, Any]:
    """Nodes that learn a person of the Miniature and a style for a moment."""
    return {
        "base": node("LikenessMiniature", person=0, pictures=2),
        "paintings": node("LikenessMiniatureStyle", style="sketch", pictures=2),
        "subject": node(
            "LikenessConcept", images=["base", 3], masks=["base", 4], class_word=["base", 5], token="<v0>",
            role="subject",
        ),
        "style": node(
            "LikenessConcept", images=["paintings", 0], masks=["paintings", 1], class_word="painting",
            token="<v1>", role=role,
        ),
        "learn": node(
            "LikenessTrainMagiCapture", model=["base", 0], clip=["base", 1], vae=["base", 2],
            concept=["subject", 0], style=["style", 0], preset="automatic", steps=9, identity="auto",
            identity_weight=0.0, composed="as the preset says", unet_learning_rate=0.01, rank=4, seed=3,
            preview_every=9, preview_prompt="", more_settings="batch_size: 3",
        ),
        "save": node("LikenessSave", likeness=["learn", 0], name="in-style"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def learned(server: Server) -> Path:
    server.run(learning())
    return server.base / "models" / "likeness" / "in-style.safetensors"


def test_the_node_learns_both_phases_with_the_miniatures_judge(learned: Path):
    artifact = Artifact.load(learned)
    assert (artifact.kind, artifact.method, artifact.steps) == ("lora", "magicapture", 9)
    assert (artifact.settings["inversion_steps"], artifact.settings["tuning_steps"]) == (4, 5)
    assert [(token.token, token.role) for token in artifact.tokens] == [
        ("<v0>", "subject"),
        ("<v1>", "style"),
    ]
    assert artifact.extra["identity_asked"] > 0


def test_the_person_in_the_style_is_drawn_as_on_the_command_line(
    server: Server, learned: Path, likeness: Callable, tmp_path: Path
):
    ran = likeness(
        "generate", PROMPT, "--concept", learned, "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE,
        "--out", tmp_path / "ours.png",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ours = np.asarray(Image.open(tmp_path / "ours.png").convert("RGB"))
    theirs = drawn(server, PROMPT, "in-style")
    assert psnr(ours, theirs) >= 40
    assert (drawn(server, "a embedding:v1 of embedding:v0", "in-style") == theirs).all()


def test_two_subjects_and_no_style_are_told_what_is_missing(server: Server):
    entry = server.wait(server.queue(learning(role="subject")))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert "give a second set of pictures, of the style" in failures[0]["exception_message"]


def test_all_144_modules_of_the_references_unet_load_once_exported(
    checkout: Path, python: Path, tmp_path: Path
):
    sd_file(tmp_path / "final_lora.safetensors")
    path = export_stock(import_file(tmp_path / "final_lora.safetensors"), tmp_path, "stock")[0]
    script = COUNT_MODULES.replace("LORA", repr(str(path)))
    for wide, narrow in SD1.items():
        assert wide in script
        script = script.replace(wide, narrow)
    ran = subprocess.run(
        [python, "-c", script], cwd=checkout, env=environment(PYTHONPATH=str(checkout)), capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-1] == "144"
    lost = [line for line in (ran.stdout + ran.stderr).splitlines() if "not loaded" in line]
    assert not any("lora_unet" in line for line in lost)  # the text encoder's need another list
