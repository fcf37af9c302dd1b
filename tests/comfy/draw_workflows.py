"""Draws the bundled workflows and blueprints in a running ComfyUI's own editor, as the editor saves them.

    python tests/comfy/draw_workflows.py http://127.0.0.1:8188 [try_it ...]

What they hold is in drawings/, one module each; without names all of them are drawn.

For maintainers: after a node's inputs changed, with the oldest supported ComfyUI. Then `draw_thumbnails.py`
where what a workflow draws has changed, and the tests.
"""

import argparse
import importlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

DRAWINGS = Path(__file__).parent / "drawings"

DRAW = """
([nodes, links, subgraphs, bypassed, models, dropped]) => {
  // a field of a node inside a subgraph is shown on it while something is connected to it from outside
  const graph = window.app.graph;
  graph.clear();
  const made = {};
  for (const [name, [type, pos, size, title, widgets]] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(type);
    if (!node) throw new Error('no node ' + type);
    graph.add(node);
    node.pos = pos; node.size = [size[0], Math.max(size[1], node.computeSize()[1])];
    if (title) node.title = title;
    for (const [widget, value] of Object.entries(widgets)) {
      const found = node.widgets.find(w => w.name === widget) || (widget === '' && node.widgets[0]);
      if (!found) throw new Error(name + ' has no widget ' + widget);
      found.value = value;
    }
    if (models[name]) node.properties.models = models[name];
    made[name] = node;
  }
  for (const [from, output, to, input] of links) {
    const spaced = output.replaceAll('_', ' ');
    const slot = made[from].outputs.findIndex(o => o.name === output || o.name === spaced);
    const socket = made[to].inputs.findIndex(i => i.name === input);
    if (slot < 0 || socket < 0) throw new Error(`no link ${from}.${output} > ${to}.${input}: ` +
      made[from].outputs.map(o => o.name) + ' / ' + made[to].inputs.map(i => i.name));
    if (!made[from].connect(slot, made[to], socket)) throw new Error(`refused: ${from} > ${to}.${input}`);
  }
  for (const name of bypassed) made[name].mode = 4;
  for (const [key, {title, members, place, size, fields}] of Object.entries(subgraphs)) {
    const outside = Object.entries(fields).map(([path, value]) => {
      const [member, widget] = path.split('.'), source = LiteGraph.createNode('PrimitiveStringMultiline');
      graph.add(source);
      made[member].widgets.find(w => w.name === widget).value = value;
      source.connect(0, made[member], made[member].inputs.findIndex(i => i.name === widget));
      return [source, value];
    });
    const {subgraph, node} = graph.convertToSubgraph(new Set(members.map(name => made[name])));
    subgraph.name = node.title = title;
    for (const [source, value] of outside) {
      const {target_slot} = graph.getLink(source.outputs[0].links[0]);
      graph.remove(source);
      node.getWidgetFromSlot(node.inputs[target_slot]).value = value;
    }
    node.pos = place; node.size = [size[0], Math.max(size[1], node.computeSize()[1])];
    made[key] = node;
  }
  for (const name of dropped) graph.remove(made[name]);
  const ids = Object.fromEntries(Object.entries(made).map(([name, node]) => [name, node.id]));
  return [JSON.parse(JSON.stringify(graph.serialize())), ids];
}
"""

# wires of the graph that is open which run beneath a node, nodes that lie on others, and the whole's size
LAID = """
([width, height]) => {
  const wrong = [], nodes = window.app.graph._nodes;
  const box = n => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]];
  const over = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const name = n => n.title || n.type;
  nodes.forEach((a, i) => nodes.slice(i + 1).forEach(b => {
    if (over(box(a), box(b))) wrong.push(`${name(a)} lies on ${name(b)}`);
  }));
  for (const target of nodes) (target.inputs ?? []).forEach((input, slot) => {
    const link = input.link == null ? null : window.app.graph.getLink?.(input.link) ??
      window.app.graph.links.get(input.link);
    if (!link) return;
    const source = window.app.graph.getNodeById(link.origin_id);
    const [ax, ay] = source.getConnectionPos(false, link.origin_slot);
    const [bx, by] = target.getConnectionPos(true, slot);
    const bend = Math.hypot(bx - ax, by - ay) * 0.25;
    for (const node of nodes) {
      if (node === source || node === target) continue;
      const [left, top, right, bottom] = box(node);
      let under = 0;
      for (let step = 1; step < 60; step++) {
        const t = step / 60, u = 1 - t;
        const mix = (p, q, r, s) => u * u * u * p + 3 * u * u * t * q + 3 * u * t * t * r + t * t * t * s;
        const x = mix(ax, ax + bend, bx - bend, bx), y = mix(ay, ay, by, by);
        under += x > left + 8 && x < right - 8 && y > top + 4 && y < bottom - 4;
      }
      if (under) wrong.push(`${name(source)} > ${name(target)}.${input.name} runs under ${name(node)}`);
    }
  });
  const boxes = nodes.map(box), far = side => Math.max(...boxes.map(b => b[side]));
  const near = side => Math.min(...boxes.map(b => b[side]));
  const size = [far(2) - near(0), far(3) - near(1)].map(Math.round);
  if (size[0] > width || size[1] > height) wrong.push('it is ' + size.join(' x '));
  return wrong;
}
"""
LARGEST = [2500, 1400]  # that the editor still shows with its words when it opens a graph


