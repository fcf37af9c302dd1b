"""Run by the Python of a ComfyUI host: others' LoRAs through ComfyUI's own loader, and through ours.

    python other_loras.py CHECKOUT PARENT_OF_THE_PACKAGE FOLDER [KIT]

FOLDER holds LoRAs for the Miniature (lora_files.py). Prints one JSON object: for each of them what ComfyUI's
loader changes, how far our loader's weights are from its, in the graph and without it, and how far pictures
are apart; and for networks of SD's and SDXL's full shapes, without numbers, which names mean the same layers.
"""

import json
import sys
from pathlib import Path
from typing import Any

checkout, package_parent, folder, *kit = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402
import comfy.lora_convert  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from likeness_portraits.engine.artifact import Artifact, import_file  # noqa: E402
from likeness_portraits.engine.artifact.lora import ldm_paths  # noqa: E402
from likeness_portraits.engine.bases.base import load_base  # noqa: E402
from likeness_portraits.engine.bases.loaders.graph import base_from_graph  # noqa: E402
from likeness_portraits.engine.comfy_bridge.miniature import build_miniature  # noqa: E402
from likeness_portraits.engine.comfy_bridge.sampling import Sampling  # noqa: E402
from likeness_portraits.engine.comfy_bridge.weights import take_weights  # noqa: E402
from likeness_portraits.engine.comfy_bridge.words import apply  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.inference.generate import applied, generate  # noqa: E402

STRENGTH, SEED, STEPS, GUIDANCE = 0.8, 5, 2, 3.0
PROMPT = "a photo of a smiling woman, on a beach"
DRAWN = {"kohya, no alpha", "DoRA", "LoHa", "ours, lokr"}  # the others have the same weights


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first.float() - second.float()).abs().max().item()


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = ((first.astype(float) - second.astype(float)) ** 2).mean()
    return 120.0 if error == 0 else float(10 * np.log10(255**2 / error))


class Bench:
    """The Miniature twice: as ComfyUI builds it, and as the engine does."""

    def __init__(self) -> None:
        self.loaded = build_miniature()
        self.base = load_base(BaseSpec())
        self.plain = self.weights(*self.loaded)
        self.plainly = self.drawn(*self.loaded[:2])

    def weights(self, model: Any, clip: Any, vae: Any) -> dict[str, torch.Tensor]:
        """U-Net's and text encoder's weights as they are drawn with, under diffusers' names."""
        return self.named(base_from_graph(take_weights(model, clip, vae)))

    def named(self, base: Any) -> dict[str, torch.Tensor]:
        (encoder,) = base.text_encoders.values()
        parts = {"unet": base.unet.state_dict(), "text": encoder.state_dict()}
        return {
            f"{part} {name.removeprefix('text_model.')}": weight.clone()
            for part, weights in parts.items()
            for name, weight in weights.items()
            if weight.is_floating_point()
        }

    def drawn(self, model: Any, clip: Any) -> np.ndarray:
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PROMPT, ""))
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        sampling = Sampling(latent, SEED, STEPS, GUIDANCE, "euler", "simple", 1.0, positive, negative)
        picture = self.loaded[2].decode(sampling.draw(model)["samples"])
        return (picture * 255).clamp(0, 255).to(torch.uint8).numpy()

    def without_comfy(self, artifact: Artifact) -> dict[str, torch.Tensor]:
        """The same weights with the LoRA in them, as the command line draws with them."""
        with applied(self.base, [(artifact, STRENGTH)]):
            return self.named(self.base)

    def compared(self, path: Path) -> dict[str, Any]:
        model, clip, vae = self.loaded
        file = comfy.utils.load_torch_file(str(path), safe_load=True)
        stock = comfy.sd.load_lora_for_models(model, clip, file, STRENGTH, STRENGTH)
        artifact = import_file(path)
        ours = apply(model, clip, artifact, STRENGTH, STRENGTH)
        theirs, graph = self.weights(*stock, vae), self.weights(*ours, vae)
        headless = self.without_comfy(artifact)
        return {
            **(self.pictures(artifact, self.drawn(*stock)) if path.stem in DRAWN else {}),
            "changes": len(stock[0].patches) + len(stock[1].patcher.patches),
            "ours changes": len(ours[0].patches) + len(ours[1].patcher.patches),
            "moved": max(apart(theirs[name], self.plain[name]) for name in theirs),
            "graph": max(apart(theirs[name], graph[name]) for name in theirs),
            "graph to headless": max(apart(graph[name], headless[name]) for name in graph),
            "headless": max(apart(theirs[name], headless[name]) for name in theirs),
        }  # fmt: skip

    def pictures(self, artifact: Artifact, shown: np.ndarray) -> dict[str, float]:
        """How near the command line's picture is to ComfyUI's, and to one without the LoRA."""
        drawn = generate(
            self.base, [PROMPT], artifacts=[(artifact, STRENGTH)], seed=SEED, steps=STEPS, guidance=GUIDANCE
        )
        return {"pictures": psnr(drawn, shown), "of the plain one": psnr(drawn, self.plainly)}


