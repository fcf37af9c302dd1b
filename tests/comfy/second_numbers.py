"""Run by the Python of a ComfyUI host: the second Miniature in ComfyUI's own classes and in the engine.

    python second_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE FOLDER

FOLDER takes random weights of its shape. Prints one JSON object; of a host without FLUX.2, what it says.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

checkout, package_parent, folder = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_sampling  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from likeness_portraits.engine.artifact import Artifact, Token  # noqa: E402
from likeness_portraits.engine.bases.base import BaseModel, load_base  # noqa: E402
from likeness_portraits.engine.bases.loaders.graph import base_from_graph  # noqa: E402
from likeness_portraits.engine.bases.sampling import seeded_noise  # noqa: E402
from likeness_portraits.engine.comfy_bridge.joint_attention import JointSites  # noqa: E402
from likeness_portraits.engine.comfy_bridge.second_miniature import build_second_miniature  # noqa: E402
from likeness_portraits.engine.comfy_bridge.weights import name_of_model, own_side, take_weights  # noqa: E402
from likeness_portraits.engine.comfy_bridge.words import apply  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.errors import LikenessError  # noqa: E402
from likeness_portraits.engine.inference.generate import applied, generate  # noqa: E402
from likeness_portraits.engine.miniature import model  # noqa: E402
from likeness_portraits.nodes.miniature import LikenessMiniature  # noqa: E402
from likeness_portraits.tests.comfy.hosts import psnr  # noqa: E402
from likeness_portraits.tests.engine.second import write_weights  # noqa: E402

FOLDER, SPEC = Path(folder), BaseSpec.parse("miniature-2")
RANDOM = torch.Generator().manual_seed(0)
PROMPTS = ["a photo of a man,  (smiling:1.3)\non a beach \\(by day\\)", ""]


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first.float() - second.float()).abs().max().item()


def heard(clip: Any, prompt: str) -> torch.Tensor:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0]


@torch.inference_mode()
def differences(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    model, clip, vae = loaded
    context = base.encode_text(PROMPTS, weights=True)
    states = torch.cat([heard(clip, prompt) for prompt in PROMPTS])
    noisy, times = torch.randn(2, 16, 16, 16, generator=RANDOM), torch.tensor([0.2, 0.9])
    theirs = model.model.diffusion_model(noisy, times, context=context.states)
    ours = base.predict(noisy, times, context)
    pixels = torch.rand(1, 128, 128, 3, generator=RANDOM)
    latents = vae.encode(pixels)
    return {
        "text": apart(states, context.states), "text size": states.abs().max().item(),
        "velocity": apart(theirs, ours), "velocity size": ours.abs().max().item(),
        "latents": apart(latents, base.encode_pixels(pixels.movedim(-1, 1) * 2 - 1)),
        "pictures": apart(vae.decode(latents), base.decode(latents).movedim(1, -1) / 2 + 0.5),
        "states": float(states.shape[1]),
    }  # fmt: skip


@torch.inference_mode()
def drawn_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    """By the usual sampler, with guidance, as KSampler draws: what core would fill up to 512 is not."""
    model, clip, vae = loaded
    mine = generate(base, ["a man"], steps=4, guidance=3.0, seed=5, sampler="euler")[0]
    told = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a man", "")]
    drawn = comfy.sample.sample(
        model, seeded_noise([5], (16, 16, 16)), 4, 3.0, "euler", "simple", *told,
        torch.zeros(1, 16, 16, 16), seed=5, disable_pbar=True,
    )  # fmt: skip
    theirs = (vae.decode(drawn)[0] * 255).clamp(0, 255).to(torch.uint8).numpy()
    return {"psnr": min(psnr(np.asarray(mine), theirs), 99.0), "spread": float(theirs.std())}


def learned() -> Artifact:
    """Words and a LoRA of random numbers, as a run would leave them."""
    tensors = {"token.v0.qwen3_4b": torch.randn(2, 128, generator=RANDOM) * 0.1}
    for layer, rows, columns in (
        ("transformer.single_transformer_blocks.3.attn.to_out", 128, 512),
        ("transformer.transformer_blocks.0.attn.add_k_proj", 128, 128),
        ("text_encoders.qwen3_4b.transformer.model.layers.1.self_attn.q_proj", 128, 128),
    ):
        tensors[f"{layer}.lora_A.weight"] = torch.randn(2, columns, generator=RANDOM) * 0.2
        tensors[f"{layer}.lora_B.weight"] = torch.randn(rows, 2, generator=RANDOM) * 0.2
        tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    return Artifact(
        kind="lora", method="test", base_family="miniature-2", tokens=(Token(token="<v0>"),), tensors=tensors
    )


@torch.inference_mode()
def used(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, Any]:
    """What was learned in the engine and by Apply Likeness; and its words in a file of core's."""
    unet, clip, _ = loaded
    artifact = learned()
    noisy, time = torch.randn(1, 16, 16, 16, generator=RANDOM), torch.tensor([0.6])
    with applied(base, [(artifact, 1.0)]) as rows:
        context = base.encode_text(["a photo of <v0>, smiling"], rows, weights=True)
        ours = base.predict(noisy, time, context)
    told = dict(zip(("model", "clip"), apply(unet, clip, artifact, 1.0, 1.0)))
    patched = told["model"]
    words = heard(told["clip"], "a photo of <v0>, smiling")
    patched.patch_model()
    theirs = patched.model.diffusion_model(noisy, time, context=context.states)
    patched.unpatch_model()
    plain = base.predict(noisy, time, context)
    return {"words": apart(words, context.states), "velocity": apart(theirs, ours),
            "seen": apart(plain, ours)}  # fmt: skip


