"""The newcomer's route: from the gallery to a picture in three clicks, and to one's own in four edits.

Screenshots are kept in the folder that LIKENESS_SCREENSHOTS names.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from likeness_portraits.tests.comfy.draw_workflows import CHROMIUM, drawing, editor, file_of
from likeness_portraits.tests.comfy.hosts import PACK, WORKFLOW, Server, to_api

pytestmark = pytest.mark.comfy
needs_editor = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium")

CLICKS, EDITS = 3, 4
SETTING = "([name, value]) => window.app.extensionManager.setting.set(name, value)"
COMMAND = "(name) => window.app.extensionManager.command.execute(name)"
OPENED = "window.app.graph._nodes.some(node => node.type === 'LikenessMiniature')"
WATCH = """
async (renderer) => {
  window.seen = {errors: [], pictures: []};
  const api = window.app.api;
  api.addEventListener('execution_error', event => window.seen.errors.push(event.detail.exception_message));
  api.addEventListener('executed', event => {
    for (const file of event.detail.output?.images ?? []) window.seen.pictures.push(file);
  });
  api.addEventListener('execution_success', () => window.seen.done = true);
  if (renderer === 'Nodes 2.0') await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true);
}
"""
# learning is cut short: what is looked at is the way to the picture
SHORTEN = """
() => {
  const learn = window.app.graph._nodes.find(node => node.type === 'LikenessTrainDreamBoothLora');
  for (const [name, value] of [['steps', 2], ['prior', 'no'], ['preview_every', 0], ['save_as', '']])
    learn.widgets.find(widget => widget.name === name).value = value;
}
"""


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("LIKENESS_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@needs_editor
@pytest.mark.parametrize("renderer", ["classic", pytest.param("Nodes 2.0", marks=pytest.mark.slow)])
def test_three_clicks_lead_from_the_gallery_to_a_picture(
    server: Server, nodes: dict[str, Any], checkout: Path, screenshots: Path, renderer: str
):
    newer = "search_aliases" in nodes["LikenessConcept"]
    if renderer == "Nodes 2.0" and not newer:
        pytest.skip("this editor has one renderer")
    said: list[str] = []
    clicks, name = 0, f"{checkout.name}-{renderer.replace(' ', '-')}"

    def click(target: Any) -> None:
        nonlocal clicks
        target.click()
        clicks += 1

    with editor(server.url) as page:
        page.set_viewport_size({"width": 1920, "height": 1080})
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        try:
            page.evaluate(WATCH, renderer)
            page.evaluate(COMMAND, "Comfy.BrowseTemplates")  # at the first visit it opens by itself
            gallery = page.get_by_role("dialog").first
            click(gallery.get_by_text(PACK, exact=True).first)
            page.wait_for_timeout(1000)  # pictures load
            page.screenshot(path=screenshots / f"{name}-1-gallery.png")
            click(card(page, gallery, WORKFLOW.stem))
            page.wait_for_function(OPENED, timeout=60_000)
            page.wait_for_timeout(1000)
            page.evaluate(SHORTEN)
            page.screenshot(path=screenshots / f"{name}-2-opened.png")
            click(page.get_by_role("button", name="Run", exact=True).first)
            page.wait_for_function("window.seen.done || window.seen.errors.length", timeout=300_000)
            page.wait_for_timeout(1000)
            page.screenshot(path=screenshots / f"{name}-3-picture.png")
            if newer:
                page.evaluate(COMMAND, "Comfy.ToggleLinear")  # from the app view to the graph
                page.wait_for_timeout(1500)
                page.screenshot(path=screenshots / f"{name}-4-graph.png")
            seen = page.evaluate("window.seen")
        finally:
            page.evaluate(SETTING, ["Comfy.VueNodes.Enabled", False])
    assert seen["errors"] == [] and clicks <= CLICKS
    files = [file for file in seen["pictures"] if file["type"] == "output"]
    assert files and server.picture(files[-1]).std() > 10
    assert [line for line in said if "likeness" in line.lower() and "404" not in line] == []


def card(page: Any, gallery: Any, title: str) -> Any:
    """A template's card in the gallery: older editors render cards where somebody scrolls to them."""
    found = gallery.get_by_text(title).first
    for _ in range(40):
        if found.count():
            return found
        gallery.hover()
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(250)
    raise AssertionError(f"no card says {title}")


