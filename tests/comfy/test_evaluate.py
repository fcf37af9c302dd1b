"""Measuring and grids inside a running ComfyUI."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.data.concepts import Picture
from likeness_portraits.engine.data.segment import Request, find_masks, load_segmenter
from likeness_portraits.engine.evaluation.backends import MiniatureBackend
from likeness_portraits.engine.evaluation.measure import CAVEAT, measure, report
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.comfy.graphs import ending, node
from likeness_portraits.tests.comfy.hosts import Server, psnr

pytestmark = pytest.mark.comfy

PERSON, STRANGER = 0, 7  # of the reporting people
PROMPTS = ["a photo of <v0>", "a watercolor painting of <v0>, in a forest"]


def graph(**more: dict[str, Any]) -> dict[str, Any]:
    """The Miniature with a person's four pictures as a concept."""
    return {
        "base": {"class_type": "LikenessMiniature", "inputs": {"person": PERSON, "pictures": 4}},
        "other": {"class_type": "LikenessMiniature", "inputs": {"person": STRANGER, "pictures": 2}},
        "concept": {
            "class_type": "LikenessConcept",
            "inputs": {
                "images": ["base", 3], "class_word": ["base", 5], "token": "<v0>", "role": "subject",
                "masks": ["base", 4],
            },
        },
        **more,
    }  # fmt: skip


def measuring(pictures: list, faces: str = "miniature") -> dict[str, Any]:
    inputs = {"images": pictures, "concept": ["concept", 0], "faces": faces, "prompt": ""}
    return {"class_type": "LikenessMeasure", "inputs": inputs}


def test_the_node_says_what_the_engine_measures(server: Server):
    prompt = graph(same=measuring(["base", 3]), else_=measuring(["other", 3]))
    shown = server.run(prompt)
    own = [portrait.pixels for portrait in world.example_pictures(world.REPORTING_SEEDS[PERSON], 4)]
    others = [portrait.pixels for portrait in world.example_pictures(world.REPORTING_SEEDS[STRANGER], 2)]
    judge = MiniatureBackend()
    assert shown["else_"]["text"] == [report(measure(others, own, judge, looks=[judge]))]
    assert "the same person" in shown["same"]["text"][0] and "copy" in shown["same"]["text"][0]
    assert shown["same"]["text"][0].endswith(CAVEAT)


def hair(pictures: list) -> dict[str, Any]:
    """Masks of the hair in the Miniature's pictures."""
    return node(
        "LikenessParseFace", images=pictures, parts="hair", but_not="",
        pictures_are="the Miniature's pictures", soft=False, level=0.5, grow=0, feather=0.0,
        fill_holes=False, keep_largest=False, invert=False,
    )  # fmt: skip


def test_the_node_scores_a_component_by_masks_and_wants_both_or_neither(server: Server):
    parts = {
        "own": hair(["base", 3]),
        "theirs": hair(["other", 3]),
        "component": node(
            "LikenessConcept", images=["other", 3], class_word="hair", token="<v1>", role="component",
            masks=["theirs", 0],
        ),
    }  # fmt: skip
    whole, alone, bare = measuring(["base", 3]), measuring(["base", 3]), measuring(["base", 3])
    whole["inputs"] |= {"component": ["component", 0], "component_masks": ["own", 0]}
    shown = server.run(graph(**parts, whole=whole))
    judge, finder = MiniatureBackend(), load_segmenter("miniature")
    own, others = (
        [portrait.pixels for portrait in world.example_pictures(world.REPORTING_SEEDS[person], count)]
        for person, count in ((PERSON, 4), (STRANGER, 2))
    )
    own_masks, masks = (
        find_masks(finder, pixels, Request(words=("hair",)), list("abcd")) for pixels in (own, others)
    )
    component = [Picture(str(number), *pair) for number, pair in enumerate(zip(others, masks))]
    known = measure(own, own, judge, looks=[judge], component=component, component_masks=own_masks)
    assert shown["whole"]["text"] == [report(known)]
    assert "The component was found in 4 of 4 pictures" in shown["whole"]["text"][0]
    alone["inputs"] |= {"component": ["component", 0]}
    bare["inputs"] |= {"component_masks": ["own", 0]}
    for lacking, prompt in (("component masks", alone), ("component", bare)):
        entry = server.wait(server.queue(graph(**parts, whole=prompt)))
        told = [message for name, message in entry["status"]["messages"] if name == "execution_error"]
        assert told[0]["exception_message"].strip().startswith(f"{lacking} is not connected; connect")


def test_a_missing_face_pack_is_named_with_its_folder(server: Server):
    entry = server.wait(server.queue(graph(measure=measuring(["base", 3], "auraface"))))
    told = [message for name, message in entry["status"]["messages"] if name == "execution_error"]
    assert "AuraFace" in told[0]["exception_message"] and str(server.base) in told[0]["exception_message"]


