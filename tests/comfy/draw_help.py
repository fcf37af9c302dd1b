"""Draws the pictures of the help pages: each node wired, as a running ComfyUI's own editor shows it.

    python -m likeness_portraits.tests.comfy.draw_help http://127.0.0.1:8188 [LikenessApply ...]

A node is shown in the first bundled workflow that has it, or in a few nodes of `SMALL`, and beside it the
picture that this workflow ended with (its thumbnail), or what help_results.py runs. Writes
web/docs/<node>.jpg; without names all of them.

The editor frames in red what is not there. So that nothing is, the server's folders hold files of these
names, empty ones do: anna.safetensors and friend.safetensors in models/likeness, sd_xl_base_1.0.safetensors
in models/checkpoints, GFPGANv1.4.pth in models/facerestore_models; not empty, the upscaler of
help_results.py; and a picture as input/anna.png.
"""

import argparse
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from likeness_portraits.tests.comfy.draw_thumbnails import Running
from likeness_portraits.tests.comfy.draw_workflows import DRAW, ROOT, editor, links
from likeness_portraits.tests.comfy.drawings import Nodes
from likeness_portraits.tests.comfy.help_results import RESULTS

PAGES = ROOT / "web" / "docs"
SIDE, AROUND, MOST = 460, 150, 900  # pixels: height of a picture; graph units beside a node; its width
QUALITY = 80

PREFERRED = {  # where several bundled workflows have a node; else that of the fewest nodes
    "LikenessApply": "04 Draw a trained person, SDXL",
    "LikenessApplyIdentity": "05 One photo, no training",
    "LikenessConcept": "01 Try it, learn a demo person",
    "LikenessConceptFolder": "02 Train a LoRA of a person, SDXL",
    "LikenessDetailFace": "10 Fix faces in a finished picture",
    "LikenessEncodeIdentity": "05 One photo, no training",
    "LikenessLoad": "04 Draw a trained person, SDXL",
    "LikenessMiniature": "01 Try it, learn a demo person",
    "LikenessPeople": "06 Two people in one picture",
    "LikenessRefocusedSampler": "06 Two people in one picture",
    "LikenessTrainDreamBoothLora": "01 Try it, learn a demo person",
}

LIKE = {  # nodes that no bundled workflow shows, and what ends with what they make
    "LikenessStagedPrompt": "12 Staged words",
    "LikenessTrainMasterWeaver": "05 One photo, no training",
}

# fmt: off
SMALL: dict[str, tuple[Nodes, str]] = {  # nodes that no bundled workflow has
    "LikenessTrainTextualInversion": ({
        "base": ("LikenessMiniature", (0, 0), (300, 200), "", {}),
        "concept": ("LikenessConcept", (0, 260), (300, 200), "", {"class_word": "woman"}),
        "it": ("LikenessTrainTextualInversion", (400, 0), (360, 340), "", {}),
        "apply": ("LikenessApply", (860, 0), (320, 180), "", {}),
    }, "base.MODEL>it.model base.CLIP>it.clip base.VAE>it.vae base.images>concept.images "
       "concept.concept>it.concept it.likeness>apply.likeness"),
    "LikenessStagedPrompt": ({
        "base": ("LikenessMiniature", (0, 0), (300, 200), "", {}),
        "load": ("LikenessLoad", (0, 260), (300, 120), "", {"name": "anna.safetensors"}),
        "it": ("LikenessStagedPrompt", (400, 0), (360, 240), "", {"text": "a photo of <v0> on a beach"}),
        "draw": ("KSampler", (860, 0), (300, 270), "", {}),
    }, "base.MODEL>it.model base.CLIP>it.clip load.likeness>it.likeness it.MODEL>draw.model "
       "it.CONDITIONING>draw.positive"),
    "LikenessExport": ({
        "load": ("LikenessLoad", (0, 0), (300, 120), "", {"name": "anna.safetensors"}),
        "it": ("LikenessExport", (400, 0), (320, 120), "", {"name": "anna"}),
        "said": ("PreviewAny", (820, 0), (300, 120), "", {}),
    }, "load.likeness>it.likeness it.files>said.source"),
    "LikenessRestoreFace": ({
        "picture": ("LoadImage", (0, 0), (280, 300), "", {"image": "anna.png"}),
        "it": ("LikenessRestoreFace", (380, 0), (340, 300), "", {"restorer": "GFPGANv1.4.pth"}),
        "show": ("PreviewImage", (820, 0), (300, 300), "", {}),
    }, "picture.IMAGE>it.images it.images>show.images"),
    "LikenessTrainMasterWeaver": ({
        "base": ("LikenessMiniature", (0, 0), (300, 200), "", {}),
        "it": ("LikenessTrainMasterWeaver", (400, 0), (360, 420), "", {}),
        "read": ("LikenessEncodeIdentity", (860, 0), (320, 240), "", {}),
    }, "base.MODEL>it.model base.CLIP>it.clip base.VAE>it.vae it.likeness>read.adapter"),
    "LikenessUpscale": ({
        "picture": ("LoadImage", (0, 0), (280, 300), "", {"image": "anna.png"}),
        "model": ("UpscaleModelLoader", (0, 400), (280, 60), "", {}),
        "it": ("LikenessUpscale", (380, 0), (320, 200), "", {}),
        "show": ("PreviewImage", (800, 0), (300, 300), "", {}),
    }, "picture.IMAGE>it.images model.UPSCALE_MODEL>it.upscale_model it.images>show.images"),
}
# fmt: on

