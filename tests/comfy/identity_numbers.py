"""Run by the Python of a ComfyUI host: an identity in ComfyUI's U-Net, beside other patches, and its cost.

    python identity_numbers.py CHECKOUT PARENT_OF_THE_PACKAGE ADAPTER

Prints one JSON object: the largest differences over random inputs, and the share a step takes longer.
"""

import json
import sys
from typing import Any

checkout, package_parent, adapter_file = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import comfy.clip_vision  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import comfy.sampler_helpers  # noqa: E402
import comfy.samplers  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import attention_pytorch  # noqa: E402

from likeness_portraits.engine.artifact import Artifact  # noqa: E402
from likeness_portraits.engine.bases.base import load_base  # noqa: E402
from likeness_portraits.engine.bases.conditioning import Conditioning  # noqa: E402
from likeness_portraits.engine.comfy_bridge import attention as seam  # noqa: E402
from likeness_portraits.engine.comfy_bridge.adapter_training import tower_folder  # noqa: E402
from likeness_portraits.engine.comfy_bridge.identity import (  # noqa: E402
    apply_identity,
    clip_vision_tower,
    encode_identity_images,
)
from likeness_portraits.engine.comfy_bridge.miniature import build_miniature, miniature_person  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.identity.attention import IdentityAttention  # noqa: E402
from likeness_portraits.engine.identity.conditioning import IdentityConditioning, with_identities  # noqa: E402
from likeness_portraits.engine.identity.references import clip_tower  # noqa: E402

RANDOM = torch.Generator().manual_seed(0)
NOISY = torch.randn(4, 4, 16, 16, generator=RANDOM)
TEXT = torch.randn(4, 77, 128, generator=RANDOM)
STEP = 500
UNCOND, COND = 1, 0


def predicted(model: Any, kinds: tuple[int, ...] = (UNCOND, COND), **options: Any) -> torch.Tensor:
    """The U-Net of a MODEL, as its sampler would call it with these chunks in a batch."""
    told = {
        **model.model_options["transformer_options"],
        "cond_or_uncond": list(kinds),
        "uuids": list(range(len(kinds))),
        "wrappers": model.wrappers,
        "patches_replace": model.model_options["transformer_options"].get("patches_replace", {}),
    }
    timesteps = torch.full((len(NOISY),), float(STEP))
    return model.model.diffusion_model(NOISY, timesteps, context=TEXT, transformer_options=told, **options)


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> torch.Tensor:
    """What another node might put in the place of cross-attention: here half as strong."""
    return 0.5 * attention_pytorch(q, k, v, options["n_heads"])


def replaced(model: Any) -> Any:
    """A clone whose cross-attentions somebody else has replaced, everywhere."""
    model = model.clone()
    for place, numbers in (("input", range(9)), ("middle", [0, 1]), ("output", range(9))):
        for number in numbers:
            model.set_model_attn2_replace(plain_attention, place, number)
    return model


def patched(model: Any) -> Any:
    """A clone to whose prompt somebody else appends tokens."""
    model = model.clone()
    model.set_model_attn2_patch(
        lambda n, context, value, options: (n, torch.cat([context] * 2, 1), torch.cat([value] * 2, 1))
    )
    return model


def controlled() -> dict[str, Any]:
    """What a ControlNet adds: residuals of the middle block."""
    return {"control": {"middle": [torch.full((4, 128, 4, 4), 0.3)]}}


def overhead(model: Any, rounds: int = 40) -> float:
    """What the ID branch of somebody seen in one picture takes of a pass, as a share of all else.

    Within the same passes, so that a busy machine slows both down alike; of many passes the middle one. What
    the clock takes is left out.
    """
    pictures, _, _ = miniature_person(0, 1)
    shown = apply_identity(model, encode_identity_images(Artifact.load(adapter_file), pictures).identity)
    spent, calls, shares = 0.0, 0, []

    def timed(function: Any) -> Any:
        def run(*inputs: Any) -> Any:
            nonlocal spent, calls
            calls += 1
            began = time.process_time()
            try:
                return function(*inputs)
            finally:
                spent += time.process_time() - began

        return run

    nothing = timed(lambda: None)
    IdentityAttention.after = timed(IdentityAttention.after)  # pyright: ignore[reportAttributeAccessIssue]
    seam.Sites.with_user = timed(seam.Sites.with_user)  # pyright: ignore[reportAttributeAccessIssue]
    seam._Users.site = timed(seam._Users.site)  # pyright: ignore[reportAttributeAccessIssue]
    predicted(shown)
    for _ in range(rounds):
        spent, calls, began = 0.0, 0, time.process_time()
        predicted(shown)
        whole, taken, clock = time.process_time() - began, spent, calls
        spent = 0.0
        for _ in range(clock):
            nothing()
        shares.append((taken - spent) / (whole - taken))
    return statistics.median(shares)


