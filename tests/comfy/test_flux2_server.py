"""A running ComfyUI with a tiny FLUX.2 Klein in its folders, learned on, saved, loaded and drawn."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.cli import main
from likeness_portraits.tests.comfy.hosts import Server, psnr
from likeness_portraits.tests.engine.tiny_flux2 import write_host_files

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
PROMPT, SEED, STEPS, SIDE = "a photo of <v0>", 5, 3, 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_host_files(tmp_path_factory.mktemp("host") / "models")


@pytest.fixture(scope="module")
def host(checkout: Path, python: Path, files: dict[str, str]) -> Iterator[Server]:
    """ComfyUI over the folder with the files, and with the pack that holds them small."""
    if not (checkout / "comfy" / "text_encoders" / "qwen25_tokenizer").is_dir() or not knows_flux2(checkout):
        pytest.skip("this ComfyUI has no FLUX.2")
    base = Path(files["vae"]).parents[2]
    (base / "custom_nodes").mkdir()
    small = Path(__file__).with_name("tiny_klein")
    (base / "custom_nodes" / "tiny_klein").symlink_to(small, target_is_directory=True)
    server = Server(checkout, base)
    yield server
    server.stop()


def knows_flux2(checkout: Path) -> bool:
    return "class Flux2(" in (checkout / "comfy" / "supported_models.py").read_text("utf-8")


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


LOADED: dict[str, dict[str, Any]] = {
    "unet": node("UNETLoader", unet_name="flux-2-klein-base-4b.safetensors", weight_dtype="default"),
    "text": node("CLIPLoader", clip_name="qwen_3_4b.safetensors", type="flux2"),
    "vae": node("VAELoader", vae_name="flux2-vae.safetensors"),
    "latent": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
}
LEARNED = {
    "person": node("LikenessMiniature", person=0, pictures=2),
    "concept": node("LikenessConcept", images=["person", 3], masks=["person", 4], class_word="woman",
                    token="<v0>", role="subject"),
    "learn": node("LikenessTrainDreamBoothLora", model=["unet", 0], clip=["text", 0], vae=["vae", 0],
                  concept=["concept", 0], preset="automatic", steps=2, learning_rate=0.05, rank=4,
                  text_encoder="no", prior="no", masked="yes", seed=0, preview_every=2, preview_prompt="",
                  resolution=64, precision="fp32", more_settings="batch_size: 1"),
    "save": node("LikenessSave", likeness=["learn", 0], name="anna"),
}  # fmt: skip


def drawing(name: str, model: str, clip: str, likeness: str = "") -> dict[str, Any]:
    """Nodes that draw the prompt; with `likeness`, a node that gives one, it is applied."""
    source = f"{name} apply"
    applied = {source: node("LikenessApply", model=[model, 0], clip=[clip, 0], likeness=[likeness, 0],
                            strength_model=1.0, strength_clip=1.0)} if likeness else {}  # fmt: skip
    unet, text = ([source, 0], [source, 1]) if likeness else ([model, 0], [clip, 0])
    return {
        **applied,
        f"{name} prompt": node("CLIPTextEncode", clip=text, text=PROMPT),
        f"{name} nothing": node("CLIPTextEncode", clip=text, text=""),
        f"{name} sample": node("KSampler", model=unet, positive=[f"{name} prompt", 0], seed=SEED, cfg=3.0,
                               negative=[f"{name} nothing", 0], latent_image=["latent", 0], steps=STEPS,
                               sampler_name="euler", scheduler="simple", denoise=1.0),
        f"{name} decode": node("VAEDecode", samples=[f"{name} sample", 0], vae=["vae", 0]),
        name: node("PreviewImage", images=[f"{name} decode", 0]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def outputs(host: Server) -> dict[str, Any]:
    graph = {**LOADED, **LEARNED, **drawing("before", "unet", "text"),
             **drawing("after", "unet", "text", "learn")}  # fmt: skip
    return host.run(graph, seconds=900)


def shown(host: Server, outputs: dict[str, Any], name: str) -> np.ndarray:
    return host.picture(outputs[name]["images"][0])


def test_a_person_is_learned_on_files_that_core_loads_and_changes_its_pictures(
    host: Server, outputs: dict[str, Any]
):
    before, after = (shown(host, outputs, name) for name in ("before", "after"))
    assert before.shape == (SIDE, SIDE, 3) and np.abs(before.astype(int) - after).max() > 8
    learned = Artifact.load(host.base / "models" / "likeness" / "anna.safetensors")
    assert (learned.base_family, learned.steps, learned.about["base"]) == (
        "flux2", 2, "flux-2-klein-base-4b",
    )  # fmt: skip
    assert learned.about["distilled"] is False
    assert "NOT LOADED" not in host.log.read_text()


def test_what_really_runs_is_said(host: Server, outputs: dict[str, Any]):
    """In the node, and in the log."""
    said = host.log.read_text()
    plan = next(line for line in said.splitlines() if "dreambooth-lora · 2 steps · learning rate" in line)
    assert "text encoder off" in plan and f"fp32 · {SIDE} px" in plan and "2 pictures, 2 with masks" in plan
    assert "memory: about 0." in said and outputs["learn"]["images"]


def test_what_was_saved_is_loaded_and_draws_the_same(host: Server, outputs: dict[str, Any]):
    graph = {**LOADED, "load": node("LikenessLoad", name="anna.safetensors", trigger_word=""),
             **drawing("again", "unet", "text", "load")}  # fmt: skip
    again = shown(host, host.run(graph, seconds=300), "again")
    assert np.array_equal(again, shown(host, outputs, "after"))


def test_the_command_draws_the_same_picture_from_the_same_files(
    host: Server, outputs: dict[str, Any], files: dict[str, str], checkout: Path, tmp_path: Path
):
    saved = host.base / "models" / "likeness" / "anna.safetensors"
    words = checkout / "comfy" / "text_encoders" / "qwen25_tokenizer"
    options = ["--steps", STEPS, "--guidance", 3.0, "--seed", SEED, "--width", SIDE, "--height", SIDE,
               "--sampler", "euler", "--schedule", "simple"]  # fmt: skip
    told = ["generate", PROMPT, "--concept", saved, "--base", files["transformer"], "--clip", files["clip"],
            "--vae", files["vae"], "--tokenizer", words, *options, "-o", tmp_path / "drawn"]  # fmt: skip
    assert main([str(part) for part in told]) == 0
    (file,) = [path for path in (tmp_path / "drawn").rglob("*") if path.suffix == ".png"]
    mine = np.asarray(Image.open(file).convert("RGB"))
    assert min(psnr(mine, shown(host, outputs, "after")), 99.0) >= 40
    assert os.path.getsize(saved) > 1000
