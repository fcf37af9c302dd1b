"""Run by the Python of a ComfyUI host: FLUX.2 in ComfyUI's own classes and in the engine, from the same
files.

    python flux2_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE FOLDER

The files are random and tiny, under the names that people's files have; FOLDER takes them and what is learned
on them. Prints one JSON object; of a host that does not know FLUX.2, what it is refused with.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

checkout, package_parent, folder = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import logging  # noqa: E402

import comfy.k_diffusion.sampling  # noqa: E402
import comfy.model_sampling  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.supported_models_base  # noqa: E402
import comfy.text_encoders.flux  # noqa: E402
import comfy.utils  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from likeness_portraits.engine.artifact import Artifact, Token  # noqa: E402
from likeness_portraits.engine.artifact.other_tools import export_stock, import_file  # noqa: E402
from likeness_portraits.engine.bases.base import BaseModel, load_base  # noqa: E402
from likeness_portraits.engine.bases.loaders.graph import base_from_graph  # noqa: E402
from likeness_portraits.engine.bases.process.flow import flux2_flow  # noqa: E402
from likeness_portraits.engine.bases.sampling import dpmpp_2m, euler, seeded_noise  # noqa: E402
from likeness_portraits.engine.bases.stored import StoredLinear  # noqa: E402
from likeness_portraits.engine.comfy_bridge.weights import take_weights  # noqa: E402
from likeness_portraits.engine.comfy_bridge.words import apply  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.errors import LikenessError  # noqa: E402
from likeness_portraits.engine.inference.generate import applied, generate  # noqa: E402
from likeness_portraits.engine.training.launch import train  # noqa: E402
from likeness_portraits.tests.comfy.hosts import psnr  # noqa: E402
from likeness_portraits.tests.engine import flux2_loras  # noqa: E402
from likeness_portraits.tests.engine.tiny import tiny_job, write_person  # noqa: E402
from likeness_portraits.tests.engine.tiny_flux2 import bfl_names  # noqa: E402

RANDOM = torch.Generator().manual_seed(0)
FOLDER = Path(folder)


def refused() -> str:
    """What is said of words for FLUX.2 on a host that has none."""
    words = {"token.v0.qwen3_4b": torch.zeros(1, 2560)}
    likeness = Artifact(
        kind="embedding", method="test", base_family="flux2", tokens=(Token(token="<v0>"),), tensors=words
    )
    try:
        apply(None, None, likeness, 1.0, 1.0)
    except LikenessError as error:
        return str(error)
    return ""


if not hasattr(comfy.supported_models, "Flux2"):
    print(json.dumps({"refused": refused()}))  # noqa: T201 (the answer)
    sys.exit()

WIDTH, LATENTS = 32, 128
PROMPTS = ["a photo of a man,  (smiling:1.3)\non a beach \\(by day\\)", ""]
LAYERS, TAPS = 5, [1, 2, 3]


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first.float() - second.float()).abs().max().item()


def randomised(module: torch.nn.Module, size: float = 0.08) -> torch.nn.Module:
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=RANDOM) * size + float("norm" in name))
    return module


# ---------------------------------------------------------------------------------------------------- process


def process_apart() -> dict[str, float]:
    """Levels, samplers and what noise does to latents against ComfyUI's own functions."""

    class Sampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
        pass

    theirs, ours, found = Sampling(comfy.supported_models.Flux2({"hidden_size": 256})), flux2_flow(), {}
    for name in ("simple", "karras"):
        found[name] = max(
            apart(comfy.samplers.calculate_sigmas(theirs, name, steps), ours.sigmas(steps, name))
            for steps in (4, 7, 20)
        )
    from comfy_extras.nodes_flux import Flux2Scheduler

    found["own"] = max(
        apart(Flux2Scheduler.execute(steps, 16 * w, 16 * h)[0], ours.sigmas(steps, "own", h * w))
        for steps, h, w in ((4, 64, 64), (20, 48, 32), (9, 72, 64))
    )
    x, start = torch.randn(2, 4, 3, 3, generator=RANDOM), torch.randn(2, 4, 3, 3, generator=RANDOM)
    output, level = torch.randn(2, 4, 3, 3, generator=RANDOM), torch.tensor(0.7)
    found["begin"] = apart(theirs.noise_scaling(level, x, start), ours.begin(x, start, level))
    found["denoised"] = apart(theirs.calculate_denoised(level, output, x), ours.denoised(x, output, level))
    found["progress"] = max(
        abs(float(theirs.percent_to_sigma(share)) - share_level)
        for share in (0.2, 0.5, 0.9)
        for share_level in [ours.shifted(torch.tensor(1 - share)).item()]
    )

    def bent(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * 1.3 - 0.2) * (1 - sigma.view(-1)[0] / 2)

    levels = ours.sigmas(7, "simple")
    sampling = comfy.k_diffusion.sampling
    for mine, their in ((euler, sampling.sample_euler), (dpmpp_2m, sampling.sample_dpmpp_2m)):
        got = mine(bent, x, levels, lambda done, total: None)
        found[mine.__name__] = apart(got, their(bent, x, levels, disable=True))
    return found


