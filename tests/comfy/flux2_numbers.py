"""Run by the Python of a ComfyUI host: FLUX.2 in ComfyUI's own classes and in the engine, from the same
files.

    python flux2_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE FOLDER

The files are random and tiny, under the names that people's files have; FOLDER takes them and what is learned
on them. Prints one JSON object; of a host that does not know FLUX.2, what it is refused with.
"""

import json
import sys
from pathlib import Path
from typing import Any

checkout, package_parent, folder = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import logging  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from dataclasses import replace  # noqa: E402

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
from safetensors.torch import save_file  # noqa: E402

from likeness_portraits.engine.artifact import Artifact, Token  # noqa: E402
from likeness_portraits.engine.artifact.other_tools import export_stock, import_file  # noqa: E402
from likeness_portraits.engine.bases.attention import AttentionUser  # noqa: E402
from likeness_portraits.engine.bases.base import BaseModel, load_base  # noqa: E402
from likeness_portraits.engine.bases.denoisers.seam import using  # noqa: E402
from likeness_portraits.engine.bases.loaders.graph import base_from_graph  # noqa: E402
from likeness_portraits.engine.bases.process.flow import flux2_flow  # noqa: E402
from likeness_portraits.engine.bases.sampling import dpmpp_2m, euler, seeded_noise  # noqa: E402
from likeness_portraits.engine.comfy_bridge.identity import apply_identity, people_in  # noqa: E402
from likeness_portraits.engine.comfy_bridge.joint_attention import JointSites  # noqa: E402
from likeness_portraits.engine.comfy_bridge.refocus import Run, refocused_prompt, with_refocus  # noqa: E402
from likeness_portraits.engine.comfy_bridge.weights import take_weights  # noqa: E402
from likeness_portraits.engine.comfy_bridge.words import apply  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.errors import LikenessError  # noqa: E402
from likeness_portraits.engine.identity.adapter import id_adapter  # noqa: E402
from likeness_portraits.engine.identity.conditioning import IdentityConditioning, IdentityTokens  # noqa: E402
from likeness_portraits.engine.inference.generate import applied, generate  # noqa: E402
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Spot, fitted  # noqa: E402
from likeness_portraits.engine.inference.refocused import Refocusing  # noqa: E402
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions  # noqa: E402
from likeness_portraits.engine.staged.text import TextStates  # noqa: E402
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


