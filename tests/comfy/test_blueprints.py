"""The blueprints in subgraphs/: whole ways as one node each, found by the editor's search."""

import json
from typing import Any

import pytest

from likeness_portraits.tests.comfy.draw_workflows import CHROMIUM, ROOT, editor, file_of, modules
from likeness_portraits.tests.comfy.hosts import PACK, Server, to_api

pytestmark = pytest.mark.comfy

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
FIRST = {  # search words: the blueprint of ours that they find
    "portrait lora": "Train a portrait LoRA from a folder", "trained person": "Draw a trained person",
    "two people": "Two people in regions", "fix faces": "Fix faces as this person",
}  # fmt: skip
SEARCH = """
(words) => {
  const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
  const search = stores.get('nodeDef').nodeSearchService;
  return words.map(word => [word, search.searchNode(word, [], {limit: 64}).map(node => node.display_name)]);
}
"""
PLACED = """
async (text) => {
  await window.app.loadGraphData(JSON.parse(text));
  const [node] = window.app.graph._nodes;
  return [node.inputs.map(input => input.name), node.outputs.map(output => output.name),
          (node.widgets ?? []).map(widget => widget.name)];
}
"""


def test_there_are_four_and_each_can_be_drawn_again():
    drawn = sorted(file for file in map(file_of, modules()) if file.parent.name == "subgraphs")
    assert drawn == FILES and sorted(file.stem for file in FILES) == sorted(FIRST.values())


def test_the_server_offers_them_to_the_editor(server: Server):
    try:
        offered = json.loads(server.get("/global_subgraphs")).values()
    except OSError:
        pytest.skip("this ComfyUI has no blueprints")
    ours = {one["name"] for one in offered if one["info"]["node_pack"] == f"custom_nodes.{PACK}"}
    assert ours == set(FIRST.values())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium")
def test_search_finds_them_and_each_shows_its_fields(server: Server, nodes: dict[str, Any]):
    if "search_aliases" not in nodes["LikenessConcept"]:
        pytest.skip("this ComfyUI has no blueprints in its search")
    with editor(server.url) as page:
        found = dict(page.evaluate(SEARCH, list(FIRST)))
        for word, name in FIRST.items():
            assert name in found[word][:5], (word, found[word][:8])
        for file in FILES:
            workflow = json.loads(file.read_text("utf-8"))
            (whole,) = workflow["nodes"]
            inputs, outputs, widgets = page.evaluate(PLACED, json.dumps(workflow))
            assert {"MODEL", "CLIP", "VAE"} <= {one["type"] for one in whole["inputs"]}, file.stem
            assert inputs[: len(whole["inputs"])] and outputs
            assert len(widgets) >= len(whole["properties"]["proxyWidgets"]), (file.stem, widgets)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_what_is_inside_is_there_and_fits_together(nodes: dict[str, Any], file: Any):
    workflow = json.loads(file.read_text("utf-8"))
    (whole,), (inside,) = workflow["nodes"], workflow["definitions"]["subgraphs"]
    prompt = to_api(workflow, nodes)
    members = {str(one["id"]): one["type"] for one in inside["nodes"]}
    assert len(prompt) == len(members)
    for node, widget in whole["properties"]["proxyWidgets"]:
        told = nodes[members[node]]["input_order"]
        assert widget in (*told.get("required", ()), *told.get("optional", ())), (members[node], widget)
    open_ends = {one["name"] for one in whole["inputs"]}
    for name, node in prompt.items():
        sockets = nodes[node["class_type"]]["input"].get("required", {})
        missing = {key for key in sockets if key not in node["inputs"]}
        assert missing <= open_ends, (name, missing)
