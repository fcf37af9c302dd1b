"""Run by the Python of a ComfyUI host: Z-Image in ComfyUI's own classes and in the engine, from the same
files.

    python z_image_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE FOLDER

The files are random and tiny, under the names that people's files have; FOLDER takes them and what is learned
on them. Prints one JSON object; of a host that does not know Z-Image, what it is refused with.
"""

import json
import sys
from dataclasses import replace
from typing import Any

# it starts ComfyUI, and so comes before all that needs it
from flux2_numbers import (
    FOLDER,
    LAYERS,
    RANDOM,
    WIDTH,
    Heard,
    apart,
    checkout,
    heard,
    pixels_of,
    randomised,
    said,
)

# isort: split
import logging

import comfy.ldm.lumina.model
import comfy.ldm.models.autoencoder
import comfy.sample
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import folder_paths
import numpy as np
import torch
from safetensors.torch import save_file

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.artifact.other_tools import export_stock
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.loaders.graph import base_from_graph
from likeness_portraits.engine.bases.sampling import seeded_noise
from likeness_portraits.engine.comfy_bridge.identity import apply_identity, people_in
from likeness_portraits.engine.comfy_bridge.refocus import Run, refocused_prompt, with_refocus
from likeness_portraits.engine.comfy_bridge.staged import staged_prompt
from likeness_portraits.engine.comfy_bridge.staged_joint import OFFSETS
from likeness_portraits.engine.comfy_bridge.weights import take_weights
from likeness_portraits.engine.comfy_bridge.words import apply
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.adapter import id_adapter
from likeness_portraits.engine.identity.conditioning import IdentityConditioning, IdentityTokens
from likeness_portraits.engine.inference.generate import applied, generate
from likeness_portraits.engine.inference.refocus import Focus
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.engine.staged.embedding import staged_words
from likeness_portraits.engine.staged.stages import StagePlan
from likeness_portraits.engine.staged.words import StagedModel
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.comfy.hosts import psnr
from likeness_portraits.tests.engine.tiny import staged_person, tiny_job, write_person

if not hasattr(comfy.supported_models, "ZImage"):
    words = Artifact(
        kind="embedding", method="test", base_family="z_image", tokens=(Token(token="<v0>"),),
        tensors={"token.v0.qwen3_4b": torch.zeros(1, 2560)},
    )  # fmt: skip
    try:
        apply(None, None, words, 1.0, 1.0)
    except LikenessError as error:
        print(json.dumps({"refused": str(error)}))  # noqa: T201 (the answer)
    sys.exit()

DIM, HEADS, LATENTS, SIDE = (
    288,
    6,
    16,
    8,
)  # six heads of 48: as wide as ComfyUI's feed-forward rounds to itself
LONG = "a photo of a man,  (smiling:1.3)\non a beach \\(by day\\), with a hat and a coat and a dog and a boat"
PROMPTS = [LONG, ""]
TOGETHER = "Anna and Ben on a beach"
OWN = "Anna on a beach, with a hat and a coat and a dog and a boat and a house and a tree and a bird"


# ------------------------------------------------------------------------------------------------------ files


def of_tiny_sizes() -> None:
    """ComfyUI knows Z-Image by its width, and holds the rest at full size; everything else is ComfyUI's."""
    kind, network = comfy.supported_models.ZImage, comfy.ldm.lumina.model
    kind.unet_config = {"image_model": "lumina2", "dim": DIM}
    kind.unet_extra_config = {
        "n_heads": HEADS, "n_kv_heads": HEADS, "axes_dims": [12, 18, 18], "axes_lens": [1536, 512, 512],
        "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0, "z_image_modulation": True,
        "time_scale": 1000.0, "pad_tokens_multiple": 32, "n_refiner_layers": 1,
    }  # fmt: skip
    usual = network.TimestepEmbedder
    network.TimestepEmbedder = lambda _width, **options: usual(1024, **options)  # as wide as the real one's


def tiny_clip() -> Any:
    z_image = comfy.text_encoders.z_image
    target = comfy.supported_models_base.ClipTarget(z_image.ZImageTokenizer, z_image.te())
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "intermediate_size": 64,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    options = {"dtype": torch.float32, "qwen3_4b_model_config": sizes}
    clip = comfy.sd.CLIP(target, embedding_directory=[str(FOLDER / "embeddings")], model_options=options)
    randomised(clip.cond_stage_model)
    return clip


