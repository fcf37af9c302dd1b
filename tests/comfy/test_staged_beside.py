"""Staged prompts as a plug-in: on an identity adapter, beside ControlNets and other packs' patches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server, numbers_of, psnr
from likeness_portraits.tests.comfy.test_staged import GUIDANCE, SEED, STEPS, drawing, drawn, learning
from likeness_portraits.tests.engine.tiny import write_portraits

pytestmark = pytest.mark.comfy

PROMPT = "a watercolor painting of <v0>, in a forest"


def identity(model: list, **how: Any) -> dict[str, Any]:
    """Nodes that put the first person into MODEL, by the Miniature's own adapter, from two pictures."""
    return {
        "two": node("LikenessMiniature", person=0, pictures=2),
        "identity": node("LikenessEncodeIdentity", images=["two", 3]),
        "apply": node("LikenessApplyIdentity", model=model, identity=["identity", 0], weight=0.9, **how),
    }


def learning_on_somebody(**changes: Any) -> dict[str, Any]:
    graph = {**learning(), **identity(["base", 0], **changes)}
    graph["learn"]["inputs"] |= {"model": ["apply", 0], "masked": "no"}
    graph["save"]["inputs"]["name"] = "on-somebody"
    return graph


@pytest.fixture(scope="module")
def learned(server: Server) -> Path:
    server.run(learning_on_somebody())
    return server.base / "models" / "likeness" / "on-somebody.safetensors"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_portraits(tmp_path_factory.mktemp("person"))


def test_words_learned_on_an_identity_in_the_graph_are_the_command_lines(
    learned: Path, pictures: Path, likeness: Callable, tmp_path: Path
):
    common = [
        "train", "personamagic", pictures, "--class-word", "woman", "--steps", 4, "--learning-rate", 0.05,
        "--image-encoder", "none", "--bypass-dropout", 0, "--masked-loss", "false", "--seed", 3,
        "--device", "cpu",
    ]  # fmt: skip
    host = f"miniature={pictures / '0.png'},{pictures / '1.png'}:0.9"
    apart = {}
    for name, on in (("on", ["--on", host]), ("plain", [])):
        out = tmp_path / f"{name}.safetensors"
        ran = likeness(*common, *on, "-o", out)
        assert ran.returncode == 0, ran.stderr
        own, graphs = Artifact.load(out), Artifact.load(learned)
        apart[name] = max((own.tensors[key] - rows).abs().max() for key, rows in graphs.tensors.items())
    assert apart["on"] <= 1e-3 < apart["plain"]


def drawing_of_somebody() -> dict[str, Any]:
    graph = {**drawing(PROMPT, ["load", 0]), **identity(["prompt", 0])}
    graph["load"] = node("LikenessLoad", name="on-somebody.safetensors")
    graph["sample"]["inputs"]["model"] = ["apply", 0]
    return graph


def test_the_command_line_draws_words_and_identity_together_as_the_graph_does(
    server: Server, learned: Path, pictures: Path, likeness: Callable, tmp_path: Path
):
    graph, out = drawing_of_somebody(), tmp_path / "drawn.png"
    ran = likeness(
        "generate", PROMPT, "--concept", learned, "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE,
        "--identity", f"{pictures / '0.png'},{pictures / '1.png'}:0.9", "--out", out,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    theirs = drawn(server, graph)
    graph["sample"]["inputs"]["model"] = ["prompt", 0]
    words_alone = drawn(server, graph)
    graph["sample"]["inputs"] |= {"model": ["apply", 0], "positive": ["plain", 0]}
    graph["plain"] = node("CLIPTextEncode", clip=["base", 1], text=PROMPT.replace("<v0>", "woman"))
    identity_alone = drawn(server, graph)
    nearest = max(psnr(theirs, words_alone), psnr(theirs, identity_alone))
    assert psnr(np.asarray(Image.open(out).convert("RGB")), theirs) >= max(40, nearest + 6)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("LikenessTrainPersonaMagic", {"mask": ["half", 0]}, "apply it without a mask for learning"),
        ("LikenessTrainDreamBoothLora", {}, "connect the MODEL from before Apply Face Identity"),
    ],
)
def test_what_cannot_be_learned_on_an_identity_is_told_in_the_node(
    server: Server, method: str, changes: dict, message: str
):
    graph = learning_on_somebody(**changes)
    graph["half"] = node("SolidMask", value=1.0, width=64, height=64)
    graph["learn"]["class_type"] = method
    if method.endswith("Lora"):
        graph["learn"]["inputs"] |= {
            "rank": 2, "text_encoder": "no", "prior": "no", "more_settings": "",
        }  # fmt: skip
    entry = server.wait(server.queue(graph))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert message in failures[0]["exception_message"]


# ------------------------------------------------------------------- beside ControlNets and others' patches


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ControlNet of the Miniature's shape is once `facts` are there."""
    return tmp_path_factory.mktemp("controlnet") / "tiny.safetensors"


@pytest.fixture(scope="module")
def facts(checkout: Path, python: Path, package_parent: Path, controlnet: Path) -> dict:
    return numbers_of("staged_beside.py", python, checkout, package_parent, controlnet)


NEIGHBOURS = (
    "ControlNet", "appended tokens", "appended tokens before", "as many appended", "decoupled attention",
    "all of them", "concat", "two concats", "concat and appended", "average",
)  # fmt: skip


@pytest.mark.parametrize("neighbour", ["nobody", *NEIGHBOURS])
def test_values_reach_every_layer_beside_a_neighbour_that_acts(facts: dict, neighbour: str):
    found = facts[neighbour]
    assert found["by hand"] <= 1e-5 and found["values"] > 0.1
    assert neighbour == "nobody" or found["neighbour"] > 0.1


def test_a_controlnet_and_an_identity_act_on_a_staged_prompt_in_one_graph(
    server: Server, learned: Path, facts: dict, controlnet: Path
):
    folder = server.base / "models" / "controlnet"
    folder.mkdir(exist_ok=True)
    (folder / "tiny.safetensors").write_bytes(controlnet.read_bytes())
    graph = drawing_of_somebody() | {
        "network": node("ControlNetLoader", control_net_name="tiny.safetensors"),
        "control": node(
            "ControlNetApplyAdvanced", positive=["prompt", 1], negative=["nothing", 0], image=["base", 3],
            control_net=["network", 0], strength=0.8, start_percent=0.0, end_percent=1.0,
        ),
    }  # fmt: skip
    graph["base"]["inputs"]["pictures"] = 1
    graph["sample"]["inputs"] |= {"positive": ["control", 0], "negative": ["control", 1]}
    picture = drawn(server, graph)
    nobodys = {"start": 999, "end": 998, "late": "class word"}  # the learned words are never due
    absent = {"control": {"strength": 0.0}, "apply": {"weight": 0.0}, "prompt": nobodys}
    apart = {}
    for part, changes in absent.items():
        without = {**graph, part: {**graph[part], "inputs": {**graph[part]["inputs"], **changes}}}
        apart[part] = psnr(picture, drawn(server, without))
    assert max(apart.values()) < 60, apart
