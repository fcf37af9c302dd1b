"""People in Regions: two people who were learned under one word, in one picture, each drawn again alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server, psnr
from likeness_portraits.tests.comfy.test_graph import message_of_failure

pytestmark = pytest.mark.comfy

PROMPT = "a photo of <ben> and <anna>, on a beach"  # the second likeness stands first
STEPS, GUIDANCE, SEED, SHARE = 8, 4.0, 3, 0.6


def learning(person: int, name: str) -> dict[str, Any]:
    """Nodes that learn somebody as <v0>, a little, and save them."""
    return {
        "base": node("LikenessMiniature", person=person, pictures=2),
        "concept": node("LikenessConcept", images=["base", 3], masks=["base", 4], class_word=["base", 5],
                        token="<v0>", role="subject"),
        "learn": node("LikenessTrainTextualInversion", model=["base", 0], clip=["base", 1], vae=["base", 2],
                      concept=["concept", 0], preset="automatic", steps=2, learning_rate=0.3, vectors=2,
                      masked="no", seed=0, preview_every=0, preview_prompt="", save_as=name),
    }  # fmt: skip


def drawing(layout: str = "side by side", redraw: float = SHARE) -> dict[str, Any]:
    people = {"likeness_1": ["anna", 0], "likeness_2": ["ben", 0], "prompt": PROMPT, "layout": layout}
    ends = {
        "positive": ["people", 1],
        "negative": ["nothing", 0],
        "latent": ["latent", 0],
        "vae": ["base", 2],
    }
    told = {"sampler_name": "euler", "scheduler": "simple", "seed": SEED, "steps": STEPS, "cfg": GUIDANCE}
    return {
        "base": node("LikenessMiniature", person=0, pictures=1),
        "anna": node("LikenessLoad", name="regional-anna.safetensors", trigger_word="<anna>"),
        "ben": node("LikenessLoad", name="regional-ben.safetensors"),
        "people": node("LikenessPeople", model=["base", 0], clip=["base", 1], **people),
        "nothing": node("CLIPTextEncode", clip=["people", 3], text=""),
        "latent": node("EmptyLatentImage", width=256, height=128, batch_size=1),
        "sample": node("LikenessRefocusedSampler", model=["people", 0], people=["people", 2], redraw=redraw,
                       **ends, **told),
        "show": node("PreviewImage", images=["sample", 3]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def saved(server: Server) -> dict[str, Path]:
    """The two, each from a run of its own."""
    names = {"<anna>": "regional-anna", "<ben>": "regional-ben"}
    for person, name in zip((5, 7), names.values()):
        server.run(learning(person, name))
    return {word: server.base / "models" / "likeness" / f"{name}.safetensors" for word, name in names.items()}


@pytest.fixture(scope="module")
def picture(server: Server, saved: dict[str, Path]) -> np.ndarray:
    return server.picture(server.run(drawing())["show"]["images"][0])


def test_the_command_line_draws_the_same_people_in_the_same_regions(
    saved: dict[str, Path], picture: np.ndarray, likeness: Callable, tmp_path: Path
):
    concepts = [part for word, file in saved.items() for part in ("--concept", f"{file}:1.0:{word}")]
    ran = likeness(
        "generate", PROMPT, *concepts, "--refocus", f"<ben>=left;redraw={SHARE}",
        "--refocus", f"<anna>=right;redraw={SHARE}", "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE,
        "--width", 256, "--height", 128, "--out", tmp_path / "drawn.png",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert psnr(np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB")), picture) >= 40


def test_drawing_again_and_the_layout_change_the_picture(
    server: Server, saved: dict[str, Path], picture: np.ndarray
):
    once, thirds = (
        server.picture(server.run(drawing(*told))["show"]["images"][0])
        for told in (("side by side", 0.0), ("thirds", 0.0))
    )
    assert psnr(once, picture) < 40 and psnr(thirds, once) < 40


@pytest.mark.parametrize(
    ("layout", "left_out", "message"),
    [
        ("find faces", "", "finding faces needs a VAE; connect one"),
        ("masks", "", "masks wants one mask for each of 2 people, but none is connected"),
        ("side by side", "people", "redraw each person wants to know who they are; connect people from"),
    ],
)
def test_what_is_not_connected_is_said(
    server: Server, saved: dict[str, Path], layout: str, left_out: str, message: str
):
    graph = drawing(layout)
    graph["sample"]["inputs"].pop(left_out, None)
    assert message in message_of_failure(server, graph)
