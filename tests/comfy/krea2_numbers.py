"""Run by the Python of a ComfyUI host: Krea 2 in ComfyUI's own classes and in the engine, from the same
files, and what both do inside its attention.

    python krea2_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE FOLDER

The files are random and tiny, under the names that people's files have; FOLDER takes them and what is learned
on them. Prints one JSON object; of a host that does not know Krea 2, what it is refused with.
"""

import json
import logging
import sys
from typing import Any

# it starts ComfyUI, and so comes before all that needs it
from flux2_numbers import FOLDER, RANDOM, Heard, apart, checkout, heard, said

# isort: split
import comfy.sample
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.qwen3vl
import comfy.utils
import folder_paths
import numpy as np
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.artifact.other_tools import export_stock
from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.loaders.graph import base_from_graph
from likeness_portraits.engine.bases.sampling import seeded_noise
from likeness_portraits.engine.comfy_bridge.identity import apply_identity
from likeness_portraits.engine.comfy_bridge.joint_attention import Krea2JointSites
from likeness_portraits.engine.comfy_bridge.refocus import Run, refocused_prompt, with_refocus
from likeness_portraits.engine.comfy_bridge.staged import staged_prompt
from likeness_portraits.engine.comfy_bridge.weights import take_weights
from likeness_portraits.engine.comfy_bridge.words import apply
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.identity.adapter import id_adapter
from likeness_portraits.engine.identity.conditioning import IdentityConditioning, IdentityTokens
from likeness_portraits.engine.inference.generate import applied, generate
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Spot, fitted
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.text import TextStates
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.comfy.hosts import psnr
from likeness_portraits.tests.engine import tiny_krea2
from likeness_portraits.tests.engine.tiny import staged_person, tiny_job, write_person

SIDE = 64  # pixels a side: eight latents
PROMPTS = ["a photo of a man,  (smiling:1.3)\non a beach \\(by day\\)", ""]
TOGETHER = "Anna and Ben on a beach"


