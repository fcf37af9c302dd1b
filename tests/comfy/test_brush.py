"""Masks mended in ComfyUI's own mask editor: by a hand with a mouse, and what wrong files are told."""

import io
import json
import urllib.request
import uuid
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.comfy.draw_workflows import CHROMIUM, ROOT, editor
from likeness_portraits.tests.comfy.hosts import Server

pytestmark = pytest.mark.comfy

PERSON = 4
START = """
async (workflow) => {
  await window.app.loadGraphData(workflow);
  const learn = window.app.graph._nodes.find(node => node.type.startsWith('LikenessTrain'));
  learn.widgets.find(widget => widget.name === 'steps').value = 2;
  window.ended = []; window.shown = {};
  const api = window.app.api;
  api.addEventListener('execution_success', () => window.ended.push('success'));
  api.addEventListener('execution_error', event => window.ended.push(event.detail.exception_message));
  api.addEventListener('executed', event => window.shown[event.detail.node] = event.detail.output);
}
"""
OPEN = """
async () => {
  const node = window.app.graph._nodes.find(node => node.type === 'LikenessBrushMask');
  window.app.canvas.selectNode(node);
  await window.app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor');
}
"""
# the canvas a stroke is made on, in older and newer editors
PAPER = """
() => {
  const found = [...document.querySelectorAll('canvas')].filter(canvas =>
    canvas.id === 'maskCanvas' || canvas.className.includes('z-30'));
  const {x, y, width, height} = found[0].getBoundingClientRect();
  return [x, y, width, height];
}
"""
BRUSH = "() => window.app.graph._nodes.find(node => node.type === 'LikenessBrushMask')"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def brushing(painted: str, number: int = 1) -> dict[str, Any]:
    """Two pictures with masks of their heads; one of them painted over."""
    edges = {"soft": False, "level": 0.5, "grow": 0, "feather": 0.0, "fill_holes": False,
             "keep_largest": False, "invert": False}  # fmt: skip
    return {
        "base": node("LikenessMiniature", person=PERSON, pictures=2),
        "words": node("LikenessSegmentText", images=["base", 3], words="head", but_not="",
                      backend="miniature", **edges),
        "brush": node("LikenessBrushMask", images=["base", 3], masks=["words", 0], number=number,
                      image=painted),
        "seen": node("MaskToImage", mask=["brush", 0]),
        "show": node("PreviewImage", images=["seen", 0]),
    }  # fmt: skip


def upload(server: Server, picture: Image.Image, name: str) -> str:
    """Puts a file where the editor puts its own, and names it as the editor does."""
    content, edge = io.BytesIO(), uuid.uuid4().hex
    picture.save(content, "PNG")
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    field = 'Content-Disposition: form-data; name="subfolder"'
    tail = f"\r\n--{edge}\r\n{field}\r\n\r\nclipspace\r\n--{edge}--\r\n"
    body = head.encode() + content.getvalue() + tail.encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/upload/image", body, kind)).close()
    return f"clipspace/{name} [input]"


def masks_shown(server: Server, prompt: dict[str, Any]) -> list[np.ndarray]:
    return [server.picture(file)[..., 0] / 255 for file in server.run(prompt)["show"]["images"]]


def failure(server: Server, prompt: dict[str, Any]) -> str:
    status = server.wait(server.queue(prompt))["status"]
    assert status["status_str"] == "error"
    return next(m for kind, m in status["messages"] if kind == "execution_error")["exception_message"]


def test_what_was_painted_takes_the_masks_place_and_the_others_pass(server: Server):
    before = masks_shown(server, brushing(""))
    portrait = world.example_pictures(world.REPORTING_SEEDS[PERSON], 2)[1].pixels
    alpha = np.full((128, 128), 255, np.uint8)
    alpha[10:40, 20:60] = 0
    layer = Image.fromarray(np.dstack([portrait, alpha]))
    after = masks_shown(server, brushing(upload(server, layer, "painted.png")))
    assert np.array_equal(after[0], before[0]) and not np.array_equal(after[1], before[1])
    assert np.array_equal(after[1], (alpha == 0).astype(float))


def test_files_that_do_not_fit_are_told_with_what_to_do(server: Server):
    portrait = Image.fromarray(world.example_pictures(world.REPORTING_SEEDS[PERSON], 2)[0].pixels)
    small = upload(server, portrait.resize((64, 64)).convert("RGBA"), "small.png")
    other = upload(server, portrait.rotate(180).convert("RGBA"), "other.png")
    again = "empty the field, run, and open the mask editor again"
    for painted, message in (
        (small, f"the painted mask is 64 x 64 pixels, but picture 1 is 128 x 128; {again}"),
        (other, f"what was painted over is not picture 1; {again}"),
        ("clipspace/never.png [input]", f"never.png is gone; {again}"),
    ):
        assert message in failure(server, brushing(painted))
    assert "there is no picture 2; choose one from 0 to 1" in failure(server, brushing("", number=2))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium")
def test_a_stroke_in_the_mask_editor_is_in_the_mask_that_is_learned_from(server: Server):
    workflow = json.loads((ROOT / "workflows" / "09 Masks for training.json").read_text("utf-8"))
    with editor(server.url) as page:
        page.evaluate(START, workflow)
        brush = str(page.evaluate(f"({BRUSH})().id"))
        alphas = [_run(page, server, brush)]
        page.evaluate(OPEN)
        page.wait_for_timeout(4000)
        x, y, width, height = page.evaluate(PAPER)
        page.mouse.move(x + 0.1 * width, y + 0.1 * height)
        page.mouse.down()
        page.mouse.move(x + 0.4 * width, y + 0.1 * height, steps=15)
        page.mouse.up()
        page.wait_for_timeout(500)
        older = page.locator("#maskEditor_topBarSaveButton")
        (older if older.count() else page.get_by_role("button", name="Save").first).click()
        page.wait_for_function(
            f"({BRUSH})().widgets.find(widget => widget.name === 'image').value", timeout=60_000
        )
        alphas.append(_run(page, server, brush))
    before, after = alphas
    stroke = (before == 255) & (after < 128)
    assert stroke[10:16, 20:45].mean() > 0.8, "where the mouse went is marked"
    assert (before < 128).sum() > 500 and (after[before < 128] < 128).mean() > 0.98, "what was found stays"
    assert (stroke[40:]).mean() < 0.01, "and nothing else is new"


def _run(page: Any, server: Server, brush: str) -> np.ndarray:
    """Runs the graph as the button does; the alpha of what the brush node shows."""
    page.evaluate("async () => { window.ended = []; await window.app.queuePrompt(0); }")
    page.wait_for_function("window.ended.length", timeout=600_000)
    assert page.evaluate("window.ended") == ["success"]
    page.wait_for_timeout(1000)
    (file,) = page.evaluate("(brush) => window.shown[brush].images", brush)
    return np.asarray(Image.open(io.BytesIO(server.get("/view", **file))).convert("RGBA"))[..., 3]