SHOW = """
([type, around]) => {
  const canvas = window.app.canvas, graph = window.app.graph;
  const nodes = around === null ? graph._nodes : [graph._nodes.find(one => one.type === type)];
  const boxes = nodes.map(node => [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0],
                                   node.pos[1] + node.size[1]]);
  for (const node of nodes) {  // 0 in a workflow means the preset's number, which is shown instead
    const numbers = node.constructor?.nodeData?.input?.required?.preset?.[1]?.numbers?.miniature ?? {};
    for (const [name, number] of Object.entries(numbers)) {
      const widget = node.widgets.find(one => one.name === name);
      if (widget && !widget.value) widget.value = number;
    }
  }
  const edge = around ?? 30;
  const left = Math.min(...boxes.map(box => box[0])) - edge, top = Math.min(...boxes.map(box => box[1])) - 30;
  const width = Math.max(...boxes.map(box => box[2])) + edge - left;
  const height = Math.max(...boxes.map(box => box[3])) + 30 - top;
  const room = canvas.canvas.getBoundingClientRect();
  const scale = Math.min(1, (room.width - 160) / width, (room.height - 240) / height);
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = -left + 100 / scale;
  canvas.ds.offset[1] = -top + 130 / scale;
  canvas.setDirty(true, true);
  canvas.draw(true, true);
  return {x: room.left + 100, y: room.top + 130, width: width * scale, height: height * scale};
}
"""
LOAD = """
async (workflow) => {
  delete workflow.extra?.linearMode; // as a graph, not as an app
  await window.app.loadGraphData(workflow);
}
"""


def workflow_with(node: str) -> Path | None:
    """The first bundled workflow that has the node, of few nodes before many."""
    found = []
    wished = ROOT / "workflows" / f"{PREFERRED.get(node, '')}.json"
    if wished.exists():
        return wished
    for path in sorted((ROOT / "workflows").glob("*.json")):
        nodes = json.loads(path.read_text("utf-8"))["nodes"]
        if node in {one["type"] for one in nodes}:
            found.append((len(nodes), path))
    return min(found)[1] if found else None


def wired(page: Any, node: str) -> Image.Image:
    """A picture of the node with what is connected to it."""
    workflow = workflow_with(node)
    if workflow is not None:
        page.evaluate(LOAD, json.loads(workflow.read_text("utf-8")))
        around: int | None = AROUND
    else:
        nodes, ends = SMALL[node]
        page.evaluate(DRAW, [nodes, links(ends), {}, [], {}, []])
        around = None  # all of it
    page.wait_for_timeout(600)
    place = page.evaluate(SHOW, [node, around])
    page.wait_for_timeout(400)
    size = page.viewport_size
    place["width"] = min(place["width"], size["width"] - place["x"])
    place["height"] = min(place["height"], size["height"] - place["y"])
    return Image.open(io.BytesIO(page.screenshot(clip=place))).convert("RGB")


def result_of(node: str, url: str) -> Image.Image | None:
    """What the node, or the workflow it stands in, leads to."""
    if node in RESULTS:
        return RESULTS[node](Running(url))
    workflow = ROOT / "workflows" / f"{LIKE[node]}.json" if node in LIKE else workflow_with(node)
    if workflow is None or not workflow.with_suffix(".jpg").exists():
        return None
    return Image.open(workflow.with_suffix(".jpg")).convert("RGB")


def beside(shot: Image.Image, result: Image.Image | None) -> Image.Image:
    """The node, and on its right what the workflow ended with, both of one height."""
    parts = [shot, *([] if result is None else [result])]
    parts = [part.resize((max(1, part.width * SIDE // part.height), SIDE), Image.Resampling.LANCZOS)
             for part in parts]  # fmt: skip
    sheet = Image.new(
        "RGB", (sum(part.width for part in parts) + 8 * (len(parts) - 1), SIDE), (255, 255, 255)
    )
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + 8
    sheet.thumbnail((MOST, SIDE), Image.Resampling.LANCZOS)
    return sheet


def main() -> None:
    arguments = argparse.ArgumentParser(description="Draws the pictures of the help pages.")
    arguments.add_argument("url")
    arguments.add_argument("nodes", nargs="*", help="such as LikenessApply; all where none is given")
    asked = arguments.parse_args()
    with editor(asked.url) as page:
        for node in asked.nodes or sorted(path.stem for path in PAGES.glob("*.md")):
            picture = beside(wired(page, node), result_of(node, asked.url))
            picture.save(PAGES / f"{node}.jpg", quality=QUALITY, optimize=True, progressive=True)


if __name__ == "__main__":
    main()
