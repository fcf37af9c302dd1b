"""The bundled workflows in ComfyUI's own editor, in a headless Chromium."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from likeness_portraits.tests.comfy.draw_workflows import (
    CHROMIUM,
    LAID,
    LARGEST,
    ROOT,
    drawing,
    editor,
    templates,
)
from likeness_portraits.tests.comfy.hosts import PACK, WORKFLOW, Server, to_api

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium"),
]

STEPS = 6
READABLE = 0.57  # of its size: below, the canvas writes nothing any more
OPEN_TEMPLATE = """
async ([pack, name]) => {
  const answer = await window.app.api.fetchApi(`/workflow_templates/${pack}/${name}.json`);
  const workflow = await answer.json();
  delete workflow.extra.linearMode;  // the graph, not the app view
  await window.app.loadGraphData(workflow, true, true, name);
}
"""
BOXES = """
() => {
  const boxes = [...document.querySelectorAll('[data-node-id]')]
    .map(one => [one.dataset.nodeId, one.getBoundingClientRect()]).filter(([, box]) => box.width);
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const pairs = boxes.flatMap(([one, box], at) =>
    boxes.slice(at + 1).filter(([, other]) => over(box, other)).map(([other]) => [one, other]));
  return [boxes.length, pairs];
}
"""
SHOWN = """
() => Object.fromEntries(window.app.graph._nodes.map(node => [node.type, [
  node.widgets?.find(widget => widget.name === '$$node-text-preview')?.value ?? '',
  (node.imgs ?? []).map(image => image.src),
]]))
"""
SHORTEN = """
(steps) => {
  const learn = window.app.graph._nodes.find(node => node.type === 'LikenessTrainDreamBoothLora');
  const set = (name, value) => learn.widgets.find(widget => widget.name === name).value = value;
  set('steps', steps); set('prior', 'no'); set('preview_every', 2);
  window.seen = {previews: 0, lines: [], errors: []};
  const api = window.app.api;
  api.addEventListener('b_preview', () => window.seen.previews++);
  api.addEventListener('progress_text', event => window.seen.lines.push(event.detail.text));
  api.addEventListener('execution_error', event => window.seen.errors.push(event.detail));
  api.addEventListener('execution_success', () => window.seen.done = true);
}
"""


def test_the_workflow_is_opened_understood_and_run_by_the_editor(
    server: Server, nodes: dict[str, Any], workflow: dict[str, Any], tmp_path: Any
):
    with editor(server.url) as page:
        page.evaluate(OPEN_TEMPLATE, [PACK, WORKFLOW.stem])
        page.wait_for_timeout(1000)
        page.screenshot(path=tmp_path / "opened.png")
        understood = page.evaluate("async () => (await window.app.graphToPrompt()).output")
        assert without_notes(understood) == to_api(workflow, nodes)
        assert not page.locator(".p-toast-message-warn, .p-toast-message-error").count()

        page.evaluate(SHORTEN, STEPS)
        page.get_by_role("button", name="Run", exact=True).first.click()
        page.wait_for_function("window.seen.done || window.seen.errors.length", timeout=600_000)
        page.wait_for_timeout(1500)  # live previews make room
        seen, shown = page.evaluate("window.seen"), page.evaluate(SHOWN)
        page.screenshot(path=tmp_path / "run.png")
    assert seen["errors"] == []
    said = {kind: text for kind, (text, _) in shown.items()}
    assert said["LikenessConcept"] == "the pictures look good"
    last, plan, *_ = said["LikenessTrainDreamBoothLora"].splitlines()
    assert last.startswith("done in ") and "saved as " in last and "demo-person" in last
    assert plan.startswith(f"dreambooth-lora · {STEPS} steps · learning rate ") and "4 pictures" in plan
    # all previews and the plot, as files that stay: no live picture
    pictures = shown["LikenessTrainDreamBoothLora"][1]
    assert len(pictures) == STEPS // 2 + 1 and all("/view?" in source for source in pictures)
    assert seen["previews"] >= 3
    assert any(f"of {STEPS}" in line for line in seen["lines"])
    history = json.loads(server.get("/history", max_items="1"))
    (entry,) = history.values()
    saved = [images["images"][0] for images in entry["outputs"].values() if images.get("images")]
    assert any(server.picture(file).shape == (128, 128, 3) for file in saved if file["type"] == "output")


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    with editor(server.url) as found:
        found.set_viewport_size({"width": 1920, "height": 1080})
        yield found


@pytest.mark.parametrize("module", templates())
def test_every_workflow_is_offered_understood_and_laid_out_to_be_read(
    page: Any, server: Server, nodes: dict[str, Any], module: str
):
    file = templates()[module]
    assert file.with_suffix(".jpg").exists()
    page.evaluate(OPEN_TEMPLATE, [PACK, file.stem])
    page.wait_for_timeout(500)
    understood = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert without_notes(understood) == to_api(json.loads(file.read_text("utf-8")), nodes)
    assert page.evaluate("window.app.canvas.ds.scale") >= READABLE
    assert page.evaluate(LAID, LARGEST) == []  # no wire runs under a node, none lies on another
    if not hasattr(drawing(module), "MODELS"):  # what they name is not there
        assert not page.locator(".p-toast-message-warn, .p-toast-message-error").count()


@pytest.mark.slow
def test_in_nodes_2_0_no_node_lies_on_another_either(page: Any, nodes: dict[str, Any]):
    """There nodes are as tall as what is in them."""
    if "search_aliases" not in nodes["LikenessConcept"]:
        pytest.skip("this editor has one renderer")
    switch = "(on) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    page.evaluate(switch, True)
    try:
        lying = {}
        for file in templates().values():
            page.evaluate(OPEN_TEMPLATE, [PACK, file.stem])
            page.wait_for_timeout(1500)
            count, lying[file.stem] = page.evaluate(BOXES)
            assert count >= 5, f"{file.stem}: its nodes are not drawn"
    finally:
        page.evaluate(switch, False)
    assert {name: pairs for name, pairs in lying.items() if pairs} == {}


def test_every_bundled_workflow_can_be_drawn_again():
    assert sorted(templates().values()) == sorted((ROOT / "workflows").glob("*.json"))


def test_every_note_says_first_what_to_change_and_is_short():
    for module in templates():
        lines = drawing(module).NOTE.splitlines()
        assert lines[0].startswith("### ") and len(lines) <= 12, module


def test_every_template_has_one_field_for_its_prompt():
    for module in set(templates()) - {"train_sdxl", "train_sd15", "masks", "score"}:  # four, none, a list
        plan = drawing(module)
        inside = {name for one in getattr(plan, "SUBGRAPHS", {}).values() for name in one.members}
        told = {name: widgets for name, (*_, widgets) in plan.NODES.items() if name not in inside}
        asked = {name: [str(widgets.get(key)) for key in ("text", "value", "prompt")]
                 for name, widgets in told.items()}  # fmt: skip
        prompts = re.compile(r"<\w+>|a woman")
        fields = [name for name, said in asked.items() if any(map(prompts.search, said))]
        assert len(fields) == 1, (module, fields)


def without_notes(prompt: dict[str, Any]) -> dict[str, Any]:
    """The editor's prompt with nothing but classes and inputs, as the server reads it."""
    shown = {"PreviewAny": "preview"}  # older editors send along what a node shows
    return {
        name: {
            "class_type": node["class_type"],
            "inputs": {
                key: value for key, value in node["inputs"].items() if key != shown.get(node["class_type"])
            },
        }
        for name, node in prompt.items()
        if node["class_type"] != "MarkdownNote"
    }