@contextmanager
def editor(url: str):
    """ComfyUI's editor in a headless Chromium, ready to be told what to do."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=FLAGS,
            headless=True,
            viewport={"width": 1600, "height": 900},
        )
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function("window.app && window.app.graph && window.LiteGraph", timeout=60_000)
        page.wait_for_timeout(1000)  # the editor loads its default graph last
        yield page
        browser.close()


def modules() -> list[str]:
    """All drawings, as their modules are called."""
    return sorted(path.stem for path in DRAWINGS.glob("[!_]*.py"))


def drawing(module: str) -> ModuleType:
    """What the workflow of that module consists of."""
    folder = f"{__package__}.drawings" if __package__ else "drawings"  # as a script it has no package
    return importlib.import_module(f"{folder}.{module}")


def file_of(module: str) -> Path:
    """The file that is drawn."""
    plan = drawing(module)
    return ROOT / ("subgraphs" if getattr(plan, "BLUEPRINT", False) else "workflows") / f"{plan.TITLE}.json"


def templates() -> dict[str, Path]:
    """The templates' files by module."""
    found = {module: file_of(module) for module in modules()}
    return {module: file for module, file in found.items() if file.parent.name == "workflows"}


def links(text: str) -> list[tuple[str, str, str, str]]:
    """`base.MODEL>learn.model` and so on: (from, output, to, input)."""
    ends = [[end.split(".") for end in link.split(">")] for link in text.split()]
    return [(source, output, target, socket) for (source, output), (target, socket) in ends]


def draw(page: Any, module: str) -> dict[str, Any]:
    """The workflow of that module, as the editor saves it."""
    plan = drawing(module)
    subgraphs = getattr(plan, "SUBGRAPHS", {})
    told = {key: {"title": one.title, "members": one.members, "place": one.place, "size": one.size,
                  "fields": one.fields}
            for key, one in subgraphs.items()}  # fmt: skip
    models = {name: [file._asdict() for file in files] for name, files in getattr(plan, "MODELS", {}).items()}
    bypassed, dropped = (list(getattr(plan, which, ())) for which in ("BYPASSED", "DROPPED"))
    saved, ids = page.evaluate(DRAW, [plan.NODES, links(plan.LINKS), told, bypassed, models, dropped])
    wrong = page.evaluate(LAID, LARGEST)
    if wrong:
        print(f"{module}: " + "; ".join(wrong))  # noqa: T201 (for who draws)
    names = {ids[key]: one.names for key, one in subgraphs.items()}
    saved["extra"] = {}
    if hasattr(plan, "APP"):
        fields, results = plan.APP
        inputs = [[ids[node], widget] for node, widget in fields]
        data = {"inputs": inputs, "outputs": [ids[node] for node in results]}
        saved["extra"] = {"linearMode": True, "linearData": data}
    if hasattr(plan, "BLUEPRINT"):
        (whole,), (inside,) = saved["nodes"], saved["definitions"]["subgraphs"]
        whole["properties"]["proxyWidgets"] = [[str(ids[node]), widget] for node, widget in plan.FIELDS]
        inside |= {"category": "Likeness", "description": plan.BLUEPRINT}
    return _with_own_names(_named(saved, names), plan.TITLE)


def _named(saved: dict[str, Any], names: Mapping[int, Mapping[str, str]]) -> dict[str, Any]:
    """The subgraphs with sockets as a drawing names them, on the node and inside."""
    inside = {one["id"]: one for one in saved.get("definitions", {}).get("subgraphs", [])}
    for one in inside.values():
        _tidied(one)
    for node in saved["nodes"]:
        called = names.get(node["id"])
        if called is None:
            continue
        for holder in (node, inside[node["type"]]):
            for slot in (*holder.get("inputs", []), *holder.get("outputs", [])):
                name = called.get(slot["name"], slot["name"])
                slot["name"] = slot["localized_name"] = name
                if "widget" in slot:
                    slot["widget"]["name"] = name
    return saved


def _tidied(inside: dict[str, Any]) -> None:
    """One link to each output of a subgraph, where the editor made as many as go on from there."""
    for output in inside["outputs"]:
        spare = set(output["linkIds"][1:])
        output["linkIds"] = output["linkIds"][:1]
        inside["links"] = [link for link in inside["links"] if link["id"] not in spare]
        for slot in (slot for node in inside["nodes"] for slot in node.get("outputs", [])):
            if slot.get("links"):
                slot["links"] = [link for link in slot["links"] if link not in spare]


UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _with_own_names(saved: dict[str, Any], title: str) -> dict[str, Any]:
    """The same with identifiers that are equal every time it is drawn, and no picture's place of before."""
    text = json.dumps(saved)
    found = [one for one in dict.fromkeys(UUID.findall(text)) if one.strip("0-")]
    for number, one in enumerate(found):
        text = text.replace(one, str(uuid.uuid5(uuid.NAMESPACE_URL, f"likeness/{title}/{number}")))
    return json.loads(text)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Draws the bundled workflows in a running ComfyUI.")
    arguments.add_argument("url")
    arguments.add_argument("modules", nargs="*", help=f"some of {', '.join(modules())}; else all")
    asked = arguments.parse_args()
    with editor(asked.url) as page:
        for module in asked.modules or modules():
            file_of(module).parent.mkdir(exist_ok=True)
            text = json.dumps(draw(page, module), indent=1, ensure_ascii=False) + "\n"
            file_of(module).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
