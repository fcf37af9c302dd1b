"""Runs the bundled workflows in a running ComfyUI and makes of what they show the pictures beside them.

    python tests/comfy/draw_thumbnails.py http://127.0.0.1:8188 [try_it ...]

What a picture shows is in drawings/, as SHOWN. Templates for checkpoints are run with the Miniature
in the checkpoint's place, and say so. For maintainers: after new weights; it takes some minutes on two cores.
"""

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from likeness_portraits.tests.comfy.draw_workflows import drawing, file_of, templates
from likeness_portraits.tests.comfy.hosts import Server, to_api

WIDE, BAR, GAP = 640, 44, 6  # pixels: a picture's width, its captions' height, and between parts
PAPER, INK = (24, 26, 32), (235, 238, 244)
SMALL = 128  # pixels a side that the Miniature draws
STANDING_IN = "drawn with the demo model"
PERSON = 5  # that the Miniature learns well


class Running(Server):
    """A server that somebody else started."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")


def stand_in(prompt: Mapping[str, Any], numbers: Mapping[str, Any], said: Sequence[str]) -> dict[str, Any]:
    """The prompt of a template for checkpoints, with the Miniature, its pictures and size in their place."""
    prompt = _as_of_a_checkpoint(prompt)
    (base,) = (name for name, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple")
    photos = {name for name, node in prompt.items() if node["class_type"] == "LoadImage"}
    gone = {name for name, node in prompt.items() if node["class_type"] == "CLIPVisionLoader"}
    drawn: dict[str, Any] = {}
    prompts = iter(said)
    for name, node in prompt.items():
        inputs = {
            key: [base, 3] if isinstance(value, list) and value[0] in photos else value
            for key, value in node["inputs"].items()
            if not (isinstance(value, list) and value[0] in gone) and key != "adapter"
        }
        kind = node["class_type"]
        if kind == "LikenessConceptFolder":
            said = {"token": inputs["token"], "role": "subject", "class_word": [base, 5]}
            kind, inputs = "LikenessConcept", {**said, "images": [base, 3], "masks": [base, 4]}
        elif kind == "EmptyLatentImage":
            inputs = {**inputs, "width": SMALL, "height": SMALL}
        elif kind == "LikenessTrainDreamBoothLora":
            inputs = {**inputs, **numbers}
        elif kind == "KSampler":
            inputs = {**inputs, "sampler_name": "euler", "scheduler": "simple", "cfg": 5.0}
        elif kind == "CLIPTextEncode" and "<v0>" in str(inputs["text"]):
            inputs = {**inputs, "text": next(prompts, inputs["text"])}
        drawn[name] = {"class_type": kind, "inputs": inputs}
    count = 1 if photos else 4
    drawn[base] = {"class_type": "LikenessMiniature", "inputs": {"person": PERSON, "pictures": count}}
    kept = {name for name in drawn if name not in photos | gone}
    if gone:
        kept -= {name for name, node in drawn.items() if node["class_type"] == "LikenessLoad"}
    drawn["examples"] = {"class_type": "PreviewImage", "inputs": {"images": [base, 3]}}
    return {name: node for name, node in drawn.items() if name in {*kept, "examples"}}


_PARTS = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}


def _as_of_a_checkpoint(prompt: Mapping[str, Any]) -> Mapping[str, Any]:
    """The prompt with one checkpoint in the place of a model in parts, drawn in as many steps as it needs,
    and the demo person's class in the place of the word that is written."""
    parts = {
        name: _PARTS[node["class_type"]] for name, node in prompt.items() if node["class_type"] in _PARTS
    }
    if not parts:
        return prompt
    whole: dict[str, Any] = {"checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {}}}
    for name, node in prompt.items():
        if name not in parts:
            inputs = {key: ["checkpoint", parts[value[0]]] if isinstance(value, list) and value[0] in parts
                      else value for key, value in node["inputs"].items()}  # fmt: skip
            inputs |= {"steps": 25} if node["class_type"] == "KSampler" else {}
            inputs |= {"resolution": 0} if "resolution" in inputs else {}
            inputs |= {"replace": ["checkpoint", 5]} if node["class_type"] == "RegexReplace" else {}
            whole[name] = {"class_type": node["class_type"], "inputs": inputs}
    return whole


def with_sources(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with the demo pictures shown under the names `photos` and `posters`."""
    named = {"LikenessMiniature": ("photos", 3), "LikenessMiniatureStyle": ("posters", 0)}
    for name, node in list(prompt.items()):
        if node["class_type"] in named:
            shown, slot = named[node["class_type"]]
            prompt.setdefault(shown, {"class_type": "PreviewImage", "inputs": {"images": [name, slot]}})
    return prompt


def name_in_api(workflow: Mapping[str, Any], plan: Any, node: str) -> str:
    """What the API calls a node of a drawing: the one of its kind in its place."""
    if node not in plan.NODES:
        return node
    kind, place, *_ = plan.NODES[node]
    (found,) = (one["id"] for one in workflow["nodes"] if (one["type"], tuple(one["pos"])) == (kind, place))
    return str(found)


def in_a_row(pictures: Sequence[Image.Image], wide: int = WIDE) -> Image.Image:
    """Pictures beside each other, all of one height, together as wide as this."""
    shapes = [one.width / one.height for one in pictures]
    high = round((wide - GAP * (len(pictures) - 1)) / sum(shapes))
    sheet, left = Image.new("RGB", (wide, high), PAPER), 0
    for one, shape in zip(pictures, shapes):
        sized = one.resize((round(high * shape), high), Image.Resampling.LANCZOS)
        sheet.paste(sized, (left, 0))
        left += sized.width + GAP
    return sheet


def captioned(parts: Sequence[tuple[str, Sequence[Image.Image]]], remark: str = "") -> Image.Image:
    """The parts below each other, each under its words."""
    sheets = [(words, in_a_row(pictures)) for words, pictures in parts]
    font, small = ImageFont.load_default(28), ImageFont.load_default(18)
    whole = Image.new("RGB", (WIDE, sum(one.height + BAR for _, one in sheets)), PAPER)
    pen, top = ImageDraw.Draw(whole), 0
    for words, sheet in sheets:
        whole.paste(sheet, (0, top + BAR))
        shown = words.split("|")  # each over its share of the picture
        for number, word in enumerate(shown):
            middle = WIDE * (number + 0.5) / len(shown)
            pen.text((middle, top + BAR / 2), word.strip(), INK, font, anchor="mm")
        top += sheet.height + BAR
    if remark:
        pen.text((WIDE - 8, whole.height - 8), remark, INK, small, anchor="rs", stroke_width=3,
                 stroke_fill=PAPER)  # fmt: skip
    return whole


def thumbnail(server: Server, nodes: Mapping[str, Any], module: str) -> Image.Image:
    """What the template of that module draws, with its captions."""
    plan = drawing(getattr(drawing(module), "AS_OF", module))
    workflow = json.loads((file_of(module).parent / f"{plan.TITLE}.json").read_text("utf-8"))
    prompt, said = to_api(workflow, nodes), getattr(plan, "STAND_IN", None)
    if said is not None:
        preset = nodes["LikenessTrainDreamBoothLora"]["input"]["required"]["preset"][1]
        prompt = stand_in(prompt, preset["numbers"]["miniature"], said)
    shown = server.run(with_sources(prompt), 1800)
    parts = []
    for part in drawing(module).SHOWN:
        picked = []
        for node in part.node.split():
            files = shown[name_in_api(workflow, plan, node)]["images"]
            picked += [files[number] for number in part.pictures] or files
        pictures = [Image.open(io.BytesIO(server.get("/view", **one))).convert("RGB") for one in picked]
        upper = [one.crop((0, 0, one.width, round(one.height * part.upper))) for one in pictures]
        parts.append((part.caption, upper))
    return captioned(parts, STANDING_IN if hasattr(drawing(module), "MODELS") else "")


def main() -> None:
    arguments = argparse.ArgumentParser(description="Draws the thumbnails of the bundled workflows.")
    arguments.add_argument("url")
    arguments.add_argument("modules", nargs="*", help=f"some of {', '.join(templates())}; else all")
    asked = arguments.parse_args()
    server = Running(asked.url)
    nodes = server.nodes()
    for module in asked.modules or sorted(templates(), key=file_of):
        thumbnail(server, nodes, module).save(file_of(module).with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
