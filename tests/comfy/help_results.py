"""What nodes of help pages lead to, run on the Miniature, where no bundled workflow ends with it."""

import io
from typing import Any

from PIL import Image

from likeness_portraits.tests.comfy.draw_thumbnails import PERSON, captioned
from likeness_portraits.tests.comfy.graphs import ending, node
from likeness_portraits.tests.comfy.hosts import Server

SCENE = "a photo of a smiling {}, wearing a blue shirt, on a beach"
UPSCALER = "realesr-animevideov3-fp16.safetensors"  # of models/upscale_models; BSD-3
EXPORTED = "help-page"


def learned(trainer: str) -> dict[str, Any]:
    """The Miniature's person, and what a node of that kind learns of them by itself."""
    base = {name: ["base", place] for place, name in enumerate(("model", "clip", "vae"))}
    numbers = {"rank": 8} if "Lora" in trainer else {"vectors": 0}
    return {
        "base": node("LikenessMiniature", person=PERSON, pictures=4),
        "pictures": node("PreviewImage", images=["base", 3]),
        "concept": node(
            "LikenessConcept", images=["base", 3], masks=["base", 4], class_word=["base", 5], token="<v0>",
            role="subject",
        ),
        "learn": node(
            trainer, **base, concept=["concept", 0], preset="automatic", steps=0, learning_rate=0.0, seed=0,
            masked="as the preset says", preview_every=0, preview_prompt="", **numbers,
            **({"prior": "yes", "text_encoder": "as the preset says"} if "Lora" in trainer else {}),
        ),
    }  # fmt: skip


def drawn(prompt: str, model: list[Any], clip: list[Any]) -> dict[str, Any]:
    """What a prompt draws with that MODEL and CLIP, kept by the node `show`."""
    return {
        "prompt": node("CLIPTextEncode", text=prompt, clip=clip),
        "nothing": node("CLIPTextEncode", text="", clip=clip),
        **ending(model, ["prompt", 0], ["nothing", 0], seed=7, steps=25, cfg=5.0),
    }


def embedding(server: Server) -> Image.Image:
    graph = learned("LikenessTrainTextualInversion")
    before = _pictures(server, graph | drawn(SCENE.format("woman"), ["base", 0], ["base", 1]), "show")
    applied = node(
        "LikenessApply", model=["base", 0], clip=["base", 1], likeness=["learn", 0], strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    graph |= {"apply": applied} | drawn(SCENE.format("<v0>"), ["apply", 0], ["apply", 1])
    after = _pictures(server, graph, "show")
    known = _pictures(server, graph, "pictures")
    return captioned([("four pictures", known), ("before | after", [*before, *after])])


def export(server: Server) -> Image.Image:
    """Drawn by ComfyUI's own nodes from the files that were written."""
    graph = learned("LikenessTrainDreamBoothLora")
    _pictures(server, graph | {"export": node("LikenessExport", likeness=["learn", 0], name=EXPORTED)})
    stock = node(
        "LoraLoader", model=["base", 0], clip=["base", 1], lora_name=f"{EXPORTED}.safetensors",
        strength_model=1.0, strength_clip=1.0,
    )  # fmt: skip
    graph = {name: graph[name] for name in ("base", "pictures")}
    before = _pictures(server, graph | drawn(SCENE.format("woman"), ["base", 0], ["base", 1]), "show")
    words = SCENE.format(f"embedding:{EXPORTED}")
    graph |= {"stock": stock} | drawn(words, ["stock", 0], ["stock", 1])
    after, known = _pictures(server, graph, "show"), _pictures(server, graph, "pictures")
    return captioned([("four pictures", known), ("before | Load LoRA, embedding:", [*before, *after])])


def upscaled(server: Server) -> Image.Image:
    graph = {
        "base": node("LikenessMiniature", person=PERSON, pictures=1),
        "pictures": node("PreviewImage", images=["base", 3]),
        "model": node("UpscaleModelLoader", model_name=UPSCALER),
        "large": node(
            "LikenessUpscale", images=["base", 3], upscale_model=["model", 0], size="as the model makes it",
            tile=512, margin=32,
        ),
        "show": node("PreviewImage", images=["large", 0]),
    }  # fmt: skip
    (small,), (large,) = _pictures(server, graph, "pictures"), _pictures(server, graph, "show")
    small = small.resize(large.size, Image.Resampling.NEAREST)
    side = large.width
    part = (side // 4, side // 5, side * 3 // 4, side * 7 // 10)  # the eyes, in which one sees it
    return captioned([("128 pixels | Real-ESRGAN, 512", [small.crop(part), large.crop(part)])])


RESULTS = {
    "LikenessTrainTextualInversion": embedding,
    "LikenessExport": export,
    "LikenessUpscale": upscaled,
}


def _pictures(server: Server, graph: dict[str, Any], shown: str = "") -> list[Image.Image]:
    outputs = server.run(graph, 1800)
    files = outputs[shown]["images"] if shown else []
    return [Image.open(io.BytesIO(server.get("/view", **file))).convert("RGB") for file in files]
