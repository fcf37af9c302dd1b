"""Run by the Python of a ComfyUI host: do ComfyUI's own classes and the engine's compute the same numbers?

    python same_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE

Prints one JSON object: the largest differences, each over random inputs.
"""

import json
import sys
from typing import Any

checkout, package_parent = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import asyncio  # noqa: E402
import importlib.util  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

import comfy.lora  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.model_sampling  # noqa: E402
import comfy.samplers  # noqa: E402, F401 (ComfyUI's own nodes load it before any pack)
import comfy.sd  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.supported_models_base  # noqa: E402
import comfy.taesd.taesd  # noqa: E402
import comfy.text_encoders.sd2_clip  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
import folder_paths  # noqa: E402
import torch  # noqa: E402


def seconds_to_start() -> float:
    """Processor time of what ComfyUI does with a pack when it starts: import, entry point, schemas."""
    began = time.process_time()
    spec = importlib.util.spec_from_file_location(
        "a_pack", f"{package_parent}/likeness_portraits/__init__.py"
    )
    pack = sys.modules["a_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)

    async def nodes() -> list:
        return await (await pack.comfy_entrypoint()).get_node_list()

    for node in asyncio.run(nodes()):
        node.GET_SCHEMA()
    return time.process_time() - began


HEAVY = ("accelerate", "diffusers", "insightface", "onnxruntime", "peft", "scipy", "transformers", "typer")
THERE = set(sys.modules)
START = seconds_to_start()  # before anything of the engine is imported
LOADED = [name for name in HEAVY if name in sys.modules and name not in THERE]

from seam_pairs import users_apart  # noqa: E402
from tiny_models import fp8_model, tiny_model  # noqa: E402

from likeness_portraits.engine.artifact.lora import adaptable  # noqa: E402
from likeness_portraits.engine.bases.base import BaseModel, load_base  # noqa: E402
from likeness_portraits.engine.bases.denoisers.conditional_unet import LORA_TARGETS  # noqa: E402
from likeness_portraits.engine.bases.loaders.graph import base_from_graph  # noqa: E402
from likeness_portraits.engine.bases.stored import StoredLinear  # noqa: E402
from likeness_portraits.engine.bases.text.clip import ATTENTION as TEXT_ATTENTION  # noqa: E402
from likeness_portraits.engine.comfy_bridge.miniature import build_miniature, miniature_person  # noqa: E402
from likeness_portraits.engine.comfy_bridge.weights import take_weights  # noqa: E402
from likeness_portraits.engine.comfy_bridge.words import with_rows  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.errors import LikenessError  # noqa: E402

PROMPTS = [
    "a photo of a smiling man, wearing a red hoodie, on a beach", "",
    "a (sketch:1.4) of a ((woman)), \\(smiling\\) [in] (a (red:0.6) hoodie:-0.5) BREAK (on a beach",
]  # fmt: skip
RANDOM = torch.Generator().manual_seed(0)


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def text_states(clip: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """States (B, T, D) and pooled vectors (B, P) of the prompts."""
    told = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0] for prompt in PROMPTS]
    return torch.cat([entry[0] for entry in told]), torch.cat([entry[1]["pooled_output"] for entry in told])


@torch.inference_mode()
def differences(loaded: tuple[Any, Any, Any], base: BaseModel, side: int) -> dict[str, float]:
    """ComfyUI's MODEL, CLIP and VAE against the engine's base."""
    model, clip, vae = loaded
    context = base.encode_text(PROMPTS, weights=True)
    states, pooled = text_states(clip)
    noisy = torch.randn(len(PROMPTS), 4, side, side, generator=RANDOM)
    timesteps, more = torch.tensor([1, 500, 999]), {}
    if context.pooled is not None:
        pixels = side * base.pixels_per_latent
        more["y"] = model.model.encode_adm(
            pooled_output=context.pooled,
            width=pixels,
            height=pixels,
            noise=noisy,
            device=noisy.device,
        )
    heard = context.states
    predicted = model.model.diffusion_model(noisy, timesteps.float(), context=heard, **more)
    pixels, _, _ = miniature_person(0, 2)
    latents = vae.encode(pixels)
    return {
        "text": apart(states, heard),
        "pooled": 0.0 if context.pooled is None else apart(pooled, context.pooled),
        "noise": apart(predicted, base.predict(noisy, base.process.times(timesteps), context)),
        "latents": apart(latents, base.encode_pixels(pixels.movedim(-1, 1) * 2 - 1) / base.latent_scale),
        "pictures": apart(  # as IMAGE, in [0, 1]
            vae.decode(latents), base.decode(latents * base.latent_scale).movedim(1, -1) / 2 + 0.5
        ),
    }


