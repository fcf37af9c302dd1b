"""MagicTailor inside ComfyUI: learned there, drawn by stock prompts, and every module of its LoRA loaded."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact, export_stock, import_file
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.comfy.graphs import ending, node
from likeness_portraits.tests.comfy.hosts import Server, environment, psnr
from likeness_portraits.tests.golden.goldens import Golden

pytestmark = pytest.mark.comfy

SEED, STEPS, GUIDANCE = 7, 8, 5.0
COUNT_MODULES = """
import sys, types
sys.argv = ["count", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.lora, comfy.ops, comfy.utils
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
config = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_checkpoint": False,
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "num_head_channels": 64, "num_heads": -1,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1, "context_dim": 1024,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_spatial_transformer": True,
    "use_linear_in_transformer": True, "legacy": False, "adm_in_channels": None,
}
unet = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
state = {"diffusion_model." + name: weight for name, weight in unet.state_dict().items()}
model = types.SimpleNamespace(
    state_dict=lambda: state, model_config=types.SimpleNamespace(unet_config=config)
)
names = comfy.lora.model_lora_keys_unet(model, {})
print(len(comfy.lora.load_lora(comfy.utils.load_torch_file(LORA), names)))
"""


def concept(token: str, word: str, role: str, pictures: str) -> dict[str, Any]:
    return node(
        "LikenessConcept", images=[pictures, 3], masks=[pictures, 4], class_word=word, token=token, role=role
    )


def learning(second: str = "<v1>", name: str = "both", more: str = "") -> dict[str, Any]:
    """Nodes that learn two people of the Miniature for a moment, as if one were a part of the other."""
    return {
        "base": node("LikenessMiniature", person=0, pictures=3),
        "other": node("LikenessMiniature", person=1, pictures=2),
        "subject": concept("<v0>", "woman", "subject", "base"),
        "component": concept(second, "hair", "component", "other"),
        "learn": node(
            "LikenessTrainMagicTailor", model=["base", 0], clip=["base", 1], vae=["base", 2],
            concept=["subject", 0], component=["component", 0], preset="automatic", steps=5,
            learning_rate=0.01, balance_learning_rate=0.01, rank=4, seed=3, preview_every=5,
            preview_prompt="", more_settings=more,
        ),
        "save": node("LikenessSave", likeness=["learn", 0], name=name),
    }  # fmt: skip


def drawing(text: str, name: str = "both") -> dict[str, Any]:
    return {
        "base": node("LikenessMiniature", person=0, pictures=1),
        "load": node("LikenessLoad", name=f"{name}.safetensors"),
        "apply": node(
            "LikenessApply", model=["base", 0], clip=["base", 1], likeness=["load", 0],
            strength_model=1.0, strength_clip=1.0,
        ),
        "prompt": node("CLIPTextEncode", clip=["apply", 1], text=text),
        "nothing": node("CLIPTextEncode", clip=["apply", 1], text=""),
        **ending(["apply", 0], ["prompt", 0], ["nothing", 0], seed=SEED, steps=STEPS, cfg=GUIDANCE),
    }  # fmt: skip


def drawn(server: Server, text: str, name: str = "both") -> np.ndarray:
    return server.picture(server.run(drawing(text, name))["show"]["images"][0])


@pytest.fixture(scope="module")
def learned(server: Server) -> Path:
    server.run(learning())
    return server.base / "models" / "likeness" / "both.safetensors"


def from_folder(token: str, number: int) -> dict[str, Any]:
    return node(
        "LikenessConceptFolder", folder="woman_a+hair_b", class_word="", token=token,
        role="as concept.json says", number=number,
    )  # fmt: skip


def write_pair(folder: Path) -> None:
    """A subject and a component as the method's authors lay them out."""
    (folder / "masks").mkdir(parents=True)
    for number, word in enumerate(("woman", "hair")):
        for index, portrait in enumerate(world.example_pictures(world.TUNING_SEEDS[number], 2)):
            name = f"{number}_{word}_{'ab'[number]}{index}"
            Image.fromarray(portrait.pixels).save(folder / f"{name}.jpg")
            Image.fromarray(np.uint8(portrait.mask() * 255)).save(folder / "masks" / f"{name}.png")