def transformer_file(path: Path) -> Path:
    """As people have it: Black Forest Labs' names, found out by ComfyUI's own loader."""
    config = comfy.supported_models.Flux2({
        "image_model": "flux2", "axes_dim": [32] * 4, "num_heads": 2, "mlp_ratio": 3.0, "theta": 2000,
        "out_channels": LATENTS, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False,
        "ops_bias": False, "txt_ids_dims": [3], "in_channels": LATENTS, "hidden_size": 256,
        "context_in_dim": 3 * WIDTH, "patch_size": 1, "vec_in_dim": None, "depth": 1,
        "depth_single_blocks": 2, "guidance_embed": False,
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


# ---------------------------------------------------------------------------------------------------- regions

TOGETHER = "Anna and Ben on a beach"
FOCUSES = [  # one with a prompt of its own, one word that keeps to a mask
    Focus(token="Anna", region=(0.0, 0.0, 0.5, 1.0), own_prompt="Anna on a beach"),
    Focus(token="Ben", region=(torch.arange(8) > 3).float().expand(1, 8, 8), scope="word", strength=0.8),
]


class Louder(AttentionUser):
    """What a foreign patch does, without ComfyUI."""

    def before(self, site: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
        return q, k, v * 1.3, bias

    def after(self, site: Any, q: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out * 0.9


def foreign(options: dict[str, Any], before: bool) -> dict[str, Any]:
    """The options with another pack's patches before those that are there, or after."""

    def louder(q: Any, k: Any, v: Any, pe: Any = None, attn_mask: Any = None, extra_options: Any = None):
        assert extra_options["img_slice"][0] >= 512
        return {"v": v * 1.3}

    def softer(out: torch.Tensor, extra_options: Any) -> torch.Tensor:
        return out * 0.9

    patches = dict(options.get("patches", {}))
    for name, patch in (("attn1_patch", louder), ("attn1_output_patch", softer)):
        there = patches.get(name, [])
        patches[name] = [patch, *there] if before else [*there, patch]
    return {**options, "patches": patches}


@torch.inference_mode()
def passes_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    """One pass of two prompts, the first without regions, here and there, with other packs' patches."""
    network, found = loaded[0].model.diffusion_model, {}
    noisy, times = torch.randn(2, LATENTS, 8, 8, generator=RANDOM), torch.tensor([0.6, 0.6])
    context = base.encode_text(["a dog", TOGETHER])
    own = base.encode_text(["Anna on a beach"]).states
    spots = [Spot(FOCUSES[0], (3,), (3,), own.shape[1]), Spot(FOCUSES[1], (5, 6))]
    regions = [fitted(spot.focus.region, (8, 8), 1, "") for spot in spots]  # type: ignore[arg-type]
    prompt = FocusedPrompt(LogMasks(spots, regions), context.length, [TextStates(own, own)])

    def user() -> Regions:
        return Regions([(1, None), (1, prompt)], 0.5, {})

    def ours(*others: AttentionUser) -> torch.Tensor:
        with ExitStack() as stack:
            for other in others:
                stack.enter_context(using(base.network, "values", other))
            stack.enter_context(using(base.network, "regions", user()))
            return base.predict(noisy, times, context)

    def theirs(before: dict[str, Any], after: bool = False) -> torch.Tensor:
        options = JointSites().with_user(before, network, "regions", user())
        options = foreign(options, before=False) if after else options
        return network(noisy, times, context=context.states, transformer_options=options)

    found["regions"] = apart(ours(), theirs({}))
    found["after another"] = apart(ours(Louder()), theirs(foreign({}, before=True)))
    found["before another"] = apart(ours(Louder()), theirs({}, after=True))
    plain = base.predict(noisy, times, context)
    found["seen"] = apart(ours()[1], plain[1])
    found["seen by a prompt without"] = apart(ours()[0], plain[0])
    found["seen of the other"] = apart(ours(Louder()), ours())
    return found


@torch.inference_mode()
def regions_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, Any]:
    """Pictures and where words looked, by our nodes' functions and by generate."""
    model, clip, vae = loaded
    maps: list[torch.Tensor] = []
    mine = generate(
        base, [TOGETHER], steps=6, guidance=4.0, seed=5, width=32, height=32,
        refocus=Refocusing(focuses=FOCUSES, on_maps=lambda _group, seen, *_rest: maps.append(seen)),
    )  # fmt: skip
    patched, positive = model, None
    for focus in FOCUSES:
        patched, positive = refocused_prompt(patched, clip, TOGETHER, focus, conditioning=positive)
    before, run = sampled(model, clip, said(clip, TOGETHER)), Run(record=True)
    drawn = sampled(with_refocus(patched, run), clip, positive)
    seen = torch.cat([one.mean() for one in run.maps.values()], 1)  # type: ignore[misc]
    neutral = model, None
    for focus in FOCUSES:
        off = replace(focus, strength=0.0, scope="word", own_prompt=None)
        neutral = refocused_prompt(neutral[0], clip, TOGETHER, off, conditioning=neutral[1])
    return {
        "pictures": min(psnr(mine[0], pixels_of(vae, drawn)), 99.0),
        "maps": apart(seen, maps[0]), "maps' size": maps[0].max().item(),
        "seen": apart(drawn, before),
        "neutral": apart(sampled(neutral[0], clip, neutral[1]), before),
        "afterwards": apart(sampled(patched, clip, said(clip, TOGETHER)), before),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- people


@torch.inference_mode()
def people_alike(loaded: tuple[Any, Any, Any], base: BaseModel, artifact: Artifact) -> dict[str, float]:
    """Pictures of two people in regions, one of them at some steps only, by our node's function and by
    generate; beside words kept in regions, and other packs' patches."""
    model, clip, vae = loaded
    adapter, tokens = id_adapter(artifact), artifact.tensors["identity.v0"][None]
    nobody = artifact.tensors["identity_nobody"][None]
    left = (torch.arange(8) < 4).float().expand(8, 8)
    somebody = [
        IdentityTokens(adapter=adapter, tokens=one, nobody=nobody) for one in (tokens, 1 - 2 * tokens)
    ]
    how = [{"weight": 3.0, "end": 0.6}, {"weight": 2.0, "start": 0.1}]
    shown = [IdentityConditioning(identity=one, region=where, **told)
             for one, where, told in zip(somebody, (left, 1 - left), how)]  # fmt: skip
    patched = model
    for one, where, told in zip(somebody, (left, 1 - left), how):
        patched = apply_identity(patched, one, mask=where[None], **told)
    prompt, plain = said(clip, TOGETHER), sampled(model, clip, said(clip, TOGETHER))
    found = {"learned on": float(len(people_in(patched)))}

    def mine(**more: Any) -> np.ndarray:
        size = {"width": 32, "height": 32}
        return generate(base, [TOGETHER], steps=6, guidance=4.0, seed=5, people=shown, **size, **more)[0]

    theirs = sampled(patched, clip, prompt)
    found["pictures"] = min(psnr(mine(), pixels_of(vae, theirs)), 99.0)
    found["seen"] = apart(theirs, plain)
    both, positive = patched, None
    for focus in FOCUSES:
        both, positive = refocused_prompt(both, clip, TOGETHER, focus, conditioning=positive)
    drawn = pixels_of(vae, sampled(both, clip, positive))
    found["beside regions"] = min(psnr(mine(refocus=Refocusing(focuses=FOCUSES)), drawn), 99.0)
    neutral = apply_identity(apply_identity(model, somebody[0], weight=0.0), somebody[1], weight=0.0)
    found["neutral"] = apart(sampled(neutral, clip, prompt), plain)
    found["afterwards"] = apart(sampled(model, clip, prompt), plain)
    other = model.clone()  # with other packs' patches, which are heard
    other.model_options["transformer_options"] = foreign(model.model_options["transformer_options"], True)
    once = apply_identity(other, somebody[0], weight=3.0)
    with using(base.network, "values", Louder()):
        alone = IdentityConditioning(identity=somebody[0], weight=3.0)
        picture = generate(
            base, [TOGETHER], steps=6, guidance=4.0, seed=5, people=[alone], width=32, height=32
        )[0]
    found["foreign"] = min(psnr(picture, pixels_of(vae, sampled(once, clip, prompt))), 99.0)
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


def main() -> dict[str, Any]:
    found: dict[str, Any] = {"process": process_apart()}
    folder_paths.set_temp_directory(str(FOLDER / "temp"))
    (FOLDER / "embeddings").mkdir(exist_ok=True)
    clip, vae = tiny_clip(), tiny_vae()
    spec = written(clip, vae)
    model = comfy.sd.load_diffusion_model(spec.path, model_options={"dtype": torch.float32})
    loaded = (model, clip, vae)
    base = load_base(spec)
    found["files"] = differences(loaded, base)
    found["drawn"] = drawn_alike(loaded, base)
    with torch.inference_mode(), torch.inference_mode(False):
        graph = base_from_graph(take_weights(*loaded))
    found["graph"] = differences(loaded, graph)
    found["same fingerprint"] = graph.fingerprint == base.fingerprint
    found["layouts"] = layouts(loaded, base)
    found["passes"], found["regions"] = passes_alike(loaded, base), regions_alike(loaded, base)
    write_person(FOLDER / "person")
    found["used"] = {name: used(loaded, graph, learned(name, graph))
                     for name in ("textual-inversion", "dreambooth-lora")}  # fmt: skip
    found["people"] = people_alike(loaded, graph, learned("masterweaver", graph))
    return found


print(json.dumps(main()))  # noqa: T201 (the answer)