@torch.no_grad()
def with_users(loaded: tuple[Any, Any, Any], base: BaseModel, side: int) -> dict[str, float]:
    """The same of passes in whose attention somebody is."""
    model = loaded[0]
    context = base.encode_text(PROMPTS)
    heard = context.states.clone()
    noisy = torch.randn(len(PROMPTS), 4, side, side, generator=RANDOM)
    timesteps, more = torch.full((len(PROMPTS),), 500), {}
    if context.pooled is not None:
        pixels = side * base.pixels_per_latent
        more["y"] = model.model.encode_adm(
            pooled_output=context.pooled, width=pixels, height=pixels, noise=noisy, device=noisy.device
        )

    def theirs(options: dict[str, Any]) -> torch.Tensor:
        network = model.model.diffusion_model
        return network(noisy, timesteps.float(), context=heard, transformer_options=dict(options), **more)

    def ours() -> torch.Tensor:
        return base.predict(noisy, base.process.times(timesteps), context)

    return users_apart(ours, theirs, model, base, heard, (side, side))


def taken_out(loaded: tuple[Any, Any, Any]) -> BaseModel:
    """The base that training gets, as from a node, which ComfyUI runs in inference mode."""
    with torch.inference_mode(), torch.inference_mode(False):
        return base_from_graph(take_weights(*loaded))


def tiny_clip(tokenizer: type, towers: type, widths: dict[str, int]) -> Any:
    """A CLIP with random weights, of a family that ComfyUI knows, its encoders so wide."""
    options: dict[str, Any] = {"dtype": torch.float32}
    for name, width in widths.items():
        options[f"{name}_model_config"] = {
            "num_hidden_layers": 3, "hidden_size": width, "num_attention_heads": 2, "intermediate_size": 64,
            "hidden_act": "quick_gelu" if name == "clip_l" else "gelu", "max_position_embeddings": 77,
            "eos_token_id": 49407,
        }  # fmt: skip
    target = comfy.supported_models_base.ClipTarget(tokenizer, towers)
    clip = comfy.sd.CLIP(target, model_options=options)
    with torch.no_grad():
        for name, weight in clip.cond_stage_model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=RANDOM) * 0.05 + float("norm" in name))
    return clip


def sdxl_clip() -> Any:
    towers = comfy.sdxl_clip.SDXLClipModel
    return tiny_clip(comfy.sdxl_clip.SDXLTokenizer, towers, {"clip_l": 32, "clip_g": 64})


def sd2_clip() -> Any:
    sd2 = comfy.text_encoders.sd2_clip
    return tiny_clip(sd2.SD2Tokenizer, sd2.SD2ClipModel, {"clip_h": 128})


SDXL = {
    "use_linear_in_transformer": True, "num_head_channels": 16, "adm_in_channels": 64 + 6 * 256,
    "context_dim": 96, "num_classes": "sequential", "channel_mult": [1, 2, 2], "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": 2,
}  # fmt: skip


def used_words(clip: Any, base: BaseModel) -> float:
    """A placeholder's learned vectors in ComfyUI's prompts against the engine's."""
    encoders: dict[str, Any] = dict(base.text_encoders.items())
    rows = {
        "<v0>": {
            name: torch.randn(2, encoder.config.hidden_size, generator=RANDOM)
            for name, encoder in encoders.items()
        }
    }
    prompt = "a photo of <v0> on a beach"
    long = "a woman in a red dress, " * 10 + "beside <v0>, " + "on a beach, " * 11 + "<v0> <v0>"
    found = []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        folder_paths.set_temp_directory(folder)
        told = with_rows(clip, rows)
        for text in (prompt, long):
            states, more = told.encode_from_tokens_scheduled(told.tokenize(text))[0]
            context = base.encode_text([text], rows)
            found.append(apart(states, context.states))
            if context.pooled is not None:
                found.append(apart(more["pooled_output"], context.pooled))
    return max(found)


def unknown_layers(model: Any, clip: Any, base: BaseModel) -> list[str]:
    """Names that our LoRA files would have, and ComfyUI's loader would not understand."""
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, known)
    ends = tuple("_" + end.replace(".", "_") for end in (*LORA_TARGETS["transformer"], *TEXT_ATTENTION))
    ours = adaptable(base.unet, list(base.text_encoders.values()))
    return [name for name in ours if name.endswith(ends) and name not in known and "resnets" not in name]


def taesd(scale: float) -> Any:
    """ComfyUI's tiny autoencoder, as Load VAE builds it, with random weights."""
    network = comfy.taesd.taesd.TAESD()
    generator = torch.Generator().manual_seed(4)
    state = {
        name: torch.randn(weight.shape, generator=generator) * 0.05
        for name, weight in network.state_dict().items()
    }
    told = {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(0.0)}
    return comfy.sd.VAE(sd={**state, **told})


@torch.inference_mode()
def through_taesd(model: Any, clip: Any) -> dict[str, float]:
    """How far the engine's latents and pictures are from ComfyUI's through a tiny autoencoder."""
    vae = taesd(model.model.latent_format.scale_factor)
    base = taken_out((model, clip, vae))
    pixels, _, _ = miniature_person(0, 2)
    latents, ours = vae.encode(pixels), base.encode_pixels(pixels.movedim(-1, 1) * 2 - 1)
    return {
        "latents": apart(model.model.process_latent_in(latents), ours),
        "pictures": apart(vae.decode(latents), base.decode(ours).movedim(1, -1) / 2 + 0.5),
        "size": ours.abs().max().item(),
    }


