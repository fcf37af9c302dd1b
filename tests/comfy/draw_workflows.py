"""Draws the bundled workflows in a running ComfyUI's own editor and saves them as the editor does.

    python tests/comfy/draw_workflows.py http://127.0.0.1:8188
    python tests/comfy/draw_workflows.py http://127.0.0.1:8188 --thumbnail

For maintainers: the first after a node's inputs changed, with the oldest supported ComfyUI; the second, which
runs the workflow, after new weights. Then the tests.
"""

import base64
import io
import json
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
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

PROMPT = "a watercolor painting of a smiling {}, wearing a green shirt, in a forest"
NOTE = """## Learn a person, then draw them anywhere

1. **Load the Miniature** brings a tiny portrait model and four pictures of a made-up person. Nothing is
   downloaded.
2. **Learn a LoRA** learns that person in about a minute on two CPU cores. Watch the previews in the node; the
   cancel button keeps what was learned.
3. Behind **Apply a Likeness**, `<v0>` in any prompt is that person.

Left half of the result: the model's own *woman*. Right half: the same prompt and seed with `<v0>`.

### Your own pictures

Put a checkpoint loader (SD 1.5) in the Miniature's place, give *Describe a Concept* your pictures and write
what they show as the class word, or use *Read a Concept Folder*. Set the latent to the model's size."""

# fmt: off
# name: (type, (x, y), (width, height), title, widgets)
NODES: dict[str, tuple[str, tuple[int, int], tuple[int, int], str, dict[str, Any]]] = {
    "note": ("MarkdownNote", (-440, 60), (400, 420), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 60), (300, 210), "", {"person": 0, "pictures": 4}),
    "examples": ("PreviewImage", (0, 330), (300, 300), "The four pictures", {}),
    "concept": ("LikenessConcept", (360, 60), (320, 180), "", {"token": "<v0>", "role": "subject"}),
    "learn": (
        "LikenessTrainDreamBoothLora", (360, 300), (360, 540), "",
        {"preview_every": 25, "preview_prompt": PROMPT.format("<v0>"), "seed": 0},
    ),
    "save": ("LikenessSave", (780, 620), (320, 120), "", {"name": "learn-a-person"}),
    "apply": ("LikenessApply", (780, 60), (320, 150), "", {"strength_model": 1.0, "strength_clip": 1.0}),
    "before prompt": (
        "CLIPTextEncode", (1160, 60), (360, 110), "Prompt before", {"text": PROMPT.format("woman")},
    ),
    "after prompt": (
        "CLIPTextEncode", (1160, 230), (360, 110), "Prompt after", {"text": PROMPT.format("<v0>")},
    ),
    "before nothing": ("CLIPTextEncode", (1160, 400), (360, 90), "Negative before", {"text": ""}),
    "after nothing": ("CLIPTextEncode", (1160, 550), (360, 90), "Negative after", {"text": ""}),
    "latent": (
        "EmptyLatentImage", (780, 400), (320, 120), "", {"width": 128, "height": 128, "batch_size": 1},
    ),
    "before": ("KSampler", (1580, 60), (300, 270), "Draw before", {}),
    "after": ("KSampler", (1580, 400), (300, 270), "Draw after", {}),
    "before picture": ("VAEDecode", (1940, 60), (200, 60), "", {}),
    "after picture": ("VAEDecode", (1940, 400), (200, 60), "", {}),
    "both": ("ImageStitch", (1940, 170), (260, 150), "", {"direction": "right", "spacing_width": 4}),
    "large": ("ImageScaleBy", (1940, 520), (260, 90), "", {"upscale_method": "lanczos", "scale_by": 3.0}),
    "show": ("PreviewImage", (2260, 60), (560, 330), "Before and after", {}),
    "keep": ("SaveImage", (2260, 450), (320, 330), "", {"filename_prefix": "likeness/learn-a-person"}),
}
SAMPLING = {
    "seed": 7, "control_after_generate": "fixed", "steps": 25, "cfg": 5.0, "sampler_name": "euler",
    "scheduler": "simple", "denoise": 1.0,
}
# fmt: on
LINKS = """
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae base.pictures>examples.images
base.pictures>concept.images base.masks>concept.masks base.class_word>concept.class_word
concept.concept>learn.concept learn.likeness>apply.likeness learn.likeness>save.likeness
base.MODEL>apply.model base.CLIP>apply.clip
base.CLIP>before_prompt.clip base.CLIP>before_nothing.clip
apply.CLIP>after_prompt.clip apply.CLIP>after_nothing.clip
base.MODEL>before.model apply.MODEL>after.model
latent.LATENT>before.latent_image latent.LATENT>after.latent_image
before_prompt.CONDITIONING>before.positive before_nothing.CONDITIONING>before.negative
after_prompt.CONDITIONING>after.positive after_nothing.CONDITIONING>after.negative
before.LATENT>before_picture.samples base.VAE>before_picture.vae after.LATENT>after_picture.samples
base.VAE>after_picture.vae before_picture.IMAGE>both.image1 after_picture.IMAGE>both.image2
both.IMAGE>large.image large.IMAGE>show.images after_picture.IMAGE>keep.images
"""
GROUPS = [
    ("1  A model and four pictures", (-20, -10, 340, 660)),
    ("2  Learn", (340, -10, 400, 1060)),
    ("3  Use what was learned", (760, -10, 360, 770)),
    ("4  Draw before and after", (1140, -10, 1700, 810)),
]

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
    const slot = made[from].outputs.findIndex(o => o.name === output);
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


def draw(url: str) -> dict[str, Any]:
    nodes = {name.replace(" ", "_"): node for name, node in NODES.items()}
    for name in ("before", "after"):
        kind, place, size, title, _ = nodes[name]
        nodes[name] = (kind, place, size, title, SAMPLING)
    links = []
    for link in LINKS.split():
        (source, output), (target, socket) = (end.split(".") for end in link.split(">"))
        links.append((source, output.replace("_", " ") if source == "base" else output, target, socket))
    with editor(url) as page:
        return page.evaluate(DRAW, [nodes, links, GROUPS])


def thumbnail(workflow: dict[str, Any], url: str) -> bytes:
    """The workflow's own before and after, from a whole run in the editor: a minute or two."""
    with editor(url) as page:
        return base64.b64decode(page.evaluate(RUN, workflow))


RUN = """
async (workflow) => {
  await window.app.loadGraphData(workflow);
  const shown = window.app.graph._nodes.find(node => node.title === 'Before and after');
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


if __name__ == "__main__":
    target = ROOT / "workflows" / "learn-a-person.json"
    if "--thumbnail" not in sys.argv:
        target.write_text(json.dumps(draw(sys.argv[1]), indent=1) + "\n")
    else:
        picture = Image.open(io.BytesIO(thumbnail(json.loads(target.read_text()), sys.argv[1])))
        picture.convert("RGB").save(target.with_suffix(".jpg"), quality=90)