def tiny_vae() -> Any:
    """ComfyUI's own autoencoder for FLUX.1, but for its widths, which it holds at their full size."""
    shape = {"double_z": True, "z_channels": LATENTS, "resolution": 32, "in_channels": 3, "out_ch": 3,
             "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [],
             "dropout": 0.0}  # fmt: skip
    params = {"ddconfig": shape, "embed_dim": LATENTS}
    made = comfy.ldm.models.autoencoder.AutoencoderKL(**params)
    randomised(made, 0.035)  # pixels between black and white
    vae = comfy.sd.VAE(sd=made.state_dict(), config={"params": params}, dtype=torch.float32)
    vae.downscale_ratio = vae.upscale_ratio = 2
    vae.latent_channels = LATENTS
    return vae


def written(clip: Any, vae: Any) -> BaseSpec:
    """The single files on disk, and how the engine is told of them."""
    config = comfy.supported_models.ZImage({
        "image_model": "lumina2", "dim": DIM, "patch_size": 2, "in_channels": LATENTS, "cap_feat_dim": WIDTH,
        "n_layers": 2, "qk_norm": True,
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    network = randomised(config.get_model({}, "", device="cpu").diffusion_model, 0.06)
    front = "qwen3_4b.transformer."
    text = {key.removeprefix(front): value for key, value in clip.get_sd().items() if key.startswith(front)}
    files = {"z_image_bf16": network.state_dict(), "qwen_3_4b": text, "ae": vae.get_sd()}
    for name, state in files.items():
        save_file({key: value.contiguous() for key, value in state.items()}, FOLDER / f"{name}.safetensors")
    return BaseSpec.parse(
        str(FOLDER / "z_image_bf16.safetensors"), vae=str(FOLDER / "ae.safetensors"),
        clip=str(FOLDER / "qwen_3_4b.safetensors"),
        tokenizer=f"{checkout}/comfy/text_encoders/qwen25_tokenizer",
    )  # fmt: skip


def both() -> tuple[tuple[Any, Any, Any], BaseModel]:
    """MODEL, CLIP and VAE, and the engine's base, from the same files."""
    folder_paths.set_temp_directory(str(FOLDER / "temp"))
    (FOLDER / "embeddings").mkdir(exist_ok=True)
    of_tiny_sizes()
    clip, vae = tiny_clip(), tiny_vae()
    spec = written(clip, vae)
    model = comfy.sd.load_diffusion_model(spec.path, model_options={"dtype": torch.float32})
    return (model, clip, vae), load_base(spec)


# ---------------------------------------------------------------------------------------------------- numbers


def velocity(model: Any, noisy: torch.Tensor, time: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Of the MODEL with its patches; afterwards its weights are its own again."""
    model.patch_model()
    try:
        return model.model.diffusion_model(noisy, time, context=states, num_tokens=states.shape[1])
    finally:
        model.unpatch_model()


@torch.inference_mode()
def differences(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    """Two prompts at once in the engine, one by one in ComfyUI, which does not batch other lengths."""
    model, clip, vae = loaded
    context = base.encode_text(PROMPTS, weights=True)
    states = [heard(clip, prompt) for prompt in PROMPTS]
    noisy, times = torch.randn(2, LATENTS, 6, 10, generator=RANDOM), torch.tensor([0.2, 0.9])
    theirs = torch.cat([
        velocity(model, noisy[row : row + 1], times[row : row + 1], one) for row, one in enumerate(states)
    ])  # fmt: skip
    ours = base.predict(noisy, times, context)
    pixels = torch.rand(1, 24, 32, 3, generator=RANDOM)
    latents = model.model.process_latent_in(vae.encode(pixels))
    drawn = vae.decode(model.model.process_latent_out(latents))
    said_here = [one[there] for one, there in zip(context.states, context.mask)]  # type: ignore[arg-type]
    return {
        "text": max(apart(one[0], here) for one, here in zip(states, said_here, strict=True)),
        "text size": states[0].abs().max().item(), "lengths": len({-(-len(one) // 32) for one in said_here}),
        "velocity": apart(theirs, ours), "velocity size": ours.abs().max().item(),
        "latents": apart(latents, base.encode_pixels(pixels.movedim(-1, 1) * 2 - 1)),
        "pictures": apart(drawn, base.decode(latents).movedim(1, -1) / 2 + 0.5),
        "pictures spread": drawn.std().item(),
    }  # fmt: skip


def sampled(model: Any, clip: Any, positive: Any, guidance: float = 4.0) -> torch.Tensor:
    """Latents as they leave KSampler."""
    return comfy.sample.sample(
        model, seeded_noise([5], (LATENTS, SIDE, SIDE)), 4, guidance, "euler", "simple", positive,
        said(clip, ""), torch.zeros(1, LATENTS, SIDE, SIDE), seed=5, disable_pbar=True,
    )  # fmt: skip


HOW: dict[str, Any] = {
    "steps": 4, "guidance": 4.0, "seed": 5, "sampler": "euler", "schedule": "simple", "width": 16,
    "height": 16,
}  # fmt: skip


def alike(vae: Any, mine: np.ndarray, theirs: torch.Tensor) -> float:
    return min(psnr(mine[0], pixels_of(vae, theirs)), 99.0)


def learned(method: str, base: BaseModel) -> Artifact:
    return Artifact.load(train(tiny_job(method, FOLDER, method, resolution=32), base=base))


@torch.inference_mode()
def used(loaded: tuple[Any, Any, Any], base: BaseModel, artifact: Artifact) -> dict[str, Any]:
    """What was learned in the engine, by Apply Likeness, and by ComfyUI's own loaders from exported files."""
    model, clip, _ = loaded
    prompt, listening = "a photo of {}, smiling", Heard()
    logging.getLogger().addHandler(listening)
    noisy, time = torch.randn(1, LATENTS, SIDE, SIDE, generator=RANDOM), torch.tensor([0.6])
    with applied(base, [(artifact, 1.0)]) as rows:
        context = base.encode_text([prompt.format("<v0>")], rows, weights=True)
        ours = base.predict(noisy, time, context)
    states = context.states[context.mask][None]
    told = dict(zip(("model", "clip"), apply(model, clip, artifact, 1.0, 1.0)))
    found = {
        "words": apart(heard(told["clip"], prompt.format("<v0>")), states),
        "velocity": apart(velocity(told["model"], noisy, time, states), ours),
        "seen": apart(base.predict(noisy, time, context), ours),
    }
    names = {path.stem: path for path in export_stock(artifact, FOLDER / "embeddings", "a lora")}
    if "a lora" in names:
        lora = comfy.utils.load_torch_file(str(names["a lora"]))
        stock_model, clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
        found["exported velocity"] = apart(velocity(stock_model, noisy, time, states), ours)
        found["layers"] = len({key.rsplit(".lora_", 1)[0] for key in lora if ".lora_A" in key})
        comfy.sd.load_lora_for_models(model, clip, {"transformer.nowhere.alpha": torch.ones(())}, 1.0, 1.0)
        found["hears"] = any("nowhere" in line for line in listening.lines)
    found["exported words"] = apart(heard(clip, prompt.format("embedding:v0")), states)
    logging.getLogger().removeHandler(listening)
    lines = [line for line in listening.lines if "nowhere" not in line]
    found["not loaded"] = [line for line in lines if "not loaded" in line.lower() or "embedding" in line]
    return found


# ----------------------------------------------------------------------------------------- inside attention


def louder(attention: Any, q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> Any:
    """Another pack's override."""
    return attention(q, k, v * 1.3, *rest, **options)


@torch.inference_mode()
def regions_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, Any]:
    """Pictures and where words looked, by our nodes' functions and by generate."""
    model, clip, vae = loaded
    prompt = f"{TOGETHER}, {LONG}"  # longer than the negative one
    focuses = [
        Focus(token="Anna", region=(0.0, 0.0, 0.5, 1.0), own_prompt=OWN),
        Focus(token="Ben", region=(torch.arange(8) > 3).float().expand(1, 8, 8), scope="word", strength=0.8),
    ]
    maps: list[torch.Tensor] = []
    mine = generate(
        base, [prompt], **HOW,
        refocus=Refocusing(focuses=focuses, on_maps=lambda _group, seen, *_rest: maps.append(seen)),
    )  # fmt: skip
    patched, positive, neutral = model, None, (model, None)
    for focus in focuses:
        patched, positive = refocused_prompt(patched, clip, prompt, focus, conditioning=positive)
        off = replace(focus, strength=0.0, scope="word", own_prompt=None)
        neutral = refocused_prompt(neutral[0], clip, prompt, off, conditioning=neutral[1])
    plain, run = sampled(model, clip, said(clip, prompt)), Run(record=True)
    drawn = sampled(with_refocus(patched, run), clip, positive)
    seen = torch.cat([one.mean() for one in run.maps.values()], 1)  # type: ignore[misc]
    other = model.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = louder
    beside = refocused_prompt(other, clip, prompt, focuses[0])
    return {
        "pictures": alike(vae, mine, drawn), "maps": apart(seen, maps[0]), "maps' size": maps[0].max().item(),
        "seen": apart(drawn, plain), "plain": alike(vae, generate(base, [prompt], **HOW), plain),
        "neutral": apart(sampled(neutral[0], clip, neutral[1]), plain),
        "afterwards": apart(sampled(patched, clip, said(clip, prompt)), plain),
        "foreign heard": apart(sampled(*_with_clip(clip, beside)), drawn),
        "foreign kept": apart(sampled(beside[0], clip, said(clip, prompt)),
                              sampled(other, clip, said(clip, prompt))),
    }  # fmt: skip


def _with_clip(clip: Any, prompted: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    return prompted[0], clip, prompted[1]


@torch.inference_mode()
def staged_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, Any]:
    """Staged Prompt and generate: text states by stage, and pictures."""
    model, clip, vae = loaded
    prompt, artifact = "a photo of <v0>, smiling", staged_person(
        "<v0>", {"qwen3_4b": WIDTH}, "z_image", bypass_width=DIM
    )  # fmt: skip
    patched, entries = staged_prompt(model, clip, artifact, prompt)
    ours = StagedModel(base, [prompt], {}, [staged_words(artifact)])
    states, moved, stages = [], [], StagePlan(interval=(400, 800), stages=4, late="class word").all()
    for (context, about), stage in zip(entries, stages, strict=True):
        wanted = ours.states(stage.low)
        states.append(apart(context, wanted.states[wanted.mask][None]))
        if wanted.added is not None:
            rows, at = about[OFFSETS]
            moved.append(apart(rows, wanted.added) + apart(at, wanted.added_at))
    mine, drawn = (
        generate(base, [prompt], artifacts=[(artifact, 1.0)], **HOW),
        sampled(patched, clip, entries),
    )
    without = sampled(*_with_clip(clip, staged_prompt(model, clip, artifact, prompt, bypass=0.0)))
    plain = sampled(model, clip, said(clip, "a dog"))
    return {
        "states": max(states), "moved": len(moved), "offsets": max(moved),
        "pictures": alike(vae, mine, drawn),
        "bypass seen": apart(drawn, without),
        "next prompt": apart(sampled(patched, clip, said(clip, "a dog")), plain),
    }  # fmt: skip


@torch.inference_mode()
def people_alike(loaded: tuple[Any, Any, Any], base: BaseModel, artifact: Artifact) -> dict[str, float]:
    """Two people in halves of the picture, one of them at some steps only."""
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
    patched = neutral = model
    for one, where, told in zip(somebody, (left, 1 - left), how):
        patched = apply_identity(patched, one, mask=where[None], **told)
        neutral = apply_identity(neutral, one, weight=0.0)
    prompt = said(clip, TOGETHER)
    theirs, plain = sampled(patched, clip, prompt), sampled(model, clip, prompt)
    return {
        "pictures": alike(vae, generate(base, [TOGETHER], people=shown, **HOW), theirs),
        "seen": apart(theirs, plain), "learned on": len(people_in(patched)),
        "neutral": apart(sampled(neutral, clip, prompt), plain),
        "afterwards": apart(sampled(model, clip, prompt), plain),
    }  # fmt: skip


def main() -> dict[str, Any]:
    loaded, base = both()
    found: dict[str, Any] = {"files": differences(loaded, base)}
    with torch.inference_mode(), torch.inference_mode(False):
        graph = base_from_graph(take_weights(*loaded))
    found["graph"] = differences(loaded, graph)
    found["same fingerprint"] = graph.fingerprint == base.fingerprint
    write_person(FOLDER / "person")
    found["used"] = {name: used(loaded, graph, learned(name, graph))
                     for name in ("textual-inversion", "dreambooth-lora")}  # fmt: skip
    found["regions"] = regions_alike(loaded, base)
    found["staged"] = staged_alike(loaded, base)
    found["people"] = people_alike(loaded, base, learned("masterweaver", base))
    return found


print(json.dumps(main()))  # noqa: T201 (the answer)