def refused(model: Any, clip: Any, vae: Any) -> str:
    """How a MODEL, CLIP and VAE that cannot be learned on are refused."""
    try:
        taken_out((model, clip, vae))
    except LikenessError as error:
        return str(error)
    return ""


def refusals(model: Any, clip: Any, vae: Any) -> dict[str, str]:
    """What is said to models of other kinds, and to this one with a part missing or wrong."""
    kinds = comfy.supported_models
    narrow = {"use_linear_in_transformer": True, "num_head_channels": 16}
    refiner = tiny_model(kinds.SDXLRefiner, **{**SDXL, "context_dim": 64})
    nine = tiny_model(kinds.SD15, use_linear_in_transformer=False, num_heads=4, in_channels=9)
    edm = model.clone()
    edm.add_object_patch("model_sampling", comfy.model_sampling.ModelSamplingContinuousEDM())
    packed = tiny_model(kinds.SD20, **narrow)
    layer = packed.model.diffusion_model.middle_block[0].in_layers[2]
    layer.weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    small = {"dim": 32, "n_layers": 1, "n_double_layers": 1, "n_heads": 2, "cond_seq_dim": 8, "max_seq": 16}
    aura = kinds.AuraFlow({**small, "global_conddim": 32})
    cpu = torch.device("cpu")
    transformer = comfy.model_patcher.ModelPatcher(aura.get_model({}, "", cpu), cpu, cpu)
    return {
        "refiner": refused(refiner, sdxl_clip(), vae),
        "inpainting": refused(nine, clip, vae),
        "transformer": refused(transformer, clip, vae),
        "quantised": refused(packed, sd2_clip(), vae),
        "levels": refused(edm, clip, vae),
        "no clip": refused(model, None, vae),
        "no vae": refused(model, clip, None),
        "another's taesd": refused(model, clip, taesd(0.13025)),
        "another clip": refused(tiny_model(kinds.SD20, **narrow), clip, vae),
    }


def main() -> None:
    with torch.inference_mode():  # as the executor runs the node
        loaded = build_miniature()
    model, clip, vae = loaded
    headless = load_base(BaseSpec())
    from_graph = taken_out(loaded)
    sd1 = (tiny_model(comfy.supported_models.SD15, use_linear_in_transformer=False, num_heads=4), clip, vae)
    sd2 = (
        tiny_model(comfy.supported_models.SD20, use_linear_in_transformer=True, num_head_channels=16),
        sd2_clip(), vae,
    )  # fmt: skip
    sdxl = (tiny_model(comfy.supported_models.SDXL, **SDXL), sdxl_clip(), vae)
    plain_fp8, scaled_fp8 = ((fp8_model(scaled), clip, vae) for scaled in (False, True))
    used, seam = {}, {}
    for name, parts in (("sd1", sd1), ("sd2", sd2), ("sdxl", sdxl)):
        taken = taken_out(parts)
        used[name] = {
            "words": used_words(parts[1], taken),
            "unknown": unknown_layers(parts[0], parts[1], taken),
        }
        seam[name] = with_users(parts, taken, 8)
    patched = model.clone()
    untouched = from_graph.unet.state_dict()["conv_in.weight"]
    patch = ("diff", (torch.ones_like(untouched),))
    patched.add_patches({"diffusion_model.input_blocks.0.0.weight": patch}, 0.5)
    as_used = taken_out((patched, clip, vae)).unet.state_dict()["conv_in.weight"]
    print(json.dumps({  # noqa: T201 (the answer)
        "start": START,
        "loaded": LOADED,
        "used": used,
        "seam": seam,
        "headless": differences(loaded, headless, 16),
        "taken out": differences(loaded, from_graph, 16),
        "sd1": differences(sd1, taken_out(sd1), 8),
        "sd2": differences(sd2, taken_out(sd2), 8),
        "sdxl": differences(sdxl, taken_out(sdxl), 8),
        "fp8": differences(plain_fp8, taken_out(plain_fp8), 8),
        "scaled fp8": differences(scaled_fp8, taken_out(scaled_fp8), 8),
        "in 8 bits": [
            [isinstance(layer, StoredLinear) for layer in taken_out(parts).unet.modules()
             if isinstance(layer, torch.nn.Linear)] for parts in (plain_fp8, scaled_fp8)
        ],
        "taesd": {"sd1": through_taesd(*sd1[:2]), "sdxl": through_taesd(*sdxl[:2])},
        "schedule": apart(headless.process.alphas_cumprod, from_graph.process.alphas_cumprod),
        "same fingerprint": headless.fingerprint == from_graph.fingerprint,
        "refused": refusals(model, clip, vae),
        "patch of a half": (as_used - untouched).mean().item(),
    }))  # fmt: skip


main()