def test_the_authors_own_folder_is_learned_one_concept_per_number(server: Server):
    write_pair(server.base / "input" / "woman_a+hair_b")
    graph = learning(name="pair")
    graph |= {"subject": from_folder("<v0>", 0), "component": from_folder("<v1>", 1)}
    del graph["other"]
    server.run(graph)
    artifact = Artifact.load(server.base / "models" / "likeness" / "pair.safetensors")
    assert [(token.token, token.class_word, token.role) for token in artifact.tokens] == [
        ("<v0>", "woman", "subject"), ("<v1>", "hair", "component"),
    ]  # fmt: skip
    graph["component"] = from_folder("<v1>", -1)
    entry = server.wait(server.queue(graph))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert "holds the concepts number 0 and 1; say which one" in failures[0]["exception_message"]


def test_the_node_learns_both_phases_of_two_concepts(learned: Path):
    artifact = Artifact.load(learned)
    assert (artifact.kind, artifact.method, artifact.steps) == ("lora", "magictailor", 5)
    assert (artifact.settings["warm_up_steps"], artifact.settings["balance_steps"]) == (2, 3)
    assert [(token.token, token.role) for token in artifact.tokens] == [
        ("<v0>", "subject"), ("<v1>", "component"),
    ]  # fmt: skip


def test_both_words_and_each_alone_are_drawn_as_on_the_command_line(
    server: Server, learned: Path, likeness: Callable, tmp_path: Path
):
    prompts = ["a photo of <v0> with <v1>", "a photo of <v0>", "a photo of <v1>"]
    ran = likeness(
        "generate", *prompts, "--concept", learned, "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE,
        "--out", tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    theirs = [drawn(server, prompt) for prompt in prompts]
    assert len({picture.tobytes() for picture in theirs}) == 3
    for path, picture in zip(sorted(tmp_path.glob("*.png")), theirs):
        assert psnr(np.asarray(Image.open(path).convert("RGB")), picture) >= 40
    spelled = drawn(server, "a photo of embedding:v0 with embedding:v1")
    assert (spelled == theirs[0]).all()


def test_words_that_all_moved_are_drawn_with_as_on_the_command_line(
    server: Server, likeness: Callable, tmp_path: Path
):
    server.run(learning(name="moved", more="all_rows: true\ntoken_learning_rate: 0.05"))
    file = server.base / "models" / "likeness" / "moved.safetensors"
    assert Artifact.load(file).tables()
    prompt = "a photo of <v0> with <v1>"
    ran = likeness(
        "generate", prompt, "--concept", file, "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE,
        "--out", tmp_path / "ours.png",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ours = np.asarray(Image.open(tmp_path / "ours.png").convert("RGB"))
    assert psnr(ours, drawn(server, prompt, "moved")) >= 40
    graph = drawing(prompt, "moved")
    graph["apply"]["inputs"]["strength_clip"] = 0.0
    unmoved = server.picture(server.run(graph)["show"]["images"][0])
    assert psnr(ours, unmoved) < 40


def test_two_concepts_with_one_placeholder_are_told_so(server: Server):
    entry = server.wait(server.queue(learning(second="<v0>")))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert "two concepts share the placeholder <v0>" in failures[0]["exception_message"]


def test_all_176_modules_of_the_references_lora_load_once_exported(
    checkout: Path, python: Path, tmp_path: Path
):
    shapes = Golden("magictailor", "lora_inventory_sd21").json("shapes")
    thin = {name: torch.ones([1 if side == 32 else side for side in shape]) for name, shape in shapes.items()}
    save_file(thin, tmp_path / "theirs.safetensors")
    (path,) = export_stock(import_file(tmp_path / "theirs.safetensors"), tmp_path, "stock")
    ran = subprocess.run(
        [python, "-c", COUNT_MODULES.replace("LORA", repr(str(path)))],
        cwd=checkout, env=environment(PYTHONPATH=str(checkout)), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-1] == "176" and "not loaded" not in ran.stdout + ran.stderr