def both() -> tuple[tuple[Any, Any, Any], BaseModel]:
    """MODEL, CLIP and VAE, and the engine's base, from the same files: ComfyUI finds transformer and VAE out
    by itself; text encoders it tells by their width, so a tiny one is put in by hand."""
    folder_paths.set_temp_directory(str(FOLDER / "temp"))
    (FOLDER / "embeddings").mkdir(exist_ok=True)
    files = tiny_krea2.write_files(FOLDER / "files", tiny_krea2.host_parts())
    reader = comfy.text_encoders.qwen3vl
    reader.QWEN3VL_VISION["qwen3vl_4b"] = {
        "hidden_size": 32, "intermediate_size": 16, "depth": 1, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    sizes = {"num_hidden_layers": 36, "hidden_size": tiny_krea2.HOST_WIDTH, "intermediate_size": 32,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    krea2 = comfy.text_encoders.krea2
    target = comfy.supported_models_base.ClipTarget(krea2.Krea2Tokenizer, krea2.te())
    options = {"dtype": torch.float32, "qwen3vl_4b_model_config": sizes}
    clip = comfy.sd.CLIP(target, embedding_directory=[str(FOLDER / "embeddings")], model_options=options)
    front = "model.language_model."
    text = comfy.utils.load_torch_file(files["clip"])
    clip.load_sd({f"model.{key.removeprefix(front)}": text[key] for key in text if key.startswith(front)})
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(files["vae"]), dtype=torch.float32)
    model = comfy.sd.load_diffusion_model(files["transformer"], model_options={"dtype": torch.float32})
    spec = BaseSpec.parse(
        files["transformer"], vae=files["vae"], clip=files["clip"],
        tokenizer=f"{checkout}/comfy/text_encoders/qwen25_tokenizer",
    )  # fmt: skip
    return (model, clip, vae), load_base(spec)


# ---------------------------------------------------------------------------------------------------- numbers


@torch.inference_mode()
def differences(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    model, clip, vae = loaded
    found = {"text": 0.0, "text size": 0.0, "velocity": 0.0, "velocity size": 0.0}
    for prompt in PROMPTS:
        context, theirs = base.encode_text([prompt], weights=True), heard(clip, prompt)
        noisy, time = torch.randn(1, 16, 6, 7, generator=RANDOM), torch.tensor([0.7])
        ours, states = base.predict(noisy, time, context), context.states
        network = velocity(model, noisy, time, states)
        for name, one, other in (("text", theirs, states), ("velocity", network, ours)):
            found[name] = max(found[name], apart(one, other))
            found[f"{name} size"] = max(found[f"{name} size"], other.abs().max().item())
    pixels = torch.rand(1, SIDE, SIDE, 3, generator=RANDOM)
    latents, inner = vae.encode(pixels), base.encode_pixels(pixels.movedim(-1, 1) * 2 - 1)
    decoded = vae.decode(latents)[0]
    return found | {
        "latents": apart(model.model.process_latent_in(latents)[:, :, 0], inner),
        "pictures": apart(decoded, base.decode(inner).movedim(1, -1) / 2 + 0.5),
        "pictures spread": decoded.std().item(),
    }


def velocity(model: Any, noisy: torch.Tensor, time: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Of the MODEL with its patches; afterwards its weights are its own again."""
    model.patch_model()
    try:
        return model.model.diffusion_model(noisy[:, :, None], time, context=states)[:, :, 0]
    finally:
        model.unpatch_model()


def sampled(model: Any, clip: Any, positive: Any, guidance: float = 4.0, sampler: str = "euler"):
    noise = seeded_noise([5], (16, 8, 8))[:, :, None]
    return comfy.sample.sample(
        model, noise, 6, guidance, sampler, "simple", positive, said(clip, ""), torch.zeros_like(noise),
        seed=5, disable_pbar=True,
    )  # fmt: skip


def pixels_of(vae: Any, latents: torch.Tensor) -> np.ndarray:
    return (vae.decode(latents)[0, 0] * 255).clamp(0, 255).to(torch.uint8).numpy()


HOW = {"steps": 6, "guidance": 4.0, "seed": 5, "width": SIDE, "height": SIDE}


def alike(mine: np.ndarray, vae: Any, latents: torch.Tensor) -> float:
    return min(psnr(mine, pixels_of(vae, latents)), 99.0)


@torch.inference_mode()
def drawn_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    (model, clip, vae), found = loaded, {}
    for guidance, sampler in ((1.0, "euler"), (4.0, "dpmpp_2m")):
        mine = generate(base, ["a man"], **{**HOW, "guidance": guidance}, sampler=sampler)
        theirs = sampled(model, clip, said(clip, "a man"), guidance, sampler)
        found[sampler] = alike(mine[0], vae, theirs)
        found[f"{sampler} spread"] = float(pixels_of(vae, theirs).std())
    return found


def learned(method: str, base: BaseModel) -> Artifact:
    return Artifact.load(train(tiny_job(method, FOLDER, method, resolution=SIDE), base=base))


@torch.inference_mode()
def used(loaded: tuple[Any, Any, Any], base: BaseModel, artifact: Artifact) -> dict[str, Any]:
    """What was learned in the engine, by Apply Likeness, and by ComfyUI's own loaders from exported files."""
    model, clip, _ = loaded
    listening = Heard()
    logging.getLogger().addHandler(listening)
    noisy, time = torch.randn(1, 16, 8, 8, generator=RANDOM), torch.tensor([0.6])
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
        found["hears"] = any("nowhere" in line for line in listening.lines)
    found["exported words"] = apart(heard(clip, "a photo of embedding:v0, smiling"), context.states)
    logging.getLogger().removeHandler(listening)
    lines = [line for line in listening.lines if "nowhere" not in line]
    found["not loaded"] = [line for line in lines if "not loaded" in line.lower() or "embedding" in line]
    return found


# ---------------------------------------------------------------------------------------------- in attention

FOCUSES = [  # one with a prompt of its own, one word that keeps to a mask
    Focus(token="Anna", region=(0.0, 0.0, 0.5, 1.0), own_prompt="Anna on a beach, smiling"),
    Focus(token="Ben", region=(torch.arange(8) > 3).float().expand(1, 8, 8), scope="word", strength=0.8),
]


@torch.inference_mode()
def passes_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, float]:
    """One pass of two prompts of one length, the first without regions, here and there."""
    network, noisy = loaded[0].model.diffusion_model, torch.randn(2, 16, 8, 8, generator=RANDOM)
    times, context = torch.tensor([0.6, 0.6]), base.encode_text(["Ben and Anna on a beach", TOGETHER])
    assert bool(context.mask.all())
    own = base.encode_text(["Anna on a beach"]).states
    spots = [Spot(FOCUSES[0], (3,), (3,), own.shape[1]), Spot(FOCUSES[1], (5, 6))]
    regions = [fitted(spot.focus.region, (8, 8), 1, "") for spot in spots]  # type: ignore[arg-type]
    prompt = FocusedPrompt(LogMasks(spots, regions), context.length, [TextStates(own, own)])

    def user() -> Regions:
        return Regions([(1, None), (1, prompt)], 0.5, {})

    options = Krea2JointSites().with_user({}, network, "regions", user())
    theirs = network(noisy[:, :, None], times, context=context.states, transformer_options=options)[:, :, 0]
    with using(base.network, "regions", user()):
        ours = base.predict(noisy, times, context)
    plain = base.predict(noisy, times, context)
    return {
        "regions": apart(ours, theirs), "seen": apart(ours[1], plain[1]),
        "seen by a prompt without": apart(ours[0], plain[0]),
    }  # fmt: skip


@torch.inference_mode()
def regions_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, Any]:
    """Pictures and where words looked, by our nodes' functions and by generate."""
    model, clip, vae = loaded
    maps: list[torch.Tensor] = []
    told = Refocusing(focuses=FOCUSES, on_maps=lambda _group, seen, *_rest: maps.append(seen))
    mine = generate(base, [TOGETHER], refocus=told, **HOW)
    patched, positive = model, None
    for focus in FOCUSES:
        patched, positive = refocused_prompt(patched, clip, TOGETHER, focus, conditioning=positive)
    before, run = sampled(model, clip, said(clip, TOGETHER)), Run(record=True)
    drawn = sampled(with_refocus(patched, run), clip, positive)
    seen = torch.cat([one.mean() for one in run.maps.values()], 1)  # type: ignore[misc]
    neutral = model, None
    for focus in FOCUSES:
        off = Focus(token=focus.token, region=focus.region, scope="word", strength=0.0)
        neutral = refocused_prompt(neutral[0], clip, TOGETHER, off, conditioning=neutral[1])
    return {
        "pictures": alike(mine[0], vae, drawn), "maps": apart(seen, maps[0]),
        "maps' size": maps[0].max().item(), "seen": apart(drawn, before),
        "neutral": apart(sampled(neutral[0], clip, neutral[1]), before),
        "afterwards": apart(sampled(patched, clip, said(clip, TOGETHER)), before),
    }  # fmt: skip


@torch.inference_mode()
def staged_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, Any]:
    """Staged Prompt and generate, also with a region for the words."""
    (model, clip, vae), prompt = loaded, "a photo of <v0>, smiling"
    artifact = staged_person("<v0>", {"qwen3vl_4b": tiny_krea2.HOST_WIDTH}, "krea2", bypass_width=256)
    patched, entries = staged_prompt(model, clip, artifact, prompt)
    left = Focus(token="<v0>", region=(0.0, 0.0, 0.5, 1.0), scope="word")
    kept, in_region = refocused_prompt(patched, clip, prompt, left, conditioning=entries)
    mine = generate(base, [prompt], artifacts=[(artifact, 1.0)], **HOW)[0]
    mine_kept = generate(
        base, [prompt], artifacts=[(artifact, 1.0)], refocus=Refocusing(focuses=[left]), **HOW
    )[0]
    drawn = sampled(patched, clip, entries)
    without = sampled(*_with_clip(clip, staged_prompt(model, clip, artifact, prompt, bypass=0.0)))
    return {
        "pictures": alike(mine, vae, drawn),
        "in a region": alike(mine_kept, vae, sampled(kept, clip, in_region)),
        "region seen": apart(sampled(kept, clip, in_region), drawn), "bypass seen": apart(drawn, without),
    }  # fmt: skip


