"""Run by the Python of a ComfyUI host: what the graph refuses, and core's own training on the Miniature.

    python drawing_edges.py CHECKOUT PARENT_OF_THE_PACKAGE

Prints one JSON object: what was said about each mistake, and what learning with stock nodes left behind.
"""

import json
import random
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

checkout, package_parent = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_patcher  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import utils.install_util  # noqa: E402, F401 (as main.py does: the server would find another `utils` later)
from comfy import sd1_clip  # noqa: E402
from comfy.ldm.flux.model import FluxParams  # noqa: E402
from comfy.model_base import ModelType  # noqa: E402

from likeness_portraits.engine.artifact import Artifact, Token  # noqa: E402
from likeness_portraits.engine.bases.base import load_base  # noqa: E402
from likeness_portraits.engine.bases.text.prompt_weights import weighted  # noqa: E402
from likeness_portraits.engine.comfy_bridge.folders import register_folders  # noqa: E402
from likeness_portraits.engine.comfy_bridge.identity import apply_identity, encode_identity_images  # noqa: E402
from likeness_portraits.engine.comfy_bridge.miniature import build_miniature, miniature_person  # noqa: E402
from likeness_portraits.engine.comfy_bridge.refocus import refocused_prompt  # noqa: E402
from likeness_portraits.engine.comfy_bridge.sampling import Sampling  # noqa: E402
from likeness_portraits.engine.comfy_bridge.staged import staged_prompt  # noqa: E402
from likeness_portraits.engine.comfy_bridge.weights import own_side  # noqa: E402
from likeness_portraits.engine.comfy_bridge.words import apply, export_likeness  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.errors import LikenessError  # noqa: E402
from likeness_portraits.engine.inference.generate import generate  # noqa: E402
from likeness_portraits.engine.inference.refocus import Focus  # noqa: E402
from likeness_portraits.tests.comfy.tiny_models import tiny_model  # noqa: E402
from likeness_portraits.tests.engine.tiny import staged_person  # noqa: E402

NAN = float("nan")
LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"


def words(width: int = 128, family: str = "miniature", encoder: str = "clip_l") -> Artifact:
    return Artifact(
        kind="embedding", method="test", tokens=(Token(token="<v0>", class_word="woman", vectors=1),),
        tensors={f"token.v0.{encoder}": torch.ones(1, width)}, base_family=family,
    )  # fmt: skip


def lora(layer: str = LAYER, family: str = "miniature") -> Artifact:
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(2, 128), f"{layer}.lora_up.weight": torch.ones(128, 2),
        f"{layer}.alpha": torch.tensor(2.0),
    }  # fmt: skip
    return Artifact(kind="lora", method="test", tensors=tensors, base_family=family)


