"""Restoring, redrawing and enlarging inside a running ComfyUI, with real architectures on random weights."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.inference.detail import Detailer, regions_redrawn
from likeness_portraits.engine.inference.onlookers import load_face_tools
from likeness_portraits.engine.inference.refocus import Focus
from likeness_portraits.engine.inference.restore import (
    Restoration,
    before_and_after,
    restore_picture,
    to_pixels,
    to_shades,
)
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server, environment, psnr

pytestmark = pytest.mark.comfy

PERSON, PROMPT = 4, "a photo of a smiling woman"
MAKE_FILES = """
import sys, types
sys.argv = ["make", "--cpu"]
import torch
torch.manual_seed(0)
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.RestoreFormer import RestoreFormer
restorer = RestoreFormer(
    n_embed=16, embed_dim=32, ch=32, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1, z_channels=32,
)
torch.save({"params": restorer.state_dict()}, FOLDER + "/facerestore_models/RestoreFormer.pth")
upscaler = ESRGAN(num_filters=8, num_blocks=1, scale=2)
for folder in ("upscale_models", "facerestore_models"):
    torch.save({"params_ema": upscaler.state_dict()}, FOLDER + "/" + folder + "/upscaler.pth")
"""
FACES = {
    "found_by": "the Miniature", "number": -1, "strength": 1.0, "feather": 0.04, "match_colours": True,
    "gate": "off", "allowed_drop": 0.05, "judged_by": "whoever finds them",
}  # fmt: skip


def graph(count: int = 1, **nodes: dict[str, Any]) -> dict[str, Any]:
    """The Miniature and its person's pictures; what `finish` gives is shown."""
    return {
        "base": node("LikenessMiniature", person=PERSON, pictures=count),
        "show": node("PreviewImage", images=["finish", 0]),
        **nodes,
    }


def restoring(file: str, **changes: Any) -> dict[str, Any]:
    options = {"fidelity": 0.7, "non_commercial": False, **FACES, **changes}
    return node("LikenessRestoreFace", images=["base", 3], restorer=file, **options)


def failure(server: Server, prompt: dict[str, Any]) -> str:
    entry = server.wait(server.queue(prompt))
    return next(
        content["exception_message"]
        for kind, content in entry["status"]["messages"]
        if kind == "execution_error"
    )


def portraits(count: int = 1) -> list[np.ndarray]:
    return [picture.pixels for picture in world.example_pictures(world.REPORTING_SEEDS[PERSON], count)]


