"""Draws the bundled workflows in a running ComfyUI's own editor and saves them as the editor does.

    python tests/comfy/draw_workflows.py http://127.0.0.1:8188 [masks ...]
    python tests/comfy/draw_workflows.py http://127.0.0.1:8188 [masks ...] --thumbnail

What they hold is in drawings/, one module per workflow; without names all of them are drawn.

For maintainers: the first after a node's inputs changed, with the oldest supported ComfyUI; the second, which
runs the workflow, after new weights. Then the tests.
"""

import argparse
import base64
import importlib
import io
import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

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
([nodes, links, groups]) => {
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
  for (const [title, bounding] of groups) {
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [bounding[0], bounding[1]]; group.size = [bounding[2], bounding[3]];
    group.font_size = 18;
    graph.add(group);
  }
  const saved = JSON.parse(JSON.stringify(graph.serialize()));
  saved.extra = {ds: {scale: 0.6, offset: [480, 120]}};
  return saved;
}
"""


@contextmanager
def editor(url: str):
    """ComfyUI's editor in a headless Chromium, ready to be told what to do."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
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


def names() -> list[str]:
    """All workflows, as their files are called."""
    return sorted(path.stem.replace("_", "-") for path in DRAWINGS.glob("[!_]*.py"))


def drawing(name: str) -> ModuleType:
    """What the workflow of that name consists of."""
    folder = f"{__package__}.drawings" if __package__ else "drawings"  # as a script it has no package
    return importlib.import_module(f"{folder}.{name.replace('-', '_')}")


def links(text: str) -> list[tuple[str, str, str, str]]:
    """`base.MODEL>learn.model` and so on: (from, output, to, input)."""
    ends = [[end.split(".") for end in link.split(">")] for link in text.split()]
    return [(source, output, target, socket) for (source, output), (target, socket) in ends]


def groups(text: str) -> list[tuple[str, list[int]]]:
    """`1  Learn: 340 -10 400 1060` and so on, a line each: (title, left, top, width and height)."""
    parts = [line.rsplit(": ", 1) for line in text.strip().splitlines()]
    return [(title, [int(number) for number in bounding.split()]) for title, bounding in parts]


def draw(name: str, url: str) -> dict[str, Any]:
    """The workflow of that name, as the editor at `url` saves it."""
    plan = drawing(name)
    with editor(url) as page:
        return page.evaluate(DRAW, [plan.NODES, links(plan.LINKS), groups(plan.GROUPS)])


def thumbnail(workflow: dict[str, Any], title: str, url: str) -> bytes:
    """The picture that the node of this title shows, from a whole run in the editor: a minute or two."""
    with editor(url) as page:
        return base64.b64decode(page.evaluate(RUN, [workflow, title]))


RUN = """
async ([workflow, title]) => {
  await window.app.loadGraphData(workflow);
  const shown = window.app.graph._nodes.find(node => node.title === title);
  const result = new Promise((resolve, reject) => {
    window.app.api.addEventListener('executed', event => {
      if (String(event.detail.node) === String(shown.id)) resolve(event.detail.output.images[0]);
    });
    window.app.api.addEventListener('execution_error', event => reject(event.detail.exception_message));
  });
  await window.app.queuePrompt(0);
  const answer = await window.app.api.fetchApi('/view?' + new URLSearchParams(await result));
  const bytes = new Uint8Array(await answer.arrayBuffer());
  return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description="Draws the bundled workflows in a running ComfyUI.")
    arguments.add_argument("url")
    arguments.add_argument("names", nargs="*", help=f"some of {', '.join(names())}; all where none is given")
    arguments.add_argument("--thumbnail", action="store_true", help="run them and keep what they show")
    asked = arguments.parse_args()
    for name in asked.names or names():
        target, shown = ROOT / "workflows" / f"{name}.json", drawing(name).SHOWN
        if not asked.thumbnail:
            target.write_text(json.dumps(draw(name, asked.url), indent=1) + "\n")
        elif shown:
            picture = Image.open(io.BytesIO(thumbnail(json.loads(target.read_text()), shown, asked.url)))
            picture.convert("RGB").save(target.with_suffix(".jpg"), quality=90)


if __name__ == "__main__":
    main()