def tiny_flux() -> Any:
    """A MODEL whose network is no U-Net, of ComfyUI's own class."""
    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    config = comfy.supported_models.Flux({
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 8,
        "context_in_dim": 8, "hidden_size": 16, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "axes_dim": [4, 2, 2], "theta": 100, "qkv_bias": True,
        "guidance_embed": False, **newer,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def sides(miniature: Any) -> dict[str, int]:
    """Pixels a side at which models draw best, by their kind."""
    kinds = comfy.supported_models
    unets = {kind.__name__: tiny_model(kind, num_heads=4) for kind in (kinds.SD15, kinds.SD20, kinds.SDXL)}
    velocity = tiny_model(kinds.SD20, num_heads=4)
    velocity.model.model_type = ModelType.V_PREDICTION
    models = {**unets, "SD20-v": velocity, "Flux": tiny_flux(), "Miniature": miniature}
    return {name: own_side(model) for name, model in models.items()}


def said(act: Callable[[], Any]) -> str:
    try:
        act()
    except LikenessError as error:
        return str(error)
    return "nothing"


def mistakes(model: Any, clip: Any) -> dict[str, str]:
    flux, focus = tiny_flux(), Focus(token="woman", region=(0.0, 0.0, 0.5, 1.0))
    pictures, masks, _ = miniature_person(0, 1)
    identity = encode_identity_images(None, pictures, masks=masks).identity
    staged = staged_person("<v0>", 128, "miniature")
    _, taught = apply(model, clip, words(), 1.0, 1.0)

    def read(text: str, clip: Any = taught) -> str:
        return said(lambda: clip.encode_from_tokens(clip.tokenize(text)))

    return {
        "LoRA, other network": said(lambda: apply(flux, clip, lora(), 1.0, 1.0)),
        "LoRA of sd1, other network": said(lambda: apply(flux, clip, lora(family="sd1"), 1.0, 1.0)),
        "words, other network": said(lambda: apply(flux, clip, words(), 1.0, 1.0)),
        "staged, other network": said(lambda: staged_prompt(flux, clip, staged, "a photo of <v0>")),
        "identity, other network": said(lambda: apply_identity(flux, identity)),
        "region, other network": said(lambda: refocused_prompt(flux, clip, "a photo of a woman", focus)),
        "layer": said(lambda: apply(model, clip, lora(LAYER.replace("_0_attn2", "_7_attn2")), 1.0, 1.0)),
        "width": said(lambda: apply(model, clip, words(64), 1.0, 1.0)),
        "no CLIP": said(lambda: apply(model, None, words(), 1.0, 1.0)),
        "no CLIP, LoRA alone": said(lambda: apply(model, None, lora(), 1.0, 1.0)),
        "weight nan": read("a photo of a (woman:nan)"),
        "<v9>": read("a photo of <v9>"),
        "<V0>": read("a photo of <V0>"),
        "<v0>": read("a photo of <v0> and embedding:v0, <3 hearts"),
        "<v9>, staged": said(lambda: staged_prompt(model, clip, staged, "a photo of <v0> and <v9>")),
        "<v9>, region": said(lambda: refocused_prompt(model, clip, "<v9> and a woman", focus)),
        "strength": said(lambda: apply(model, clip, lora(), NAN, 1.0)),
        "weight": said(lambda: apply_identity(model, identity, weight=float("inf"))),
        "bypass": said(lambda: staged_prompt(model, clip, staged, "a photo of <v0>", bypass=NAN)),
        "region's strength": said(lambda: Focus(token="woman", strength=NAN)),
    }


PROMPTS = {
    "a weight": "a photo of a smiling woman with (red:1.5) hair, in a forest",
    "no number": "a photo of a ((smiling)) woman (with red hair), in a forest",
    "one in another": "a (photo of a (woman:0.5) with (red hair:1.4):1.2), in a forest",
    "a placeholder": "a photo of (<v0>:1.3), (wearing a green shirt:0.7), on a beach",
    "by name": "a photo of embedding:v0 and (embedding:v0:0.8), on a beach",
    "escapes": "a photo of a woman \\(smiling\\), (in a \\(forest\\):1.5)",
    "square brackets and BREAK": "a [photo] of a [[smiling]] woman BREAK in a forest",
    "never closed": "a photo of a (smiling woman, (in a forest:1.5",
    "closed too often": "a photo of a smiling) woman), (in) a (forest:1.5)",
    "below nothing": "a photo of a woman, (green shirt:-0.8)",
    "two chunks": "a (photo:1.2) of a woman" + ", in a (forest:1.3), with (red hair:0.8)" * 12,
    "staged": "a (photo:0.8) of <v0>, (in a forest:1.5)",
    "staged, weighted": "a photo of (<v0>:1.4), in a forest",
}


def exported_again(folder: str) -> list[list[str]]:
    """The files of exports under one name: one person's, another's, and the first one's again."""
    for kind in ("embeddings", "loras"):
        folder_paths.folder_names_and_paths[kind] = ([f"{folder}/{kind}"], {".safetensors"})
    somebody = words()
    other = replace(somebody, tensors={name: rows * 2 for name, rows in somebody.tensors.items()})
    return [
        [path.name for path in export_likeness(one, "my-likeness")] for one in (somebody, other, somebody)
    ]


def exported(folder: str) -> dict[str, bool]:
    """By the name an embedding is exported under, whether stock prompts reach what comes of it."""
    for kind in ("embeddings", "loras"):
        folder_paths.folder_names_and_paths[kind] = ([f"{folder}/{kind}"], {".safetensors"})
    _, clip, _ = build_miniature()
    found = {}
    for name in ("ann", "ann v2", "Анна", "a, (b) c"):
        (path,) = export_likeness(words(), name)
        (chunk,) = clip.tokenize(f"a photo of embedding:{path.stem}, smiling")["l"]
        found[name] = any(torch.is_tensor(piece) and bool((piece == 1).all()) for piece, *_ in chunk)
    return found


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = ((first.astype(float) - second.astype(float)) ** 2).mean()
    return 120.0 if error == 0 else float(10 * np.log10(255**2 / error))


def weighted_pictures(model: Any, clip: Any, vae: Any) -> dict[str, list[float]]:
    """For each prompt, how near to ComfyUI's picture the command line's is, and the one without weights."""
    base, learned, staged = load_base(BaseSpec()), words(), staged_person("<v0>", 128, "miniature")
    _, taught = apply(model, clip, learned, 1.0, 1.0)
    found = {}
    for name, text in PROMPTS.items():
        artifact, patched = learned, model
        if "staged" in name:
            artifact, (patched, positive) = staged, staged_prompt(model, clip, staged, text)
        else:
            positive = taught.encode_from_tokens_scheduled(taught.tokenize(text))
        negative_text = "(a kitchen:1.3), a man"
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(negative_text))
        sampling = Sampling(
            {"samples": torch.zeros(1, 4, 16, 16)}, 3, 4, 4.0, "euler", "simple", 1.0, positive, negative
        )
        theirs = (vae.decode(sampling.draw(patched)["samples"]) * 255).clamp(0, 255).to(torch.uint8).numpy()
        plain = re.sub(r":-?[0-9.]+\)|(?<!\\)[()]", "", text).replace("\\", "")
        told = {"negative": negative_text, "seed": 3, "steps": 4, "guidance": 4.0}
        ours, without = (
            generate(base, [prompt], artifacts=[(artifact, 1.0)], **told) for prompt in (text, plain)
        )
        found[name] = [psnr(ours, theirs), psnr(without, theirs)]
    return found


def weights_apart(count: int = 4000) -> list[str]:
    """Texts of brackets, colons and numbers that are read otherwise than by ComfyUI."""
    letters, chosen = ["(", ")", ":", "\\", "1.5", "a", " ", "[", "]", "0", "-", "."], random.Random(0)
    wrong = []
    for _ in range(count):
        text = "".join(chosen.choices(letters, k=chosen.randint(0, 14)))
        parsed = sd1_clip.token_weights(sd1_clip.escape_important(text), 1.0)
        theirs = [(sd1_clip.unescape_important(part), weight) for part, weight in parsed]
        if theirs != weighted(text):
            wrong.append(text)
    return wrong[:5]


def learned_with_stock_nodes(model: Any, clip: Any) -> dict[str, float]:
    """Two steps of ComfyUI's Train LoRA on the Miniature; how far what it learned moves a pass."""
    from comfy_extras.nodes_train import TrainLoraNode

    latents = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))}
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a photo of a woman"))
    before = [weight.clone() for weight in model.model.state_dict().values()]
    given = {
        "batch_size": 1, "steps": 2, "grad_accumulation_steps": 1, "learning_rate": 0.01, "rank": 2,
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32",
        "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": False, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
    }  # fmt: skip
    if hasattr(TrainLoraNode, "define_schema"):
        known = {entry.id for entry in TrainLoraNode.define_schema().inputs}
        told = {name: [value] for name, value in given.items() if name in known}
        found = TrainLoraNode.execute(model=[model], latents=[latents], positive=[positive], **told).args
    else:  # ComfyUI before its third schema
        known = TrainLoraNode.INPUT_TYPES()["required"]
        told = {name: value for name, value in given.items() if name in known}
        found = TrainLoraNode().train(model=model, latents=latents, positive=positive, **told)
    trained = next(part for part in found if isinstance(part, dict) and "loss" not in part)
    ups = [weight for name, weight in trained.items() if name.endswith("lora_up.weight")]
    after = model.model.state_dict().values()
    return {
        "modules": len(ups), "moved": max(weight.abs().max().item() for weight in ups),
        "base moved": max((a - b).abs().max().item() for a, b in zip(before, after)),
    }  # fmt: skip