def _with_clip(clip: Any, prompted: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    return prompted[0], clip, prompted[1]


@torch.inference_mode()
def people_alike(loaded: tuple[Any, Any, Any], base: BaseModel, artifact: Artifact) -> dict[str, float]:
    """A picture of somebody in a region, by our node's function and by generate."""
    model, clip, vae = loaded
    somebody = IdentityTokens(
        adapter=id_adapter(artifact), tokens=artifact.tensors["identity.v0"][None],
        nobody=artifact.tensors["identity_nobody"][None],
    )  # fmt: skip
    left, plain = (torch.arange(8) < 4).float().expand(8, 8), sampled(model, clip, said(clip, TOGETHER))
    shown = IdentityConditioning(identity=somebody, region=left, weight=3.0, end=0.6)
    mine = generate(base, [TOGETHER], people=[shown], **HOW)[0]
    patched = apply_identity(model, somebody, mask=left[None], weight=3.0, end=0.6)
    theirs = sampled(patched, clip, said(clip, TOGETHER))
    neutral = sampled(apply_identity(model, somebody, weight=0.0), clip, said(clip, TOGETHER))
    return {
        "pictures": alike(mine, vae, theirs), "seen": apart(theirs, plain), "neutral": apart(neutral, plain),
        "afterwards": apart(sampled(model, clip, said(clip, TOGETHER)), plain),
    }  # fmt: skip


def main() -> dict[str, Any]:
    loaded, base = both()
    found: dict[str, Any] = {"files": differences(loaded, base), "drawn": drawn_alike(loaded, base)}
    found["passes"] = passes_alike(loaded, base)
    found["regions"], found["staged"] = regions_alike(loaded, base), staged_alike(loaded, base)
    with torch.inference_mode(), torch.inference_mode(False):
        graph = base_from_graph(take_weights(*loaded))
    found["graph"] = differences(loaded, graph)
    found["same fingerprint"] = graph.fingerprint == base.fingerprint
    write_person(FOLDER / "person")
    found["used"] = {name: used(loaded, graph, learned(name, graph))
                     for name in ("textual-inversion", "dreambooth-lora")}  # fmt: skip
    found["people"] = people_alike(loaded, base, learned("masterweaver", base))
    return found


if not hasattr(comfy.supported_models, "Krea2"):
    print(json.dumps({"refused": "Krea 2"}))  # noqa: T201 (the answer)
    sys.exit()
if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201 (the answer)
