"""Run by the Python of a ComfyUI host: regions and staged words inside FLUX.2's attention, in ComfyUI's own
classes and in the engine, from the same files.

    python flux2_seam.py CHECKOUT PARENT_OF_THE_PACKAGE FOLDER

Prints one JSON object; of a host that does not know FLUX.2, what it is refused with.
"""

import json
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

# it starts ComfyUI, and so comes before all that needs it
from flux2_numbers import FOLDER, LATENTS, RANDOM, WIDTH, apart, both, learned, pixels_of, said, sampled

# isort: split
import numpy as np
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.attention import AttentionUser
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.families import FAMILIES
from likeness_portraits.engine.comfy_bridge.identity import apply_identity, people_in
from likeness_portraits.engine.comfy_bridge.joint_attention import JointSites
from likeness_portraits.engine.comfy_bridge.refocus import Run, refocused_prompt, with_refocus
from likeness_portraits.engine.comfy_bridge.staged import staged_prompt
from likeness_portraits.engine.comfy_bridge.staged_joint import OFFSETS
from likeness_portraits.engine.identity.adapter import id_adapter
from likeness_portraits.engine.identity.conditioning import IdentityConditioning, IdentityTokens
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Spot, fitted
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.embedding import staged_words
from likeness_portraits.engine.staged.stages import StagePlan
from likeness_portraits.engine.staged.text import TextStates
from likeness_portraits.engine.staged.words import StagedModel
from likeness_portraits.tests.comfy.hosts import psnr
from likeness_portraits.tests.engine.tiny import staged_person, write_person

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
    one_block = replace(FAMILIES["flux2"], attention_layers=("single_transformer_blocks.1.attn",))
    before_it, FAMILIES["flux2"] = FAMILIES["flux2"], one_block
    here = Run(record=True)
    sampled(with_refocus(patched, here), clip, positive)
    generate(
        base, [TOGETHER], steps=6, guidance=4.0, seed=5, width=32, height=32,
        refocus=Refocusing(focuses=FOCUSES, on_maps=lambda _group, seen, *_rest: maps.append(seen)),
    )  # fmt: skip
    FAMILIES["flux2"] = before_it
    one = torch.cat([one.mean() for one in here.maps.values()], 1)  # type: ignore[misc]
    neutral = model, None
    for focus in FOCUSES:
        off = replace(focus, strength=0.0, scope="word", own_prompt=None)
        neutral = refocused_prompt(neutral[0], clip, TOGETHER, off, conditioning=neutral[1])
    return {
        "pictures": min(psnr(mine[0], pixels_of(vae, drawn)), 99.0),
        "maps": apart(seen, maps[0]), "maps' size": maps[0].max().item(),
        "maps of a block": apart(one, maps[1]),
        "of a block alone": apart(maps[0], maps[1]) / maps[0].max().item(),
        "seen": apart(drawn, before),
        "neutral": apart(sampled(neutral[0], clip, neutral[1]), before),
        "afterwards": apart(sampled(patched, clip, said(clip, TOGETHER)), before),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ staged words

SMILING = "a photo of <v0>, smiling"


@torch.inference_mode()
def staged_alike(loaded: tuple[Any, Any, Any], base: BaseModel) -> dict[str, Any]:
    """Staged Prompt and generate: text states by stage, pictures, also with a region for the words."""
    model, clip, vae = loaded
    artifact = staged_person("<v0>", {"qwen3_4b": WIDTH}, "flux2", bypass_width=256)
    patched, entries = staged_prompt(model, clip, artifact, SMILING)
    ours = StagedModel(base, [SMILING], {}, [staged_words(artifact)])
    states, moved, stages = [], [], StagePlan(interval=(400, 800), stages=4, late="class word").all()
    for (context, about), stage in zip(entries, stages):
        wanted = ours.states(stage.low)
        states.append(apart(context, wanted.states))
        if wanted.added is not None:
            rows, at = about[OFFSETS]
            moved.append(apart(rows, wanted.added) + apart(at, wanted.added_at))
    left = Focus(token="<v0>", region=(0.0, 0.0, 0.5, 1.0), scope="word")
    kept, in_region = refocused_prompt(patched, clip, SMILING, left, conditioning=entries)
    how = {"steps": 6, "guidance": 4.0, "seed": 5, "width": 32, "height": 32}
    mine = generate(base, [SMILING], artifacts=[(artifact, 1.0)], **how)[0]
    mine_kept = generate(
        base, [SMILING], artifacts=[(artifact, 1.0)], refocus=Refocusing(focuses=[left]), **how
    )[0]
    drawn, plain = sampled(patched, clip, entries), sampled(model, clip, said(clip, "a photo of a dog"))
    without = sampled(*_with_clip(clip, staged_prompt(model, clip, artifact, SMILING, bypass=0.0)))
    return {
        "entries": len(entries), "stages": len(stages), "moved": len(moved),
        "states": max(states), "offsets": max(moved),
        "pictures": min(psnr(mine, pixels_of(vae, drawn)), 99.0),
        "in a region": min(psnr(mine_kept, pixels_of(vae, sampled(kept, clip, in_region))), 99.0),
        "region seen": apart(sampled(kept, clip, in_region), drawn),
        "bypass seen": apart(drawn, without),
        "next prompt": apart(sampled(patched, clip, said(clip, "a photo of a dog")), plain),
    }  # fmt: skip


def _with_clip(clip: Any, prompted: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    return prompted[0], clip, prompted[1]


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


def adapter_learned_on(base: BaseModel) -> Artifact:
    write_person(FOLDER / "person")
    return learned("masterweaver", base)


def main() -> dict[str, Any]:
    loaded, base = both()
    return {
        "passes": passes_alike(loaded, base), "regions": regions_alike(loaded, base),
        "staged": staged_alike(loaded, base), "people": people_alike(loaded, base, adapter_learned_on(base)),
    }  # fmt: skip


print(json.dumps(main()))  # noqa: T201 (the answer)