def main() -> dict[str, Any]:
    folder_paths.set_temp_directory(str(FOLDER / "temp"))
    model.WEIGHTS = FOLDER / "none"
    try:
        LikenessMiniature.execute(0, 1, "FLUX.2")
    except LikenessError as error:
        refused = str(error)
    if not hasattr(comfy.supported_models, "Flux2"):
        return {"refused": refused}
    model.WEIGHTS = write_weights_from(FOLDER)
    loaded, base = build_second_miniature(), load_base(SPEC)
    found: dict[str, Any] = {"missing": refused, "files": differences(loaded, base)}
    found["tables"], found["progress"] = whole_tables(loaded, base), counted(loaded[0], base)
    shown = LikenessMiniature.execute(0, 1, "FLUX.2").args
    found["node"] = [type(shown[0].model.model_config).__name__, *shown[3].shape]
    found["side"] = own_side(shown[0])
    found["used"] = used(loaded, base)  # before sampling, which leaves the weights in place
    found["drawn"] = drawn_alike(loaded, base)
    with torch.inference_mode(), torch.inference_mode(False):
        graph = base_from_graph(take_weights(*loaded))
    found["graph"], found["name"] = differences(loaded, graph), name_of_model(loaded[0])
    found["same"] = (graph.fingerprint, graph.family) == (base.fingerprint, base.family)
    copies = [part.clone() for part in loaded[:2]]
    found["again"] = differences((*copies, loaded[2]), base)["velocity"]
    return found


@torch.inference_mode()
def whole_tables(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    """Words of the whole vocabulary that training moved, half as far, in the engine and by Apply Likeness."""
    table = base.text_encoders["qwen3_4b"].get_input_embeddings().weight
    moved = table + 0.1 * torch.randn(table.shape, generator=RANDOM)
    artifact = Artifact(kind="embedding", method="test", base_family="miniature-2",
                        tensors={"table.qwen3_4b": moved})  # fmt: skip
    plain = base.encode_text(["a man"])
    with applied(base, [(artifact, 0.5)]):
        ours = base.encode_text(["a man"])
    theirs = heard(apply(*loaded[:2], artifact, 1.0, 0.5)[1], "a man")
    return {"apart": apart(theirs, ours.states), "seen": apart(plain.states, ours.states)}


def counted(model: Any, base: BaseModel) -> dict[str, float]:
    """How far drawing is at a noise level: of the base, and of a MODEL, also of one that is shifted."""
    sites, times = JointSites(), torch.tensor([0.7])
    mine = base.process.progress(0.7)
    shifted = comfy.model_sampling.ModelSamplingFlux(model.model.model_config)
    shifted.set_parameters(shift=1.15)
    other = SimpleNamespace(model_sampling=shifted)
    percent = sites.progress(other, times)
    return {"ours": mine, "theirs": sites.progress(model.model, times), "shifted": percent,
            "shifted sigma": float(shifted.percent_to_sigma(percent))}  # fmt: skip


def write_weights_from(folder: Path) -> Path:
    """Random weights beside the first's own, which are the package's."""
    model.WEIGHTS = Path(model.__file__).parent / "weights"
    return write_weights(folder / "weights")


print(json.dumps(main()))  # noqa: T201 (the answer)