# ------------------------------------------------------------------------------------------------------ files


class TinyQwen(comfy.text_encoders.flux.Qwen3_4BModel):
    """Qwen3 of a few layers; ComfyUI tells text encoders by their width, so this one is put in by hand."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "layer": TAPS})


def tiny_clip() -> Any:
    flux = comfy.text_encoders.flux
    target = comfy.supported_models_base.ClipTarget(flux.KleinTokenizer, flux.klein_te(model_type="qwen3_4b"))
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "intermediate_size": 64,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    options = {"dtype": torch.float32, "qwen3_4b_class": TinyQwen, "qwen3_4b_model_config": sizes}
    clip = comfy.sd.CLIP(target, embedding_directory=[str(FOLDER / "embeddings")], model_options=options)
    randomised(clip.cond_stage_model)
    return clip


def tiny_vae() -> Any:
    """ComfyUI's own autoencoder for FLUX.2, but for its widths, which it holds at their full size."""
    shape = {"double_z": True, "z_channels": 32, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
             "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
             "batch_norm_latent": True}  # fmt: skip
    params = {"ddconfig": shape, "embed_dim": 32}
    made = comfy.ldm.models.autoencoder.AutoencoderKL(**params)
    randomised(made, 0.035)  # pixels between black and white
    made.bn.running_mean.normal_(0, 0.2, generator=RANDOM)
    made.bn.running_var.uniform_(0.5, 1.5, generator=RANDOM)
    vae = comfy.sd.VAE(sd=made.state_dict(), config={"params": params}, dtype=torch.float32)
    vae.downscale_ratio = vae.upscale_ratio = 4
    vae.latent_channels = LATENTS
    return vae