def own(prompt: dict[str, Any], changed: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """The prompt with these fields changed, by class of node and name; each must be there once."""
    for (kind, field), value in changed.items():
        (node,) = (one for one in prompt.values() if one["class_type"] == kind)
        assert field in node["inputs"]
        node["inputs"][field] = value
    return prompt


def in_api(module: str, nodes: dict[str, Any]) -> dict[str, Any]:
    return to_api(json.loads(file_of(module).read_text("utf-8")), nodes)


def test_ten_photographs_need_four_edits_at_most(server: Server, nodes: dict[str, Any]):
    """From template 2, with another checkpoint than its own; then template 4 needs none."""
    edits = {
        ("CheckpointLoaderSimple", "ckpt_name"): "mine-xl.safetensors",
        ("LikenessConceptFolder", "folder"): "my-photos",
        ("LikenessConceptFolder", "class_word"): "woman",
    }
    assert len(edits) <= EDITS
    prompt = own(in_api("train_sdxl", nodes), edits)
    taken_by_the_server(server, prompt, {"checkpoints": ["mine-xl.safetensors"]})
    kinds = {node["class_type"]: node["inputs"] for node in prompt.values()}
    # nothing of the demo is left; the sizes are the model's; what is learned is kept where template 4 looks
    assert not {"LikenessMiniature", "LikenessMiniatureStyle"} & kinds.keys()
    assert kinds["EmptyLatentImage"]["width"] == kinds["EmptyLatentImage"]["height"] == 1024
    learn = kinds["LikenessTrainDreamBoothLora"]
    assert (learn["resolution"], learn["picture_size"]) == (0, "automatic")  # the model's own
    later = {node["class_type"]: node["inputs"] for node in in_api("draw_trained", nodes).values()}
    assert later["LikenessLoad"]["name"] == learn["save_as"] + ".safetensors"


def taken_by_the_server(server: Server, prompt: dict[str, Any], files: dict[str, list[str]]) -> None:
    """Asserts that a real server finds nothing wrong with a prompt once empty files of these names exist.

    It begins then, and ends at the first of them that it reads.
    """
    for folder, names in files.items():
        for name in names:
            place = server.base / "models" / folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    for photos in ("friend", "my-photos"):
        (server.base / "input" / photos).mkdir(exist_ok=True)
    entry = server.wait(server.queue(prompt), 60)
    (failed,) = (told for kind, told in entry["status"]["messages"] if kind == "execution_error")
    assert failed["node_type"] in ("CheckpointLoaderSimple", "LikenessLoad", "CLIPVisionLoader", "LoadImage",
                                   "LikenessConceptFolder")  # fmt: skip


LIKENESSES = ["friend.safetensors", "friend-2.safetensors", "adapter.pt"]


@pytest.mark.parametrize(
    "module", ["train_sdxl", "train_sd15", "draw_trained", "one_photo_sd15", "two_people_saved"]
)
def test_templates_for_checkpoints_are_taken_by_the_server_once_their_files_are_there(
    server: Server, nodes: dict[str, Any], module: str
):
    files: dict[str, list[str]] = {"likeness": LIKENESSES}
    for named in drawing(module).MODELS.values():
        for file in named:
            files.setdefault(file.directory, []).append(file.name)
    photo = server.base / "input" / "example.png"
    Image.new("RGB", (64, 64)).save(photo)
    taken_by_the_server(server, in_api(module, nodes), files)


def test_loaders_name_their_files_so_that_the_editor_offers_them():
    for module in ("train_sdxl", "train_sd15", "draw_trained", "one_photo_sd15", "two_people_saved"):
        workflow = json.loads(file_of(module).read_text("utf-8"))
        loaders = [node for node in workflow["nodes"] if "models" in node["properties"]]
        assert len(loaders) == len(drawing(module).MODELS)
        for node in loaders:
            (file,) = node["properties"]["models"]
            assert node["widgets_values"][0] == file["name"] and file["url"].startswith("https://")
            assert file["directory"] in ("checkpoints", "controlnet", "clip_vision")