@pytest.fixture(scope="module")
def files(server: Server, checkout: Path, python: Path) -> Path:
    """ComfyUI's models folder with a restorer and an upscaler of random weights, made by its own spandrel."""
    models = server.base / "models"
    for folder in ("facerestore_models", "upscale_models"):
        (models / folder).mkdir(exist_ok=True)
    ran = subprocess.run(
        [python, "-c", MAKE_FILES.replace("FOLDER", repr(str(models)))],
        cwd=checkout, env=environment(PYTHONPATH=str(checkout)), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return models


def test_faces_are_drawn_again_with_the_command_lines_numbers(server: Server):
    sampling = {"denoise": 0.5, "steps": 8, "seed": 7, "sampler": "euler"}
    finish = node(
        "LikenessDetailFace", images=["base", 3], model=["base", 0], positive=["words", 0],
        negative=["nothing", 0], vae=["base", 2], denoise=0.5, steps=8, cfg=5.0, sampler_name="euler",
        scheduler="simple", seed=7, size=0, around=1.5, part="head", **FACES,  # the Miniature's size: 128
    )  # fmt: skip
    shown = server.run(
        graph(
            words=node("CLIPTextEncode", clip=["base", 1], text=PROMPT),
            nothing=node("CLIPTextEncode", clip=["base", 1], text=""),
            finish=finish,
            mask=node("MaskToImage", mask=["finish", 2]),
            masks=node("PreviewImage", images=["mask", 0]),
        )
    )
    onlookers = load_face_tools("miniature", part="head")
    picture = to_pixels(portraits()[0])
    ours = restore_picture(
        picture, onlookers.faces(portraits()[0], None),
        Detailer(base=load_base(BaseSpec()), prompt=PROMPT, **sampling),
        Restoration(side=128, around=1.5, gate="off", both=True), parse=onlookers.parse, name="picture 1",
    )  # fmt: skip
    theirs = server.picture(shown["show"]["images"][0])
    assert psnr(to_shades(ours.pixels), theirs) >= 40
    assert psnr(portraits()[0], theirs) < 40, "the face was drawn again"
    assert (theirs[ours.mask == 0] == portraits()[0][ours.mask == 0]).all()
    mask = server.picture(shown["masks"]["images"][0])[..., 0] / 255
    assert np.abs(mask - ours.mask).max() < 0.01
    assert shown["finish"]["text"] == [ours.report]
    both = server.picture(shown["finish"]["images"][0])
    assert psnr(both, before_and_after(picture, ours.pixels)) >= 40


def regions_of_a_wide_picture() -> dict[str, Any]:
    """A grey picture (128, 256), and its left and its right half as two masks."""
    nodes: dict[str, Any] = {
        "wide": node("EmptyImage", width=256, height=128, batch_size=1, color=0x7F7F7F),
        "none": node("SolidMask", value=0.0, width=256, height=128),
        "half": node("SolidMask", value=1.0, width=128, height=128),
        "batch": node("ImageBatch", image1=["left image", 0], image2=["right image", 0]),
        "masks": node("ImageToMask", image=["batch", 0], channel="red"),
    }
    for name, x in (("left", 0), ("right", 128)):
        nodes[name] = node("MaskComposite", destination=["none", 0], source=["half", 0], x=x, y=0,
                           operation="add")  # fmt: skip
        nodes[f"{name} image"] = node("MaskToImage", mask=[name, 0])
    return nodes


def region_again(number: int) -> dict[str, Any]:
    return node(
        "LikenessDetailFace", images=["wide", 0], model=["base", 0], positive=["words", 0],
        negative=["nothing", 0], vae=["base", 2], masks=["masks", 0], denoise=0.5, steps=8, cfg=5.0,
        sampler_name="euler", scheduler="simple", seed=7, size=128, around=1.5, part="head",
        **{**FACES, "found_by": "my mask", "number": number, "feather": 0.08, "match_colours": False},
    )  # fmt: skip


def test_one_of_a_pictures_regions_is_drawn_again_as_the_command_line_does(server: Server):
    words = {
        "words": node("CLIPTextEncode", clip=["base", 1], text=PROMPT),
        "nothing": node("CLIPTextEncode", clip=["base", 1], text=""),
        **regions_of_a_wide_picture(),
    }
    shown = server.run(graph(finish=region_again(1), **words))
    theirs = server.picture(shown["show"]["images"][0])
    before = np.full((1, 128, 256, 3), 127, np.uint8)
    ours = regions_redrawn(
        before, [PROMPT], [7],
        [Focus(token="woman", region=(0.5, 0.0, 0.5, 1.0), redraw=0.5, scope="word")],
        Detailer(base=load_base(BaseSpec()), prompt=PROMPT, steps=8),
    )[0]  # fmt: skip
    assert (theirs[:, :128] == 127).all() and (theirs[:, 160:] != 127).any(-1).mean() > 0.9
    assert psnr(ours, theirs) >= 40
    (report,) = shown["finish"]["text"]
    assert report.startswith("picture 1, face from (128, 0) to (256, 128): restored")
    assert "there are 2 masks for each picture, but face number 2 is wanted; choose 0 to 1, or -1" in failure(
        server, graph(finish=region_again(2), **words)
    )


def test_a_restorer_that_ruins_the_face_is_rejected_and_the_node_says_so(server: Server, files: Path):
    prompt = graph(finish=restoring("RestoreFormer.pth", gate="reject", references=["base", 3]))
    shown = server.run(prompt)
    assert (server.picture(shown["show"]["images"][0]) == portraits()[0]).all()
    text = shown["finish"]["text"][0]
    assert "likeness 1.000, restored " in text and "rejected, for the likeness would drop by" in text
    open_gate = graph(finish=restoring("RestoreFormer.pth", match_colours=False))
    shown = server.run(open_gate)
    ruined = server.picture(shown["show"]["images"][0])
    changed = (ruined != portraits()[0]).any(-1)
    assert 0.05 < changed.mean() < 0.4 and shown["finish"]["text"][0].endswith(": restored")


def test_pictures_without_a_face_pass_and_the_node_says_so(server: Server, files: Path):
    prompt = graph(
        grey=node("EmptyImage", width=64, height=96, batch_size=2, color=0x808080),
        finish=restoring("RestoreFormer.pth", gate="blend"),
    )
    prompt["finish"]["inputs"]["images"] = ["grey", 0]
    shown = server.run(prompt)
    assert all((server.picture(file) == 128).all() for file in shown["show"]["images"])
    assert shown["finish"]["text"][0].splitlines() == [
        "picture 1: no face found; it stays as it is",
        "picture 2: no face found; it stays as it is",
        "the likeness was not checked: connect references or a concept",
    ]


def test_missing_files_other_networks_and_licences_are_said(server: Server, files: Path):
    message = failure(server, graph(finish=restoring("GFPGANv1.4.pth")))
    assert "GFPGANv1.4.pth is missing; get GFPGANv1.4.pth from https://github.com/TencentARC" in message
    assert "(Apache-2.0, but its LICENSE names" in message
    assert "non-commercial) and put it into models/facerestore_models" in message
    message = failure(server, graph(finish=restoring("upscaler.pth")))
    assert "upscaler.pth is ESRGAN, which does not restore faces" in message
    message = failure(server, graph(finish=restoring("RestoreFormer.pth", found_by="my mask")))
    assert "no face model is chosen; give a mask per picture" in message
    message = failure(server, graph(finish=restoring("RestoreFormer.pth", found_by="auraface")))
    assert "scrfd_10g_bnkps.onnx" in message and "huggingface.co/fal/AuraFace-v1" in message


def test_pictures_are_enlarged_as_the_stock_node_does_and_faces_go_into_them(server: Server, files: Path):
    shown = server.run(
        graph(
            loader=node("UpscaleModelLoader", model_name="upscaler.pth"),
            finish=node(
                "LikenessUpscale", images=["base", 3], upscale_model=["loader", 0],
                size="as the model makes it", tile=64, margin=32,
            ),
            stock=node("ImageUpscaleWithModel", image=["base", 3], upscale_model=["loader", 0]),
            theirs=node("PreviewImage", images=["stock", 0]),
            again=node(
                "LikenessRestoreFace", images=["base", 3], restorer="RestoreFormer.pth", fidelity=0.7,
                non_commercial=False, background=["loader", 0], references=["base", 3],
                **FACES,
            ),
            face=node("PreviewImage", images=["again", 0]),
        )
    )  # fmt: skip
    ours, stock = (server.picture(shown[name]["images"][0]) for name in ("show", "theirs"))
    assert ours.shape == (256, 256, 3)
    assert np.abs(ours.astype(int) - stock).max() <= 1
    face = server.picture(shown["face"]["images"][0])
    changed = (face != stock).any(-1)
    assert face.shape == stock.shape and 0.02 < changed.mean() < 0.3, (
        "the face alone, in the enlarged picture"
    )
    assert "likeness" in shown["again"]["text"][0]