def transformer_file(path: Path, guided: bool = False) -> Path:
    """As people have it: Black Forest Labs' names, found out by ComfyUI's own loader; dev's is `guided`."""
    config = comfy.supported_models.Flux2({
        "image_model": "flux2", "axes_dim": [32] * 4, "num_heads": 2, "mlp_ratio": 3.0, "theta": 2000,
        "out_channels": LATENTS, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False,
        "ops_bias": False, "txt_ids_dims": [3], "in_channels": LATENTS, "hidden_size": 256,
        "context_in_dim": 3 * WIDTH, "patch_size": 1, "vec_in_dim": None, "depth": 1,
        "depth_single_blocks": 2, "guidance_embed": guided,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    network = randomised(config.get_model({}, "", device="cpu").diffusion_model)
    state = {
        key[: -len("weight")] + "scale" if key.endswith("_norm.weight") else key: value.clone()
        for key, value in network.state_dict().items()
    }
    save_file(state, path)
    return path


def written(clip: Any, vae: Any) -> BaseSpec:
    """The single files on disk, and how the engine is told of them."""
    front = "qwen3_4b.transformer."
    text = {key.removeprefix(front): value.contiguous() for key, value in clip.get_sd().items()
            if key.startswith(front)}  # fmt: skip
    save_file(text, FOLDER / "qwen_3_4b.safetensors")
    save_file(
        {key: value.contiguous() for key, value in vae.get_sd().items()}, FOLDER / "flux2-vae.safetensors"
    )
    return BaseSpec.parse(
        str(transformer_file(FOLDER / "flux-2-klein-base.safetensors")),
        vae=str(FOLDER / "flux2-vae.safetensors"), clip=str(FOLDER / "qwen_3_4b.safetensors"),
        tokenizer=f"{checkout}/comfy/text_encoders/qwen25_tokenizer",
    )  # fmt: skip


def refused_on_dev(clip: Any) -> str:
    """What is said of a LoRA without words, learned on Klein, where it is put on FLUX.2 dev."""
    layer = "transformer.single_transformer_blocks.0.attn.to_out"
    tensors = {f"{layer}.lora_A.weight": torch.zeros(1, 1024), f"{layer}.lora_B.weight": torch.zeros(256, 1),
               f"{layer}.alpha": torch.tensor(1.0)}  # fmt: skip
    model = comfy.sd.load_diffusion_model(
        str(transformer_file(FOLDER / "flux2-dev.safetensors", guided=True))
    )
    try:
        apply(
            model, clip, Artifact(kind="lora", method="test", base_family="flux2", tensors=tensors), 1.0, 1.0
        )
    except LikenessError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------------------------------------------- numbers


def heard(clip: Any, prompt: str) -> torch.Tensor:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0]


@torch.inference_mode()
def differences(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    model, clip, vae = loaded
    context = base.encode_text(PROMPTS, weights=True)
    states = torch.cat([heard(clip, prompt) for prompt in PROMPTS])
    noisy, times = torch.randn(2, LATENTS, 6, 8, generator=RANDOM), torch.tensor([0.2, 0.9])
    theirs = model.model.diffusion_model(noisy, times, context=context.states)
    ours = base.predict(noisy, times, context)
    pixels = torch.rand(1, 24, 32, 3, generator=RANDOM)
    latents = vae.encode(pixels)
    return {
        "text": apart(states, context.states), "text size": states.abs().max().item(),
        "velocity": apart(theirs, ours), "velocity size": ours.abs().max().item(),
        "pictures spread": vae.decode(latents).std().item(),
        "latents": apart(latents, base.encode_pixels(pixels.movedim(-1, 1) * 2 - 1)),
        "pictures": apart(vae.decode(latents), base.decode(latents).movedim(1, -1) / 2 + 0.5),
    }  # fmt: skip


@torch.inference_mode()
def comfy_picture(loaded: tuple[Any, Any, Any], prompt: str, guidance: float, sampler: str) -> np.ndarray:
    """(32, 32, 3) uint8 as KSampler, VAE Decode and Save Image make it."""
    model, clip, vae = loaded
    return pixels_of(vae, sampled(model, clip, said(clip, prompt), guidance, sampler))


def said(clip: Any, prompt: str) -> list[list[Any]]:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def sampled(
    model: Any, clip: Any, positive: Any, guidance: float = 4.0, sampler: str = "euler"
) -> torch.Tensor:
    return comfy.sample.sample(
        model, seeded_noise([5], (LATENTS, 8, 8)), 6, guidance, sampler, "simple", positive, said(clip, ""),
        torch.zeros(1, LATENTS, 8, 8), seed=5, disable_pbar=True,
    )  # fmt: skip


def pixels_of(vae: Any, latents: torch.Tensor) -> np.ndarray:
    return (vae.decode(latents)[0] * 255).clamp(0, 255).to(torch.uint8).numpy()


def drawn_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    found = {}
    for guidance, sampler in ((1.0, "euler"), (4.0, "dpmpp_2m")):
        mine = generate(
            base, ["a man"], steps=6, guidance=guidance, seed=5, sampler=sampler, width=32, height=32
        )
        theirs = comfy_picture(loaded, "a man", guidance, sampler)
        found[sampler], found[f"{sampler} spread"] = min(psnr(mine[0], theirs), 99.0), float(theirs.std())
    return found


class Heard(logging.Handler):
    """What ComfyUI says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def learned(method: str, base: BaseModel) -> Artifact:
    return Artifact.load(train(tiny_job(method, FOLDER, method, resolution=32), base=base))


@torch.inference_mode()
def used(loaded: tuple[Any, Any, Any], base: BaseModel, artifact: Artifact) -> dict[str, Any]:
    """What was learned in the engine, by Apply Likeness, and by ComfyUI's own loaders from exported files."""
    model, clip, _ = loaded
    said = Heard()
    logging.getLogger().addHandler(said)
    noisy, time = torch.randn(1, LATENTS, 8, 8, generator=RANDOM), torch.tensor([0.6])
    with applied(base, [(artifact, 1.0)]) as rows:
        context = base.encode_text(["a photo of <v0>, smiling"], rows, weights=True)
        ours = base.predict(noisy, time, context)
    plain = base.predict(noisy, time, context)
    told = dict(zip(("model", "clip"), apply(model, clip, artifact, 1.0, 1.0)))
    found = {
        "words": apart(heard(told["clip"], "a photo of <v0>, smiling"), context.states),
        "velocity": apart(velocity(told["model"], noisy, time, context.states), ours),
        "seen": apart(plain, ours),
    }
    files = export_stock(artifact, FOLDER / "embeddings", "a lora")
    names = {path.stem: path for path in files}
    if "a lora" in names:
        lora = comfy.utils.load_torch_file(str(names["a lora"]))
        stock_model, clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
        found["exported velocity"] = apart(velocity(stock_model, noisy, time, context.states), ours)
        found["layers"] = len({key.rsplit(".lora_", 1)[0] for key in lora if ".lora_A" in key})
        comfy.sd.load_lora_for_models(model, clip, {"transformer.nowhere.alpha": torch.ones(())}, 1.0, 1.0)
        found["hears"] = any("nowhere" in line for line in said.lines)
    found["exported words"] = apart(heard(clip, "a photo of embedding:v0, smiling"), context.states)
    logging.getLogger().removeHandler(said)
    said_of = [line for line in said.lines if "nowhere" not in line]
    found["not loaded"] = [line for line in said_of if "not loaded" in line.lower() or "embedding" in line]
    return found


def velocity(model: Any, noisy: torch.Tensor, time: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Of the MODEL with its patches; afterwards its weights are its own again."""
    model.patch_model()
    try:
        return model.model.diffusion_model(noisy, time, context=states)
    finally:
        model.unpatch_model()


@torch.inference_mode()
def layouts(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, dict[str, float]]:
    """Others' LoRAs by ComfyUI's own loader, by Apply Likeness, and without ComfyUI: changed weights."""
    model, clip, _ = loaded
    state = {key: value.clone() for key, value in base.network.state_dict().items()}
    plain, found = weights(model), {}
    for name, tensors in flux2_loras.every_layout(state, all_layers=False).items():
        path = FOLDER / "a layout.safetensors"
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path)
        lora, artifact = comfy.utils.load_torch_file(str(path)), import_file(path)
        theirs = weights(comfy.sd.load_lora_for_models(model, clip, lora, 0.7, 0.7)[0])
        graph = weights(apply(model, clip, artifact, 0.7, 0.7)[0])
        with applied(base, [(artifact, 0.7)]):
            ours = bfl_names(dict(base.network.state_dict()))
        moved = {key for key in plain if apart(plain[key], theirs[key]) > 0.01}
        found[name] = {
            "layers": len(moved),
            "graph": max(apart(graph[key], theirs[key]) for key in plain),
            "engine": max(apart(ours[_in_files(key)], theirs[key]) for key in plain),
            "graph to engine": max(apart(graph[key], ours[_in_files(key)]) for key in plain),
            "moved by us": max(apart(graph[key], plain[key]) for key in plain),
        }
    return found


def weights(model: Any) -> dict[str, torch.Tensor]:
    """The transformer's as they are drawn with, with the MODEL's patches; it is its own again afterwards."""
    model.patch_model()
    try:
        return {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    finally:
        model.unpatch_model()


def _in_files(key: str) -> str:
    return key[: -len("weight")] + "scale" if key.endswith("_norm.weight") else key


def both() -> tuple[tuple[Any, Any, Any], BaseModel]:
    """MODEL, CLIP and VAE, and the engine's base, from the same files."""
    folder_paths.set_temp_directory(str(FOLDER / "temp"))
    (FOLDER / "embeddings").mkdir(exist_ok=True)
    clip, vae = tiny_clip(), tiny_vae()
    spec = written(clip, vae)
    model = comfy.sd.load_diffusion_model(spec.path, model_options={"dtype": torch.float32})
    return (model, clip, vae), load_base(spec)


def in_eight_bits(spec: BaseSpec, clip: Any, vae: Any) -> dict[str, Any]:
    """A transformer in fp8 and int8, as ComfyUI loads it and as the engine reads the file: whether both hold
    the same numbers, and what of the layers is kept in 8 bits, bytes too."""
    state = {key: value.bfloat16() for key, value in load_file(spec.path or "").items()}
    found = {}
    for how in ("plain fp8", "float8_e4m3fn", "int8_tensorwise"):
        path = FOLDER / f"klein-base-{how.replace(' ', '-')}.safetensors"
        save_file(dict(part for key, value in state.items() for part in parts_of(key, value, how)), path)
        told = {"dtype": torch.float8_e4m3fn} if how == "plain fp8" else {}  # as the loader's weight_dtype
        model = comfy.sd.load_diffusion_model(str(path), model_options=told)
        with torch.inference_mode(), torch.inference_mode(False):
            graph = base_from_graph(take_weights(model, clip, vae)).network
        ours = load_base(replace(spec, path=str(path))).network
        theirs, ours_too = graph.state_dict(), ours.state_dict()
        layers = [layer for layer in graph.modules() if isinstance(layer, StoredLinear)]
        found[how] = {
            "same": theirs.keys() == ours_too.keys()
            and all(torch.equal(theirs[key], ours_too[key]) for key in theirs),
            "layers": len(layers),
            "of": sum(isinstance(layer, torch.nn.Linear) for layer in graph.modules()),
            "kinds": sorted({str(layer.stored.dtype) for layer in layers}),
            "bytes": sum(weight.nbytes for weight in graph.parameters()),
            "in bf16": 2 * sum(weight.numel() for weight in graph.parameters()),
        }
    return found


def parts_of(key: str, value: torch.Tensor, how: str) -> list[tuple[str, torch.Tensor]]:
    """A tensor as a file in 8 bits has it, by name: layers alone, but all where fp8 is plain."""
    layer, _, part = key.rpartition(".")
    if how == "plain fp8":
        return [(key, value.to(torch.float8_e4m3fn))]
    if part != "weight" or value.ndim != 2:
        return [(key, value)]
    whole = value.float()
    told = torch.tensor(list(json.dumps({"format": how}).encode()), dtype=torch.uint8)
    if how == "int8_tensorwise":
        scale = whole.abs().amax(1, keepdim=True) / 127
        stored = (whole / scale).round().to(torch.int8)
    else:
        scale = whole.abs().max() / 448
        stored = (whole / scale).to(torch.float8_e4m3fn)
    return [(key, stored), (f"{layer}.weight_scale", scale), (f"{layer}.comfy_quant", told)]


def main() -> dict[str, Any]:
    found: dict[str, Any] = {"process": process_apart()}
    loaded, base = both()
    found["files"] = differences(loaded, base)
    found["drawn"] = drawn_alike(loaded, base)
    with torch.inference_mode(), torch.inference_mode(False):
        graph = base_from_graph(take_weights(*loaded))
    found["graph"] = differences(loaded, graph)
    found["same fingerprint"] = graph.fingerprint == base.fingerprint
    found["layouts"], found["dev"] = layouts(loaded, base), refused_on_dev(loaded[1])
    found["in 8 bits"] = in_eight_bits(written(*loaded[1:]), *loaded[1:])
    write_person(FOLDER / "person")
    found["used"] = {name: used(loaded, graph, learned(name, graph))
                     for name in ("textual-inversion", "dreambooth-lora")}  # fmt: skip
    return found


if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201 (the answer)
