"""What a node's widgets are: their order and types never change, few are shown, numbers are what will run.

Workflows keep values by their place. tests/golden/widgets-0.1.json is what version 0.1 had, for ever;
widgets.json is what there is now: after adding one at the end, write it again with

    python tests/comfy/test_widgets.py http://127.0.0.1:8188
"""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

if __package__:
    import torch

    from likeness_portraits.engine.artifact import Artifact
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
FRESH = """
(type) => {
  const node = LiteGraph.createNode(type);
  window.app.graph.add(node);
  const shown = node.widgets.filter(w => !w.hidden && w.type !== 'button').map(w => w.name);
  window.app.graph.remove(node);
  return shown;
}
"""
PAIR = """
([type, older, value]) => {
  const node = LiteGraph.createNode(type), graph = window.app.graph;
  graph.add(node);
  const widget = name => node.widgets.find(one => one.name === name);
  const pair = () => [older, 'picture_size'].filter(name => !widget(name).options.hidden);
  const drawn = () => [older, 'picture_size'].filter(name => !widget(name).hidden);
  const found = {fresh: [pair(), widget(older).value, widget('picture_size').value]};
  const saved = node.serialize();
  saved.widgets_values[node.widgets.indexOf(widget(older))] = value;
  saved.widgets_values = saved.widgets_values.slice(0, -1);  // as before there was a choice
  node.configure(saved);
  found.older = [pair(), widget(older).value, widget('picture_size').value];
  node.widgets.find(one => one.name === 'show advanced inputs')?.callback();
  found.drawn = drawn();
  widget(older).value = 0; widget(older).callback?.(0);
  found.emptied = [pair(), drawn()];
  graph.remove(node);
  return found;
}
"""
CHOICE = """
() => {
  const node = LiteGraph.createNode('LikenessLoad');
  window.app.graph.add(node);
  const {options} = node.widgets.find(one => one.name === 'name');
  const told = [...options.values].map(name => [name, options.getOptionLabel(name)]);
  window.app.graph.remove(node);
  return Object.fromEntries(told);
}
"""
INTO_A_SUBGRAPH = """
([name, value]) => {
  const graph = window.app.graph;
  graph.clear();
  const made = type => { const node = LiteGraph.createNode(type); graph.add(node); return node };
  const [demo, learn] = [made('LikenessMiniature'), made('LikenessTrainDreamBoothLora')];
  const read = node => node.widgets.find(widget => widget.name === name).value;
  demo.connect(0, learn, 0);
  learn.widgets.find(widget => widget.name === name).value = value;
  const {subgraph, node} = graph.convertToSubgraph(new Set([learn]));
  const inside = subgraph._nodes.find(one => one.type === learn.type);
  const found = {inside: read(inside), wired: inside.inputs.find(one => one.name === 'model').link != null};
  const saved = JSON.parse(JSON.stringify(graph.serialize()));
  graph.clear();
  graph.configure(saved);
  const again = graph._nodes.find(one => one.subgraph).subgraph._nodes.find(one => one.type === learn.type);
  return {...found, opened: read(again)};
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
  const shows = name => learn.constructor.nodeData.input.required.preset[1].numbers[name];
  found.second = {...shows('miniature-2')};
  shows('miniature-2').steps = 7;  // whatever it is, another than the first's
  const choice = demo.widgets.find(widget => widget.name === 'architecture');
  const choose = value => { choice.value = value; choice.callback?.(value) };
  choose('FLUX.2');
  found.chosen = numbers(learn);
  choose('SD 1.x');
  shows('miniature-2').steps = found.second.steps;
  found.back = numbers(learn);
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
    assert found["demo"] == found["back"] == [150, 5e-3, 8]
    assert found["chosen"] == [7, found["second"]["learning_rate"], found["second"]["rank"]]
    assert found["typed"] == [77, 5e-3, 8]  # what somebody typed stays
    assert found["reference"][0] != 77


@needs_editor
def test_what_was_typed_stays_when_a_training_node_goes_into_a_subgraph(page: Any):
    """800 steps are another preset's number: they were typed all the same."""
    found = page.evaluate(INTO_A_SUBGRAPH, ["steps", 800])
    assert found == {"inside": 800, "wired": True, "opened": 800}


@needs_editor
@pytest.mark.parametrize(
    ("kind", "older"),
    [("LikenessTrainDreamBoothLora", "resolution"), ("LikenessDetailFace", "size"), ("LikenessGrid", "size")],
)
def test_a_size_is_chosen_and_an_older_workflows_number_is_shown_instead(page: Any, kind: str, older: str):
    found = page.evaluate(PAIR, [kind, older, 600])
    assert found["fresh"] == [["picture_size"], 0, "automatic"]
    assert found["older"] == [[older], 600, "automatic"] and found["drawn"] == [older]
    assert found["emptied"] == [["picture_size"], ["picture_size"]]


@needs_editor
def test_every_training_node_shows_few_widgets_and_no_number_that_means_something_else(
    page: Any, nodes: dict[str, Any]
):
    """Zeros are seeds and switches that are off; what a preset or the model has stands as its number."""
    for name in (name for name in nodes if name.startswith("LikenessTrain")):
        told = nodes[name]["input"]
        fields = {**told["required"], **told.get("optional", {})}
        shown = page.evaluate(FRESH, name)
        advanced = {field for field, entry in fields.items() if (entry[1:] or [{}])[0].get("advanced")}
        assert 4 <= len(shown) <= 7 and not advanced & set(shown), (name, shown)
        zeros = {field for field, (kind, *more) in fields.items() if kind in ("INT", "FLOAT")
                 for options in more if options["default"] == 0}  # fmt: skip
        assert zeros <= {"seed", "stop_by_likeness", "resolution"}, (name, zeros)
        assert "resolution" in advanced and "resolution" not in shown


@needs_editor
def test_likenesses_are_chosen_by_name_base_method_and_day(server: "Server", page: Any):
    folder = server.base / "models" / "likeness"
    folder.mkdir(exist_ok=True)
    up, down = torch.zeros(4, 1), torch.zeros(1, 4)
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down,
               f"{layer}.alpha": torch.tensor(1.0)}  # fmt: skip
    for name, method in (("chosen", "dreambooth-lora"), ("chosen-2", "<b>bad</b>")):  # it may say anything
        learned = Artifact(kind="lora", method=method, tensors=tensors, base_family="miniature")
        learned.save(folder / f"{name}.safetensors")
    (folder / "chosen-3.safetensors").write_bytes(b"no tensors")
    page.evaluate("async () => await window.app.refreshComboInNodes()")
    told = page.evaluate(CHOICE)
    day = time.strftime("%Y-%m-%d")
    assert told["chosen.safetensors"] == f"chosen · Miniature · dreambooth-lora · {day}"
    assert told["chosen-2.safetensors"] == f"chosen-2 · Miniature · {day}"
    assert told["chosen-3.safetensors"] == f"chosen-3 · {day}"


if __name__ == "__main__":
    with urllib.request.urlopen(f"{sys.argv[1]}/object_info") as answer:
        lists = widgets_of(json.load(answer))
    rows = ",\n".join(f'"{name}": {json.dumps(row)}' for name, row in lists.items())
    (GOLDEN / "widgets.json").write_text(f"{{\n{rows}\n}}\n", "utf-8")
