"""The nodes inside a running ComfyUI: words, files, pictures and the cancel button."""

import copy
import json
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.comfy.graphs import ending, node
from likeness_portraits.tests.comfy.hosts import PACK, WORKFLOW, Server, psnr, to_api
from likeness_portraits.tests.comfy.write_locales import LOCALE, definitions

pytestmark = pytest.mark.comfy

STEPS = 6  # of training: enough to change a picture, quick enough for a test
PROMPT = "a photo of a smiling {}, wearing a blue shirt, on a beach"
SEED, SAMPLING_STEPS, GUIDANCE = 7, 25, 5.0
CORES = 2  # that ten seconds are meant for: so much work at most


def by_type(prompt: dict[str, Any], class_type: str) -> list[str]:
    return [name for name, node in prompt.items() if node["class_type"] == class_type]


def shortened(prompt: dict[str, Any], name: str) -> dict[str, Any]:
    """The bundled workflow's prompt with little training, saved under a name of its own."""
    prompt = copy.deepcopy(prompt)
    (learn,), (keep,) = (by_type(prompt, kind) for kind in ("LikenessTrainDreamBoothLora", "SaveImage"))
    prompt[learn]["inputs"] |= {"steps": STEPS, "prior": "no", "preview_every": STEPS // 2, "save_as": name}
    prompt["export"] = {"class_type": "LikenessExport", "inputs": {"likeness": [learn, 0], "name": name}}
    prompt[keep]["inputs"]["filename_prefix"] = name
    return prompt


@pytest.fixture(scope="module")
def prompt(workflow: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """The bundled workflow as the server takes it."""
    return to_api(workflow, nodes)


@pytest.fixture(scope="module")
def learned(server: Server, prompt: dict[str, Any]) -> dict[str, Any]:
    """The outputs of one run of the bundled workflow, by class of node."""
    short = shortened(prompt, "ann")
    outputs = server.run(short)
    return {node["class_type"]: outputs[name] for name, node in short.items() if name in outputs}


@pytest.fixture(scope="module")
def picture(server: Server, learned: dict[str, Any]) -> np.ndarray:
    """What the workflow saved after learning."""
    return server.picture(learned["SaveImage"]["images"][0])


def test_nodes_say_in_the_editor_what_the_locale_file_says(nodes: dict[str, Any]):
    assert definitions(nodes) == json.loads(LOCALE.read_text("utf-8"))


def test_help_pages_locale_and_template_are_served(server: Server, nodes: dict[str, Any]):
    for node_id in definitions(nodes):
        assert server.get(f"/extensions/{PACK}/docs/{node_id}.md").startswith(b"# ")
    assert "LikenessApply" in json.loads(server.get("/i18n"))["en"]["nodeDefs"]
    assert WORKFLOW.stem in json.loads(server.get("/workflow_templates"))[PACK]
    address = f"/api/workflow_templates/{PACK}/{urllib.parse.quote(WORKFLOW.stem)}"
    served = json.loads(server.get(f"{address}.json"))
    assert served == json.loads(WORKFLOW.read_text("utf-8"))
    assert server.get(f"{address}.jpg").startswith(b"\xff\xd8")


def test_the_command_line_draws_what_the_workflow_saved(
    server: Server, learned: dict[str, Any], picture: np.ndarray, likeness: Callable, tmp_path: Path
):
    assert learned["LikenessTrainDreamBoothLora"]["images"]  # the loss plot, shown in the node
    out, concept = tmp_path / "drawn.png", server.base / "models" / "likeness" / "ann.safetensors"
    ran = likeness(
        "generate", PROMPT.format("<v0>"), "--concept", concept,
        "--seed", SEED, "--steps", SAMPLING_STEPS, "--guidance", GUIDANCE, "--out", out,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert psnr(np.asarray(Image.open(out).convert("RGB")), picture) >= 40


def drawing(model: list, clip: list, text: str) -> dict[str, Any]:
    """Nodes that draw a prompt with the Miniature's node `base`, as the bundled workflow does."""
    return {
        "base": node("LikenessMiniature", person=0, pictures=4),
        "text": node("CLIPTextEncode", clip=clip, text=text),
        "nothing": node("CLIPTextEncode", clip=clip, text=""),
        **ending(model, ["text", 0], ["nothing", 0], seed=SEED, steps=SAMPLING_STEPS, cfg=GUIDANCE),
    }


def test_stock_lora_loader_and_embedding_give_the_same_picture(
    server: Server, learned: dict[str, Any], picture: np.ndarray
):
    graph = drawing(["lora", 0], ["lora", 1], PROMPT.format("embedding:ann"))
    graph["lora"] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["base", 0], "clip": ["base", 1], "lora_name": "ann.safetensors", "strength_model": 1.0,
            "strength_clip": 1.0,
        },
    }  # fmt: skip
    assert psnr(server.picture(server.run(graph)["show"]["images"][0]), picture) >= 40


def applied(likeness: list, number: int = 0) -> dict[str, Any]:
    """The node that puts a likeness onto the Miniature, or onto the `number`-th of these nodes."""
    source = f"apply {number - 1}" if number else "base"
    inputs = {"model": [source, 0], "clip": [source, 1], "likeness": likeness}
    return {"class_type": "LikenessApply", "inputs": inputs | {"strength_model": 1.0, "strength_clip": 1.0}}


def drawn_with_ann(server: Server, text: str) -> np.ndarray:
    """The saved likeness, loaded again, in a prompt."""
    graph = drawing(["apply 0", 0], ["apply 0", 1], text)
    graph["load"] = {"class_type": "LikenessLoad", "inputs": {"name": "ann.safetensors"}}
    graph["apply 0"] = applied(["load", 0])
    return server.picture(server.run(graph)["show"]["images"][0])


@pytest.mark.parametrize("spelling", ["<v0>", "embedding:v0", "(<v0>:1.0)"])
def test_a_saved_likeness_loaded_again_gives_the_same_picture(
    server: Server, learned: dict[str, Any], picture: np.ndarray, spelling: str
):
    assert psnr(drawn_with_ann(server, PROMPT.format(spelling)), picture) >= 40


def test_a_placeholder_can_be_given_a_weight_in_both_spellings(
    server: Server, learned: dict[str, Any], picture: np.ndarray
):
    short, long = (
        drawn_with_ann(server, PROMPT.format(f"({word}:1.5)")) for word in ("<v0>", "embedding:v0")
    )
    assert (short == long).all()
    assert (short != picture).any()


def learning_a_word(folder: str, token: str) -> dict[str, Any]:
    """Nodes that learn `token` by Textual Inversion from a folder in ComfyUI's input folder."""
    folder_inputs = {"folder": folder, "class_word": "", "token": token, "role": "as concept.json says"}
    learn_inputs = {
        "model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "concept": ["folder", 0],
        "preset": "automatic", "steps": 3, "learning_rate": 0.0, "vectors": 1, "masked": "no", "seed": 0,
        "preview_every": 0, "preview_prompt": "",
    }  # fmt: skip
    return {
        "folder": {"class_type": "LikenessConceptFolder", "inputs": folder_inputs},
        "learn": {"class_type": "LikenessTrainTextualInversion", "inputs": learn_inputs},
    }


@pytest.fixture
def folder_of_pictures(server: Server) -> str:
    """A concept folder in ComfyUI's input folder."""
    concept = server.base / "input" / "bob"
    concept.mkdir(exist_ok=True)
    for number, portrait in enumerate(world.example_pictures(world.TUNING_SEEDS[1], 2)):
        Image.fromarray(portrait.pixels).save(concept / f"{number}.png")
    (concept / "concept.json").write_text('{"class_word": "man"}')
    return "bob"


def test_a_word_learned_from_a_folder_is_used_beside_another_likeness(
    server: Server, learned: dict[str, Any], picture: np.ndarray, folder_of_pictures: str
):
    graph = drawing(["apply 1", 0], ["apply 1", 1], PROMPT.format("<v0> beside <v1>"))
    graph |= learning_a_word(folder_of_pictures, "<v1>")
    graph["load"] = {"class_type": "LikenessLoad", "inputs": {"name": "ann.safetensors"}}
    graph["apply 0"], graph["apply 1"] = applied(["load", 0]), applied(["learn", 0], 1)
    both = server.picture(server.run(graph)["show"]["images"][0])
    assert (both != picture).any()
    assert "does not exist" not in server.log.read_text()  # what ComfyUI says of unknown embeddings


def test_two_likenesses_with_one_placeholder_are_refused(
    server: Server, learned: dict[str, Any], folder_of_pictures: str
):
    graph = drawing(["apply 1", 0], ["apply 1", 1], PROMPT.format("<v0>"))
    graph |= learning_a_word(folder_of_pictures, "<v0>")
    graph["load"] = {"class_type": "LikenessLoad", "inputs": {"name": "ann.safetensors"}}
    graph["apply 0"], graph["apply 1"] = applied(["load", 0]), applied(["learn", 0], 1)
    assert "two likenesses use the placeholder <v0>" in message_of_failure(server, graph)


def test_the_model_itself_is_unchanged_by_learning_and_applying(server: Server, learned: dict[str, Any]):
    graph = drawing(["base", 0], ["base", 1], PROMPT.format("woman"))
    before = server.picture(server.run(graph)["show"]["images"][0])
    graph["base"]["inputs"]["pictures"] = 1  # another cache entry: the Miniature is built anew
    after = server.picture(server.run(graph)["show"]["images"][0])
    assert (before == after).all()


def endless(prompt: dict[str, Any], name: str) -> dict[str, Any]:
    long = shortened(prompt, name)
    (learn,) = by_type(long, "LikenessTrainDreamBoothLora")
    long[learn]["inputs"] |= {"steps": 90_000, "seed": 5, "preview_every": 0}
    return long


def wait_for_line(server: Server, text: str, seconds: float = 120, times: int = 1) -> None:
    end = time.monotonic() + seconds
    while server.log.read_text().count(text) < times:
        assert time.monotonic() < end, f"'{text}' never came:\n{server.log.read_text()[-2000:]}"
        time.sleep(0.05)


def cancel_soon(server: Server, graph: dict[str, Any], step: int) -> float:
    """Queues a graph, cancels it after `step`; the server's seconds of work until the editor was told.

    Of work, not of the clock: other processes on a small machine delay everything.
    """
    (learn,) = by_type(graph, "LikenessTrainDreamBoothLora")
    line = f"learning: step {step} of {graph[learn]['inputs']['steps']}"
    before = server.log.read_text().count(line)
    running = server.queue(graph)
    wait_for_line(server, line, times=before + 1)
    time.sleep(2)
    asked = server.seconds_worked()
    server.post("/interrupt", {})
    assert "execution_interrupted" in dict(server.wait(running, 30)["status"]["messages"])
    return server.seconds_worked() - asked


def test_cancelling_stops_within_a_second_keeps_what_was_learned_and_goes_on_from_there(
    server: Server, prompt: dict[str, Any]
):
    graph = endless(prompt, "long")
    first = cancel_soon(server, graph, 1)
    (kept,) = (server.base / "models" / "likeness" / "interrupted").glob("*.safetensors")
    done = Artifact.load(kept).steps
    assert 0 < done < 90_000
    assert str(kept) in server.log.read_text()
    second = cancel_soon(server, graph, done + 1)
    assert max(first, second) <= 1.0
    longer = json.loads(json.dumps(graph))
    (learn,) = by_type(graph, "LikenessTrainDreamBoothLora")
    longer[learn]["inputs"] |= {"steps": 100_000, "preview_prompt": "<v0>"}  # as is what only shows
    files = (server.base / "models" / "likeness" / "interrupted").glob("*.safetensors")
    cancel_soon(server, longer, max(Artifact.load(file).steps for file in files) + 1)


def test_after_a_cancel_other_pictures_and_another_noise_schedule_begin_another_run(
    server: Server, prompt: dict[str, Any]
):
    graph = endless(prompt, "others")
    (learn,) = by_type(graph, "LikenessTrainDreamBoothLora")
    graph[learn]["inputs"]["seed"] = 6
    cancel_soon(server, graph, 1)
    pictures = json.loads(json.dumps(graph))
    (base,) = by_type(pictures, "LikenessMiniature")
    pictures[base]["inputs"]["pictures"] = 3
    cancel_soon(server, pictures, 1)
    schedule = json.loads(json.dumps(graph))
    schedule["zsnr"] = node(
        "ModelSamplingDiscrete", model=graph[learn]["inputs"]["model"], sampling="eps", zsnr=True
    )
    schedule[learn]["inputs"]["model"] = ["zsnr", 0]
    cancel_soon(server, schedule, 1)


def message_of_failure(server: Server, graph: dict[str, Any]) -> str:
    entry = server.wait(server.queue(graph))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    return failures[0]["exception_message"].strip()


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("LikenessConcept", {"token": "v0"}, "'v0' cannot be a placeholder"),
        ("LikenessConcept", {"masks": ["fewer", 0]}, "there are 4 pictures but 1 masks"),
        ("LikenessTrainDreamBoothLora", {"more_settings": "rnak: 4"}, "did you mean 'rank'"),
        (
            "LikenessTrainDreamBoothLora",
            {"masked": "yes", "concept": ["bare", 0]},
            "train inside masks says yes, but no picture has a mask; connect masks to the Training Subject",
        ),
    ],
    ids=["token", "masks", "setting", "no masks"],
)
def test_mistakes_are_told_in_one_sentence(
    server: Server, prompt: dict[str, Any], node: str, inputs: dict[str, Any], message: str
):
    graph = shortened(prompt, "wrong")
    (name,) = by_type(graph, node)
    graph[name]["inputs"] |= inputs
    graph["fewer"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}
    (concept,) = by_type(graph, "LikenessConcept")
    bare = {key: value for key, value in graph[concept]["inputs"].items() if key != "masks"}
    graph["bare"] = {"class_type": "LikenessConcept", "inputs": {**bare, "token": "<bare>"}}
    told = message_of_failure(server, graph)
    assert message in told
    assert "\n" not in told


def test_the_bundled_workflow_takes_its_first_step_within_ten_seconds(
    server: Server, prompt: dict[str, Any], learned: dict[str, Any]
):
    """From pressing Run, class pictures included; in the server's own time, for others may work beside it."""
    cold = copy.deepcopy(prompt)
    (learn,) = by_type(cold, "LikenessTrainDreamBoothLora")
    cold[learn]["inputs"]["seed"] = 12345  # nothing of an earlier run is found again
    said = server.log.read_text().count("learning: step 1 of")
    began, before = time.monotonic(), server.seconds_worked()
    running = server.queue(cold)
    while server.log.read_text().count("learning: step 1 of") == said:
        assert time.monotonic() - began < 120, server.log.read_text()[-3000:]
        time.sleep(0.05)
    worked = server.seconds_worked() - before
    server.post("/interrupt", {})
    server.wait(running, 60)
    assert worked < 10 * CORES, f"{worked:.1f} s of work before the first step was done"
