"""Staged prompts inside a running ComfyUI: learned there, drawn there, and the same from the command line."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.tests.comfy.graphs import ending, node
from likeness_portraits.tests.comfy.hosts import Server, environment, psnr
from likeness_portraits.tests.engine.tiny import staged_person

pytestmark = pytest.mark.comfy

PROMPT = "a watercolor painting of a smiling {}, wearing a green shirt, in a forest"
SEED, STEPS, GUIDANCE = 7, 12, 5.0
SAMPLING = {"seed": SEED, "steps": STEPS, "cfg": GUIDANCE}


def learning() -> dict[str, Any]:
    """Nodes that learn a person of the Miniature for a moment, and keep what was learned."""
    return {
        "base": node("LikenessMiniature", person=0, pictures=4),
        "concept": node(
            "LikenessConcept", images=["base", 3], masks=["base", 4], class_word=["base", 5], token="<v0>",
            role="subject",
        ),
        "learn": node(
            "LikenessTrainPersonaMagic", model=["base", 0], clip=["base", 1], vae=["base", 2],
            concept=["concept", 0], preset="automatic", steps=4, learning_rate=0.05, vectors=0,
            masked="as the preset says", seed=3, preview_every=2, preview_prompt="",
            more_settings="image_encoder: none\nbypass_dropout: 0",
        ),
        "save": node("LikenessSave", likeness=["learn", 0], name="staged"),
    }  # fmt: skip


def drawing(text: str, likeness: list, **sampling: Any) -> dict[str, Any]:
    """Nodes that draw a staged prompt as the command line would."""
    return {
        "base": node("LikenessMiniature", person=0, pictures=4),
        "prompt": node(
            "LikenessStagedPrompt", model=["base", 0], clip=["base", 1], likeness=likeness, text=text,
        ),
        "nothing": node("CLIPTextEncode", clip=["base", 1], text=""),
        **ending(["prompt", 0], ["prompt", 1], ["nothing", 0], **{**SAMPLING, **sampling}),
    }  # fmt: skip


def loaded(graph: dict[str, Any]) -> dict[str, Any]:
    return {**graph, "load": node("LikenessLoad", name="staged.safetensors")}


def drawn(server: Server, graph: dict[str, Any]) -> np.ndarray:
    return server.picture(server.run(graph)["show"]["images"][0])


@pytest.fixture(scope="module")
def learned(server: Server) -> Path:
    server.run(learning())
    return server.base / "models" / "likeness" / "staged.safetensors"


@pytest.fixture(scope="module")
def picture(server: Server, learned: Path) -> np.ndarray:
    return drawn(server, loaded(drawing(PROMPT.format("<v0>"), ["load", 0])))


def test_what_the_node_learned_is_a_staged_embedding(learned: Path):
    artifact = Artifact.load(learned)
    assert (artifact.kind, artifact.method, artifact.steps) == ("staged_embedding", "personamagic", 4)
    assert artifact.base_family == "miniature" and artifact.extra["interval"] == [400, 800]


@pytest.mark.parametrize(
    ("sampler", "scheduler", "extra"),
    [
        pytest.param("euler", "simple", (), marks=pytest.mark.slow),
        ("dpmpp_2m", "karras", ("--sampler", "dpmpp_2m", "--schedule", "karras")),
    ],
)
def test_the_command_line_draws_the_same_staged_prompt(
    server: Server, learned: Path, likeness: Callable, tmp_path: Path, sampler: str, scheduler: str,
    extra: tuple,
):  # fmt: skip
    graph = drawing(PROMPT.format("<v0>"), ["load", 0], sampler_name=sampler, scheduler=scheduler)
    out = tmp_path / "drawn.png"
    ran = likeness(
        "generate", PROMPT.format("<v0>"), "--concept", learned, "--seed", SEED, "--steps", STEPS,
        "--guidance", GUIDANCE, "--out", out, *extra,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ours, theirs = np.asarray(Image.open(out).convert("RGB")), drawn(server, loaded(graph))
    graph["plain"] = node("CLIPTextEncode", clip=["base", 1], text=PROMPT.format("woman"))
    graph["sample"]["inputs"]["positive"] = ["plain", 0]
    likeness_itself = psnr(theirs, drawn(server, loaded(graph)))
    assert psnr(ours, theirs) >= max(40, likeness_itself + 6)  # nearer than the class word's picture by far


CROWDED = "a man in a blue hoodie, in a kitchen, " * 15
LONG = (
    "a photo of a smiling woman with long brown hair, wearing a green shirt, in a forest, " * 4
    + "a watercolor painting of a {}, wearing a red hat, on a beach"
)


@pytest.mark.parametrize(
    ("who", "unwanted"),
    [
        pytest.param("woman", "", marks=pytest.mark.slow),
        pytest.param("woman", CROWDED, marks=pytest.mark.slow),
        pytest.param("<v0>", "", marks=pytest.mark.slow),
        ("<v0>", CROWDED),
    ],
)
def test_the_command_line_draws_the_same_prompt_of_several_chunks(
    server: Server, learned: Path, likeness: Callable, tmp_path: Path, who: str, unwanted: str
):
    graph = loaded(drawing(LONG.format("<v0>"), ["load", 0]))
    graph["nothing"]["inputs"]["text"] = unwanted
    if who == "woman":
        graph["plain"] = node("CLIPTextEncode", clip=["base", 1], text=LONG.format(who))
        graph["sample"]["inputs"] |= {"model": ["base", 0], "positive": ["plain", 0]}
    out = tmp_path / "drawn.png"
    used = ["--concept", learned] if who == "<v0>" else []
    ran = likeness(
        "generate", LONG.format(who), "--negative", unwanted, *used,
        "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE, "--out", out,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert psnr(np.asarray(Image.open(out).convert("RGB")), drawn(server, graph)) >= 40


def test_the_bypass_shows_and_only_through_the_patched_model(
    server: Server, learned: Path, picture: np.ndarray
):
    graph = loaded(drawing(PROMPT.format("<v0>"), ["load", 0]))
    graph["prompt"]["inputs"]["bypass"] = 0.0
    without = drawn(server, graph)
    assert (without != picture).any()
    graph["sample"]["inputs"]["model"] = ["base", 0]
    graph["prompt"]["inputs"]["bypass"] = 1.0
    assert (drawn(server, graph) == without).all()


def test_a_plain_prompt_through_the_patched_model_is_drawn_as_ever(server: Server, learned: Path):
    """The patch finds its own entries among those of other prompts."""
    graph = loaded(drawing(PROMPT.format("<v0>"), ["load", 0]))
    graph["plain"] = node("CLIPTextEncode", clip=["base", 1], text=PROMPT.format("woman"))
    graph["sample"]["inputs"]["positive"] = ["plain", 0]
    through_patch = drawn(server, graph)
    graph["sample"]["inputs"]["model"] = ["base", 0]
    assert (through_patch == drawn(server, graph)).all()


@pytest.fixture(scope="module")
def strangers(server: Server) -> Path:
    """Likenesses that do not go with the Miniature, or not with stages."""
    folder = server.base / "models" / "likeness"
    staged_person("<v0>", 64, "miniature").save(folder / "narrow.safetensors")
    staged_person("<v0>", 128, "sd1").save(folder / "of-sd1.safetensors")
    rows = {"token.v0.clip_l": torch.zeros(1, 128)}
    token = Token(token="<v0>", class_word="woman", vectors=1)
    Artifact(
        kind="embedding", method="textual-inversion", tokens=(token,), tensors=rows, base_family="miniature"
    ).save(folder / "without-stages.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "a photo of a woman"}, "no prompt mentions <v0>; write it where the woman should be"),
        ({"text": "a photo of <v1>"}, "no prompt mentions <v0>"),
        ({"start": 300, "end": 700}, "come at timestep 300 and go at 700"),
        ({"name": "narrow"}, "learned for a text encoder 64 wide, this model's is 128; connect the kind"),
        ({"name": "of-sd1"}, "learned on sd1, but the MODEL is miniature; connect a model of its kind"),
        ({"name": "without-stages"}, "textual-inversion has no stages; use Apply Likeness"),
    ],
)
def test_what_does_not_fit_is_told_in_the_node(
    server: Server, learned: Path, strangers: Path, changes: dict[str, Any], message: str
):
    graph, changes = loaded(drawing("a photo of <v0>", ["load", 0])), dict(changes)
    graph["load"]["inputs"]["name"] = f"{changes.pop('name', 'staged')}.safetensors"
    graph["prompt"]["inputs"] |= changes
    entry = server.wait(server.queue(graph))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert message in failures[0]["exception_message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concept": {"class_word": "old man"}}, "'old man' is 2 tokens long; personamagic needs a single"),
        ({"learn": {"clip": ["skip", 0]}}, "CLIP Set Last Layer cannot be trained with; connect the"),
        ({"learn": {"more_settings": "interval: [400, 1200]"}}, "does not lie within the timesteps 0 to 999"),
    ],
)
def test_what_cannot_be_learned_is_told_in_the_node(server: Server, changes: dict, message: str):
    graph = learning() | {"skip": node("CLIPSetLastLayer", clip=["base", 1], stop_at_clip_layer=-2)}
    for name, inputs in changes.items():
        graph[name]["inputs"] |= inputs
    entry = server.wait(server.queue(graph))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert message in failures[0]["exception_message"]


def test_what_other_nodes_put_on_a_model_is_said_to_be_left_out(server: Server):
    graph = learning() | {"free": node("FreeU_V2", model=["base", 0], b1=1.3, b2=1.4, s1=0.9, s2=0.2)}
    graph["learn"]["inputs"]["model"] = ["free", 0]
    graph["concept"]["inputs"]["class_word"] = "old man"  # it need not learn for it
    server.wait(server.queue(graph))
    told = "learning leaves out what other nodes put on this MODEL: output_block_patch"
    assert told in server.log.read_text()


def test_another_last_layer_is_warned_of_and_still_takes_the_bypass(server: Server, learned: Path):
    graph = loaded(drawing(PROMPT.format("<v0>"), ["load", 0]))
    graph["skip"] = node("CLIPSetLastLayer", clip=["base", 1], stop_at_clip_layer=-2)
    graph["prompt"]["inputs"]["clip"] = ["skip", 0]
    skipped = drawn(server, graph)
    assert "CLIP Set Last Layer is at -2: the likeness was learned on" in server.log.read_text()
    graph["prompt"]["inputs"]["bypass"] = 0.0
    assert (skipped != drawn(server, graph)).any()


def test_a_prompt_of_the_placeholder_alone_is_drawn(server: Server, learned: Path, picture: np.ndarray):
    assert (drawn(server, loaded(drawing("<v0>", ["load", 0]))) != picture).any()


@pytest.mark.slow
def test_a_step_of_a_staged_prompt_costs_at_most_a_twentieth_more(
    checkout: Path, python: Path, package_parent: Path
):
    """Fifty stages on the Miniature, whose steps are the shortest there are; least of many passes.  Beside
    other work a twentieth cannot be told from none."""
    script = Path(__file__).with_name("staged_numbers.py")
    ran = subprocess.run(
        [python, script, checkout, package_parent],
        capture_output=True, text=True, env=environment(), timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    measured = json.loads(ran.stdout.splitlines()[-1])
    assert measured["entries"] == 52  # the class word, the stages, and what is held at the end
    assert measured["staged"]["step"] <= 1.05 * measured["plain"]["step"], measured


def test_picture_to_picture_starts_in_the_middle_of_the_stages(server: Server, learned: Path):
    graph = loaded(drawing(PROMPT.format("<v0>"), ["load", 0], denoise=0.35))
    graph["latent"] = node("VAEEncode", pixels=["base", 3], vae=["base", 2])
    assert drawn(server, graph).shape == (128, 128, 3)
