"""What a node's widgets are: their order and types never change, few are shown, numbers are what will run.

Workflows keep values by their place. tests/golden/widgets-0.1.json is what version 0.1 had, for ever;
widgets.json is what there is now: after adding one at the end, write it again with

    python tests/comfy/test_widgets.py http://127.0.0.1:8188
"""

import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

if __package__:
    from likeness_portraits.tests.comfy.draw_workflows import CHROMIUM, editor
    from likeness_portraits.tests.comfy.hosts import Server
else:
    CHROMIUM = None

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SAVED = {"INT": 3, "FLOAT": 0.25, "STRING": "text", "BOOLEAN": True, "COMBO": "a choice"}

pytestmark = pytest.mark.comfy
needs_editor = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium")


def widgets_of(nodes: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """[id, type] of each of our nodes' widgets, in the order in which workflows keep their values."""
    found = {}
    for name, node in nodes.items():
        if name.startswith("Likeness"):
            found[name] = [
                [entry, told]
                for group in ("required", "optional")
                for entry in node["input_order"].get(group, [])
                for told in _types(entry, node["input"][group][entry])
            ]
    return found


def _types(entry: str, told: list[Any]) -> Iterator[str]:
    kind, options = (*told, {})[:2]
    kind = "COMBO" if isinstance(kind, list) else kind
    if kind in TYPES and not options.get("forceInput"):
        yield kind
        if options.get("control_after_generate", entry in ("seed", "noise_seed")):
            yield "control"


def golden(name: str) -> dict[str, list[list[str]]]:
    return json.loads((GOLDEN / name).read_text("utf-8"))


def test_widgets_stand_in_the_order_that_is_written_down(nodes: dict[str, Any]):
    assert widgets_of(nodes) == golden("widgets.json")


def test_what_version_0_1_had_comes_first_in_its_order_and_types(nodes: dict[str, Any]):
    now = widgets_of(nodes)
    for name, before in golden("widgets-0.1.json").items():
        assert now[name][: len(before)] == before, name


# --------------------------------------------------------------------------------------------- in the editor

READ = """
([type, values]) => {
  const node = LiteGraph.createNode(type);
  window.app.graph.add(node);
  node.configure({...node.serialize(), widgets_values: values});
  const read = Object.fromEntries(node.widgets.map(widget => [widget.name, widget.value]));
  window.app.graph.remove(node);
  return read;
}
"""
LOOK = """
() => {
  const graph = window.app.graph;
  graph.clear();
  const made = type => { const node = LiteGraph.createNode(type); graph.add(node); return node };
  const shown = node => node.widgets.filter(w => !w.hidden).map(w => w.name);
  const numbers = node => ['steps', 'learning_rate', 'rank'].map(name =>
    node.widgets.find(widget => widget.name === name).value);
  const [demo, learn] = [made('LikenessMiniature'), made('LikenessTrainDreamBoothLora')];
  const found = {shown: shown(learn), values: learn.serialize().widgets_values.length, fresh: numbers(learn)};
  const low = learn.size[1];
  learn.widgets.at(-1).callback();
  found.all = shown(learn);
  found.grows = learn.size[1] > low + 100;
  demo.connect(0, learn, 0);
  found.demo = numbers(learn);
  const set = (name, value) => {
    const widget = learn.widgets.find(one => one.name === name);
    widget.value = value; widget.callback?.(value);
  };
  set('steps', 77);
  demo.connect(0, learn, 0);
  found.typed = numbers(learn);
  set('preset', 'reference');
  found.reference = numbers(learn);
  return found;
}
"""


@pytest.fixture(scope="module")
def page(server: "Server") -> Iterator[Any]:
    with editor(server.url) as found:
        yield found


@needs_editor
def test_the_editor_reads_values_saved_by_0_1_into_the_same_widgets(page: Any):
    for name, before in golden("widgets-0.1.json").items():
        values = ["fixed" if kind == "control" else SAVED[kind] for _, kind in before]
        read = page.evaluate(READ, [name, values])
        wanted = {entry: value for (entry, kind), value in zip(before, values) if kind != "control"}
        assert {entry: read[entry] for entry in wanted} == wanted, name


@needs_editor
def test_six_widgets_are_shown_the_rest_on_asking_and_numbers_are_those_of_the_preset(page: Any):
    found = page.evaluate(LOOK)
    six = ["preset", "steps", "learning_rate", "seed", "preview_prompt", "save_as"]
    assert found["shown"] == [*six, "show advanced inputs"]
    assert found["values"] == len(golden("widgets.json")["LikenessTrainDreamBoothLora"])
    assert found["grows"] and {"rank", "prior", "precision", "more_settings"} <= set(found["all"])
    assert found["fresh"] == [800, 1e-4, 16]
    assert found["demo"] == [150, 5e-3, 8]
    assert found["typed"] == [77, 5e-3, 8]  # what somebody typed stays
    assert found["reference"][0] != 77


if __name__ == "__main__":
    with urllib.request.urlopen(f"{sys.argv[1]}/object_info") as answer:
        lists = widgets_of(json.load(answer))
    rows = ",\n".join(f'"{name}": {json.dumps(row)}' for name, row in lists.items())
    (GOLDEN / "widgets.json").write_text(f"{{\n{rows}\n}}\n", "utf-8")