# ------------------------------------------------------------------------- full shapes, without numbers

SHAPES: dict[str, tuple[type, dict[str, Any]]] = {
    "sd1": (comfy.supported_models.SD15, {
        "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2] * 4, "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": 768,
        "use_linear_in_transformer": False, "num_heads": 8, "adm_in_channels": None,
    }),
    "sd2": (comfy.supported_models.SD20, {
        "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2] * 4, "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": 1024,
        "use_linear_in_transformer": True, "num_head_channels": 64, "adm_in_channels": None,
    }),
    "sdxl": (comfy.supported_models.SDXL, {
        "channel_mult": [1, 2, 4], "num_res_blocks": [2] * 3, "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
        "context_dim": 2048, "use_linear_in_transformer": True, "num_head_channels": 64,
        "adm_in_channels": 2816, "num_classes": "sequential",
    }),
}  # fmt: skip


def full(family: str) -> Any:
    """A model of full size, whose weights are shapes alone."""
    kind, config = SHAPES[family]
    made = kind({
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "use_spatial_transformer": True, "legacy": False, "use_checkpoint": False,
        "use_temporal_attention": False, "use_temporal_resblock": False, **config,
    })  # fmt: skip
    made.unet_config |= config
    made.set_inference_dtype(torch.float32, None)
    return made.get_model({}, "", device="meta")


def layer_names(model: Any) -> dict[str, Any]:
    """Whether our names in LDM's words are ComfyUI's, for all layers that diffusers' U-Net has."""
    names = comfy.utils.unet_to_diffusers(model.model_config.unet_config)
    theirs = {name.removesuffix(".weight"): ldm.removesuffix(".weight") for name, ldm in names.items()
              if name.endswith(".weight") and "class_embedding" not in name}  # fmt: skip
    ours = ldm_paths(theirs, 2)
    wrong = [name for name in theirs if ours[name] != theirs[name]]
    return {"layers": len(theirs), "wrong": wrong[:3]}


def through(file: dict[str, torch.Tensor], known: dict[str, str]) -> dict[str, Any]:
    return comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(file)), known)


def same_patches(path: Path, known: dict[str, str]) -> dict[str, Any]:
    """What ComfyUI's loader makes of a file, and of what we made of it."""
    file = comfy.utils.load_torch_file(str(path), safe_load=True)
    artifact = import_file(path)
    theirs, ours = through(file, known), through(artifact.lora(), known)
    worst = 0.0
    for key in sorted(theirs.keys() & ours.keys(), key=str)[::5]:  # of each kind some
        up, down = theirs[key].weights[:2]
        weight = torch.zeros(up.shape[0], down[0].numel())
        made = [
            comfy.lora.calculate_weight([(1.0, patches[key], 1.0, None, None)], weight.clone(), key)
            for patches in (theirs, ours)
        ]
        worst = max(worst, apart(*made))
    return {
        "family": artifact.base_family, "theirs": len(theirs), "only one's": len(theirs.keys() ^ ours.keys()),
        "in the file": sum(key.endswith(("up.weight", "lora_B.weight")) for key in file), "apart": worst,
    }  # fmt: skip


