"""Nothing is learned twice and nothing is lost: on a server that is started again over the same folders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness_portraits.tests.comfy.graphs import ending, node
from likeness_portraits.tests.comfy.hosts import Server

pytestmark = pytest.mark.comfy

BASE = {"base": node("LikenessMiniature", person=0, pictures=4)}
SOCKETS = {"model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "concept": ["concept", 0]}


def learning(**changes: Any) -> dict[str, Any]:
    told = {"preset": "miniature", "steps": 2, "learning_rate": 0.0, "vectors": 1, "seed": 0,
            "masked": "as the preset says", "preview_every": 0, "preview_prompt": ""}  # fmt: skip
    concept = node("LikenessConcept", images=["base", 3], class_word="woman", token="<v0>", role="subject")
    learn = node("LikenessTrainTextualInversion", **SOCKETS, **{**told, **changes})
    return BASE | {"concept": concept, "learn": learn}


def trainings(server: Server, prompt: dict[str, Any]) -> int:
    """How many trainings a prompt began, by the server's log."""
    before = server.log.read_text("utf-8", "replace").count("learning: step 1 of")
    server.run(prompt)
    return server.log.read_text("utf-8", "replace").count("learning: step 1 of") - before


def files(server: Server) -> list[str]:
    return sorted(path.name for path in (server.base / "models" / "likeness").glob("*.safetensors"))


def test_an_equal_run_is_loaded_also_after_a_restart_and_saved_once(
    checkout: Path, python: Path, tmp_path: Path
):
    server = Server(checkout, tmp_path)
    try:
        assert trainings(server, learning(save_as="anna")) == 1
        # watched otherwise: the same run
        watched = learning(save_as="anna", preview_every=1, preview_prompt="a photo of <v0> on a beach")
        assert trainings(server, watched) == 0
        assert files(server) == ["anna.safetensors"]
        assert trainings(server, learning(save_as="anna", seed=1)) == 1
        assert files(server) == ["anna-2.safetensors", "anna.safetensors"]
    finally:
        server.stop()
    server = Server(checkout, tmp_path)
    try:
        assert trainings(server, learning(save_as="anna")) == 0
        assert files(server) == ["anna-2.safetensors", "anna.safetensors"]
        check_that_both_meet(server)
        check_the_card(server)
    finally:
        server.stop()


def check_that_both_meet(server: Server) -> None:
    """Two files under one placeholder are drawn together, once one has another word; none passes through."""

    def drawn(**nodes: Any) -> np.ndarray:
        text = nodes.pop("text")
        model = ["second", 0] if nodes else ["base", 0]
        clip = ["second", 1] if nodes else ["base", 1]
        words = {"positive": node("CLIPTextEncode", clip=clip, text=text),
                 "negative": node("CLIPTextEncode", clip=clip, text="")}  # fmt: skip
        end = ending(model, ["positive", 0], ["negative", 0], seed=1, steps=2, cfg=3.0)
        (file,) = server.run(BASE | nodes | words | end)["show"]["images"]
        return server.picture(file)

    def applied(before: str, likeness: list | None) -> dict[str, Any]:
        given = {"likeness": likeness} if likeness else {}
        strengths = {"strength_model": 1.0, "strength_clip": 1.0}
        return node("LikenessApply", model=[before, 0], clip=[before, 1], **given, **strengths)

    one = node("LikenessLoad", name="anna.safetensors")
    two = node("LikenessLoad", name="anna-2.safetensors", trigger_word="ben")
    both = drawn(
        text="a photo of <v0> and <ben>", one=one, two=two,
        first=applied("base", ["one", 0]), second=applied("first", ["two", 0]),
    )  # fmt: skip
    other = drawn(
        text="a photo of <v0> and <v0>", one=one, two=two,
        first=applied("base", ["one", 0]), second=applied("first", ["two", 0]),
    )  # fmt: skip
    assert not np.array_equal(both, other)  # <ben> is a word of its own
    plain = drawn(text="a photo of a woman")
    assert np.array_equal(drawn(text="a photo of a woman", second=applied("base", None)), plain)


def check_the_card(server: Server) -> None:
    """Load says on the node what a file is, and shows the picture that a watched run put into it."""
    server.run(learning(save_as="seen", seed=5, preview_every=2))
    shown = server.run({"load": node("LikenessLoad", name="seen.safetensors", trigger_word="<ann>"),
                        "words": node("PreviewAny", source=["load", 1])})["load"]  # fmt: skip
    lines = shown["text"][0].splitlines()
    assert lines[0] == "write <ann> (woman) · embedding · textual-inversion · the Miniature"
    assert lines[1] == "4 pictures of woman, at 128 px, in fp32"
    assert lines[2].startswith("2 steps, seed 5 · learning rate ")
    (file,) = shown["images"]
    assert server.picture(file).shape == (128, 128, 3)