def trained_in_nodes(loaded: tuple[Any, Any, Any]) -> dict[str, float]:
    """Pictures in a folder, and how often one was decoded: looked at by one node, learned from by another
    that asks for masks and is watched. What is learned where the node says what the MODEL predicts."""
    from likeness_portraits.engine.data import concepts
    from likeness_portraits.engine.evaluation.people import concept_of
    from likeness_portraits.engine.miniature import world
    from likeness_portraits.nodes.concept import LikenessConceptFolder
    from likeness_portraits.nodes.train import LikenessTrainTextualInversion

    for node in (LikenessConceptFolder, LikenessTrainTextualInversion):
        node.hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    place = tempfile.mkdtemp()
    register_folders()
    folder_paths.set_user_directory(f"{place}/user")
    folder_paths.set_temp_directory(f"{place}/temp")
    known = concept_of(world.TUNING_SEEDS[0])
    folder = concepts.write_concept(f"{place}/anna", known)
    read, genuine = [], concepts.read_photograph
    concepts.read_photograph = lambda *told: read.append(told) or genuine(*told)
    spec, *_ = LikenessConceptFolder.execute(str(folder), "woman", "<v0>", "subject").args
    told = (*loaded, spec, "miniature", 1, 0.02, 1, "yes")
    LikenessTrainTextualInversion.execute(*told, seed=0, preview_every=0, stop_by_likeness=1)
    concepts.read_photograph = genuine
    rows = [
        LikenessTrainTextualInversion.execute(*told, seed=0, preview_every=0, prediction=kind).args[0].tensors
        for kind in ("as the MODEL says", "noise", "velocity")
    ]
    plain, noise, velocity = (next(iter(tensors.values())) for tensors in rows)
    return {
        "pictures": len(known.pictures), "decoded": len(read),
        "noise apart": (plain - noise).abs().max().item(),
        "velocity apart": (plain - velocity).abs().max().item(),
    }  # fmt: skip


def main() -> None:
    with torch.inference_mode():
        model, clip, vae = build_miniature()
        facts: dict[str, Any] = {
            "said": mistakes(model, clip),
            "sides": sides(model),
            "learned": learned_with_stock_nodes(model, clip),
            "exported": exported(tempfile.mkdtemp()),
            "exported again": exported_again(tempfile.mkdtemp()),
            "weights": weighted_pictures(model, clip, vae),
            "read otherwise": weights_apart(),
            "trained": trained_in_nodes((model, clip, vae)),
        }
    print(json.dumps(facts))  # noqa: T201 (the answer)


main()