def test_a_grid_draws_what_ksampler_draws_and_saves_its_report(server: Server):
    learn = {
        "class_type": "LikenessTrainCustomDiffusion",
        "inputs": {
            "model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "concept": ["concept", 0],
            "preset": "automatic", "steps": 4, "learning_rate": 0.0, "vectors": 0, "prior": "no",
            "masked": "as the preset says", "seed": 0, "preview_every": 0, "preview_prompt": "",
        },
    }  # fmt: skip
    drawn = {
        "class_type": "LikenessGrid",
        "inputs": {
            "model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "concept": ["concept", 0],
            "prompts": "\n".join(PROMPTS), "strengths": "0.5, 1", "seed": 3, "seeds": 2,
            "faces": "miniature", "name": "reports/people", "likeness": ["learn", 0], "steps": 6,
            "picture_size": "automatic",
        },
    }  # fmt: skip
    keep = {"class_type": "PreviewImage", "inputs": {"images": ["grid", 1]}}
    apply = {
        "class_type": "LikenessApply",
        "inputs": {
            "model": ["base", 0], "clip": ["base", 1], "likeness": ["learn", 0], "strength_model": 1.0,
            "strength_clip": 1.0,
        },
    }  # fmt: skip
    shown = server.run(graph(learn=learn, grid=drawn, keep=keep, apply=apply, **sampled(["apply", 0])))
    pictures = [server.picture(file) for file in shown["keep"]["images"]]
    assert len(pictures) == 2 * 2 * 2
    last = server.picture(shown["show"]["images"][0])
    assert psnr(pictures[-1], last) >= 40  # second prompt, strength 1, second seed
    assert not np.array_equal(pictures[4], pictures[6])  # strengths differ
    report = (server.base / "output" / "reports" / "people.html").read_text("utf-8")
    assert report.count("data:image/jpeg") == 4 and "<svg" in report and "pose" in report
    assert shown["grid"]["images"]


def test_two_likenesses_are_drawn_and_scored_side_by_side(server: Server):
    base = {name: ["base", place] for place, name in enumerate(("model", "clip", "vae"))}
    few = {
        "concept": ["concept", 0], "preset": "automatic", "steps": 2, "vectors": 0, "seed": 0,
        "masked": "as the preset says", "preview_every": 0, "preview_prompt": "",
    }  # fmt: skip
    words = node("LikenessTrainTextualInversion", **base, **few, learning_rate=0.01)
    heard = node("LikenessTrainCustomDiffusion", **base, **few, learning_rate=0.0, prior="no")
    drawn = node(
        "LikenessGrid", **base, concept=["concept", 0], prompts=PROMPTS[0], strengths="1", seed=3, seeds=1,
        faces="miniature", name="two", steps=4, size=128, likeness=["words", 0], likeness_2=["heard", 0],
        likeness_3=["words", 0],
    )  # fmt: skip
    keep = {"class_type": "PreviewImage", "inputs": {"images": ["grid", 1]}}
    shown = server.run(graph(words=words, heard=heard, grid=drawn, keep=keep))
    first, second, third = (server.picture(file) for file in shown["keep"]["images"])
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    report = (server.base / "output" / "two.html").read_text("utf-8")
    for name in ("textual-inversion", "custom-diffusion", "textual-inversion 2"):
        assert f"{name}, strength 1" in report and f"<td>{name}</td>" in report


def test_a_lora_of_another_trainer_stands_beside_ours_under_its_own_words(server: Server):
    base = load_base(BaseSpec())
    path = next(name for name, _ in base.network.named_modules() if name.endswith("attn2.to_v"))
    layer, name = base.network.get_submodule(path), f"lora_unet_{path.replace('.', '_')}"
    chance = torch.Generator().manual_seed(0)
    place = server.base / "models" / "likeness"
    place.mkdir(parents=True, exist_ok=True)
    halves = {f"{name}.lora_down.weight": torch.randn(4, layer.in_features, generator=chance),
              f"{name}.lora_up.weight": torch.randn(layer.out_features, 4, generator=chance)}  # fmt: skip
    save_file(halves, place / "theirs.safetensors")
    parts = {name: ["base", place] for place, name in enumerate(("model", "clip", "vae"))}
    words = node(
        "LikenessTrainTextualInversion", **parts, concept=["concept", 0], preset="automatic", steps=2,
        vectors=0, seed=0, masked="as the preset says", preview_every=0, preview_prompt="",
        learning_rate=0.01,
    )  # fmt: skip
    drawn = node(
        "LikenessGrid", **parts, concept=["concept", 0], prompts="a photo of {}", strengths="0, 1", seed=3,
        seeds=1, faces="miniature", name="theirs", steps=4, size=128, likeness=["load", 0],
        likeness_2=["words", 0],
    )  # fmt: skip
    load = node("LikenessLoad", name="theirs.safetensors", trigger_word="")
    keep = {"class_type": "PreviewImage", "inputs": {"images": ["grid", 1]}}
    shown = server.run(graph(words=words, load=load, grid=drawn, keep=keep))
    none, full, ours, _ = (server.picture(file) for file in shown["keep"]["images"])
    assert not np.array_equal(none, full) and not np.array_equal(none, ours)
    report = (server.base / "output" / "theirs.html").read_text("utf-8")
    assert "imported, strength 1" in report and "textual-inversion, strength 1" in report


def sampled(model: list) -> dict[str, Any]:
    """KSampler on the second prompt with the grid's last seed."""
    return {
        "text": node("CLIPTextEncode", clip=[model[0], 1], text=PROMPTS[1]),
        "nothing": node("CLIPTextEncode", clip=[model[0], 1], text=""),
        **ending(model, ["text", 0], ["nothing", 0], seed=4, steps=6, cfg=5.0),
    }


def test_learning_ends_by_likeness_and_shows_its_curve(server: Server):
    learn = {
        "class_type": "LikenessTrainTextualInversion",
        "inputs": {
            "model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "concept": ["concept", 0],
            "preset": "automatic", "steps": 12, "learning_rate": 0.0000001, "vectors": 0,
            "masked": "as the preset says", "seed": 0, "preview_every": 0, "preview_prompt": "",
            "stop_by_likeness": 1,
        },
    }  # fmt: skip
    save = {"class_type": "LikenessSave", "inputs": {"likeness": ["learn", 0], "name": "stopped"}}
    shown = server.run(graph(learn=learn, save=save))
    assert len(shown["learn"]["images"]) == 2  # the loss, and how the likeness grew
    learned = Artifact.load(server.base / "models" / "likeness" / "stopped.safetensors")
    assert learned.steps <= 2  # at such a rate nothing grows: four looks are enough, the first is as good