def in_areas(model: Any, identity: Any) -> dict[str, float]:
    """Under Conditioning (Set Area) a mask is cut as the area is, not squeezed into it."""
    left = torch.zeros(1, 64, 128)
    left[..., :64] = 1
    masks = {"left": left, "right": 1 - left, "all": torch.ones_like(left)}
    shown = {name: apply_identity(model, identity, mask=mask) for name, mask in masks.items()}
    noisy = torch.randn(1, 4, 16, 32, generator=RANDOM)
    texts = [TEXT[number : number + 1] for number in range(3)]

    def step(model: Any, *prompts: tuple[int, Any]) -> torch.Tensor:
        """What a step predicts for prompts in areas (height, width, top, left), beside a negative prompt."""
        network = model.model
        network.current_patcher = model
        positive = [[texts[text], {} if area is None else {"area": area}] for text, area in prompts]
        conds = {"positive": positive, "negative": [[texts[2], {}]]}
        conds = {name: comfy.sampler_helpers.convert_cond(prompts) for name, prompts in conds.items()}
        conds = comfy.samplers.process_conds(network, noisy, conds, torch.device("cpu"))
        told = {"transformer_options": {"wrappers": model.wrappers}}
        return comfy.samplers.calc_cond_batch(
            network, list(conds.values()), noisy, torch.tensor([3.0]), told
        )[0]

    west, east = (0, (16, 16, 0, 0)), (1, (16, 16, 0, 16))
    two = apply_identity(shown["left"], identity, mask=masks["right"], weight=0.5)
    alone = apply_identity(model, identity, mask=masks["all"], weight=0.5)
    beside = torch.cat([step(shown["all"], west)[..., :16], step(alone, east)[..., 16:]], -1)
    return {
        "area, mask of it": apart(step(shown["left"], west), step(shown["all"], west)),
        "area, mask beside it": apart(step(shown["right"], west), step(model, west)),
        "area, seen": apart(step(shown["left"], west), step(model, west)),
        "areas of two people": apart(step(two, west, east), beside),
        "area and whole": apart(step(shown["left"], west, (1, None)), step(model, west, (1, None))),
    }


def through_the_engine(identity: Any, who: list[bool], **changes: Any) -> torch.Tensor:
    """The same pass in diffusers' U-Net; as many pictures with somebody as `who` says, behind the others."""
    base = load_base(BaseSpec())
    with with_identities(base, [IdentityConditioning(identity=identity, **changes)]) as with_people:
        model = with_people(base, range(sum(who)))
        return model.predict(NOISY, torch.full((len(NOISY),), STEP / 1000), Conditioning(states=TEXT))


def towers_apart() -> tuple[float, float, float]:
    """How ComfyUI's CLIP_VISION differs from transformers' image tower of the same random weights, up to the
    last layer but one; the tower that training makes of that CLIP_VISION from the CLIP_VISION; and the same
    once a weight in the middle of it has changed."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8, "projection_dim": 16, "hidden_act": "quick_gelu",
        "num_channels": 3, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    with tempfile.TemporaryDirectory() as folder:
        tower.save_pretrained(folder)
        described = Path(folder) / "vision.json"
        described.write_text(json.dumps({**config, "model_type": "clip_vision_model"}))
        loaded = comfy.clip_vision.ClipVisionModel(str(described))
        engines = clip_tower(folder)
    loaded.load_sd(tower.state_dict())
    values = torch.randn(2, 3, 32, 32, generator=RANDOM)
    theirs = clip_vision_tower(loaded).states(values).float()
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_temp_directory(folder)
        trained_with = clip_tower(tower_folder(loaded))
        loaded.model.vision_model.encoder.layers[1].mlp.fc1.weight.data *= 3
        changed = clip_vision_tower(loaded).states(values).float()
        assert apart(changed, theirs) > 0.01
        then_with = clip_tower(tower_folder(loaded))
    found = (apart(theirs, tower.states(values)) for tower in (engines, trained_with))
    return *found, apart(changed, then_with.states(values))


@torch.inference_mode()
def main() -> None:
    model, _, _ = build_miniature()
    pictures, _, _ = miniature_person(0, 2)
    identity = encode_identity_images(Artifact.load(adapter_file), pictures).identity
    shown = apply_identity(model, identity)
    half = torch.zeros(1, 64, 64)
    half[..., :32] = 1
    options = {"weight": 0.8, "layers": "up_blocks=0.5"}
    region = {"weight": 0.8, "layers": {"up_blocks": 0.5}, "region": half[0]}
    stock, towers = predicted(model), towers_apart()
    print(json.dumps({  # noqa: T201 (the answer)
        "seen": apart(predicted(shown), stock),
        "unpatched model": apart(predicted(model), stock),
        "weight 0": apart(predicted(apply_identity(model, identity, weight=0.0)), stock),
        "other noise levels": apart(predicted(apply_identity(model, identity, start=0.9)), stock),
        "guided": apart(predicted(shown), through_the_engine(identity, [False, False, True, True])),
        "unguided": apart(predicted(shown, (COND,)), through_the_engine(identity, [True] * 4)),
        "alone": apart(predicted(shown, (UNCOND,)), through_the_engine(identity, [])),
        "region": apart(
            predicted(apply_identity(model, identity, mask=half, **options)),
            through_the_engine(identity, [False, False, True, True], **region),
        ),
        "twice a half": apart(
            predicted(apply_identity(apply_identity(model, identity, weight=0.5), identity, weight=0.5)),
            predicted(shown),
        ),
        "either order": apart(
            predicted(replaced(patched(shown)), **controlled()),
            predicted(apply_identity(replaced(patched(model)), identity), **controlled()),
        ),
        "others stay": apart(predicted(replaced(patched(shown))), predicted(shown)),
        "beside others": apart(predicted(replaced(patched(shown))), predicted(replaced(patched(model)))),
        "towers": towers[0],
        "tower of a training": towers[1],
        "changed tower": towers[2],
        **in_areas(model, identity),
        "overhead": overhead(model),
    }))  # fmt: skip


main()