def of_sdxl(known: dict[str, str], shapes: dict[str, Any], *fronts: str) -> dict[str, torch.Tensor]:
    """A LoRA of SDXL's keys and queries, of layers whose names begin so."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, key in known.items():
        if not name.startswith(fronts) or not name.endswith(("to_k", "q_proj")):
            continue
        out, inside = shapes[key].shape
        ways = (("down", (2, inside)), ("up", (out, 2)))
        ending = (
            "_lora.{}.weight"
            if ".to_k" in name
            else ".lora_linear_layer.{}.weight"
            if "." in name
            else ".lora_{}.weight"
        )
        tensors |= {name + ending.format(way): torch.randn(shape, generator=generator) for way, shape in ways}
        if "." not in name:
            tensors[f"{name}.alpha"] = torch.tensor(1.0)
    return tensors


def full_shapes(kit_folder: list[str]) -> dict[str, Any]:
    models = {family: full(family) for family in SHAPES}
    found: dict[str, Any] = {"names": {family: layer_names(model) for family, model in models.items()}}
    clips = {
        "sdxl": comfy.sdxl_clip.SDXLClipModel(device="meta", dtype=torch.float32),
        "sd1": comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float32),
    }
    known, shapes = {}, {}
    for family, clip in clips.items():
        known[family] = comfy.lora.model_lora_keys_unet(models[family], {})
        known[family] = comfy.lora.model_lora_keys_clip(clip, known[family])
        shapes[family] = {**models[family].state_dict(), **clip.state_dict()}
    kohya = ("lora_unet_input_blocks", "lora_unet_output_blocks", "lora_unet_middle_block")
    diffusers = ("unet.",)
    fronts = {
        "kohya": (*kohya, "lora_te1_", "lora_te2_"), "kohya, U-Net": kohya,
        "kohya, first encoder": (*kohya, "lora_te1_"), "kohya, second encoder": (*kohya, "lora_te2_"),
        "kohya, encoders": ("lora_te1_", "lora_te2_"),
        "diffusers": (*diffusers, "text_encoder.", "text_encoder_2."),
        "diffusers, first encoder": (*diffusers, "text_encoder."),
        "diffusers, second encoder": (*diffusers, "text_encoder_2."),
    }  # fmt: skip
    for name, begins in fronts.items():
        path = Path(folder) / f"of SDXL: {name}.sft"
        save_file(of_sdxl(known["sdxl"], shapes["sdxl"], *begins), path)
        found[name] = same_patches(path, known["sdxl"])
    for path in (Path(place) / "lora" for place in kit_folder):
        for name in ("diffusers_axe.safetensors", "diffusers_axe.bin"):
            found[name] = same_patches(path / name, known["sd1"])
        found["cloneofsimo"] = numbered(
            path / "cloneofsimo_lora_disney.safetensors", known["sd1"], shapes["sd1"]
        )
    return found


def numbered(path: Path, known: dict[str, str], shapes: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI cannot read modules by number: whether ours are layers of SD 1.5, of the right shapes."""
    artifact = import_file(path)
    patches = through(artifact.lora(), known)
    wrong = [
        key for key, patch in patches.items()
        if (patch.weights[0].shape[0], patch.weights[1].shape[1]) != tuple(shapes[key].shape[:2])
    ]  # fmt: skip
    scales = {patch.weights[2] / patch.weights[1].shape[0] for patch in patches.values()}
    return {
        "family": artifact.base_family, "method": artifact.method, "modules": len(patches),
        "wrong": wrong[:3], "scales": sorted(scales), "words": [token.token for token in artifact.tokens],
    }  # fmt: skip


def main() -> None:
    with torch.inference_mode():
        bench = Bench()
        files = sorted(Path(folder).rglob("*.safetensors")) + sorted(Path(folder).glob("*.bin"))
        layouts = {str(path.relative_to(folder)): bench.compared(path) for path in files}
        facts: dict[str, Any] = {"layouts": layouts, "shapes": full_shapes(kit)}
    print(json.dumps(facts))  # noqa: T201 (the answer)


main()
