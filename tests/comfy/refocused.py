"""Run by the Python of a ComfyUI host: what refocusing does to the networks ComfyUI itself builds.

    python refocused.py CHECKOUT PARENT_OF_THE_PACKAGE

Prints one JSON object of facts, which test_refocus.py holds to what they should be.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

checkout, package_parent = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.controlnet  # noqa: E402
import comfy.ldm.modules.attention as attention  # noqa: E402
import comfy.sampler_helpers  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
import node_helpers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from likeness_portraits.engine.artifact import Artifact, Token  # noqa: E402
from likeness_portraits.engine.bases.base import load_base  # noqa: E402
from likeness_portraits.engine.comfy_bridge import refocus as bridge  # noqa: E402
from likeness_portraits.engine.comfy_bridge.miniature import build_miniature  # noqa: E402
from likeness_portraits.engine.comfy_bridge.people import people_in_regions  # noqa: E402
from likeness_portraits.engine.comfy_bridge.sampling import Sampling  # noqa: E402
from likeness_portraits.engine.comfy_bridge.staged import staged_prompt  # noqa: E402
from likeness_portraits.engine.comfy_bridge.words import apply  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.errors import LikenessError  # noqa: E402
from likeness_portraits.engine.inference.generate import generate  # noqa: E402
from likeness_portraits.engine.inference.refocus import Focus, box_region  # noqa: E402
from likeness_portraits.engine.inference.refocus_options import refocusing_of  # noqa: E402
from likeness_portraits.engine.inference.refocused import Refocusing  # noqa: E402
from likeness_portraits.tests.engine.tiny import staged_person  # noqa: E402

LEFT, RIGHT, ALL = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0)
PROMPT = "a photo of <v0> and <v1>, on a beach"
SEED, STEPS, GUIDANCE = 7, 6, 5.0
WAYS: dict[str, dict[str, Any]] = {
    "hard, apart": {},
    "hard, word": {"scope": "word"},
    "soft, for a while": {"mode": "soft", "scope": "word", "start": 0.1, "end": 0.8},
    "found": {"find": True, "scope": "word", "find_at": 0.4},
}


def person(number: int) -> Artifact:
    """Two vectors as long as words are, that nobody has learned."""
    rows = torch.randn(2, 128, generator=torch.Generator().manual_seed(number)) * 0.4
    token = Token(token=f"<v{number}>", class_word="woman", vectors=2)
    return Artifact(
        kind="embedding", method="test", tokens=(token,), tensors={f"token.v{number}.clip_l": rows},
        base_family="miniature",
    )  # fmt: skip


def with_lora(artifact: Artifact, unet: Any) -> Artifact:
    """The same person with a LoRA on all cross-attentions, that nobody has learned."""
    generator = torch.Generator().manual_seed(len(artifact.tensors) + int(artifact.tokens[0].token[2]))
    tensors = dict(artifact.tensors)
    for name, layer in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            key = f"lora_unet_{name.replace('.', '_')}"
            rows, columns = layer.weight.shape
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, columns, generator=generator) * 0.1
            tensors[f"{key}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.3
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
    return Artifact(
        kind="lora", method="test", tokens=artifact.tokens, tensors=tensors, base_family="miniature"
    )


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = ((first.astype(float) - second.astype(float)) ** 2).mean()
    return 120.0 if error == 0 else float(10 * np.log10(255**2 / error))


class Bench:
    """The Miniature as ComfyUI builds it, with two people in its words."""

    def __init__(self) -> None:
        self.model, self.clip, self.vae = build_miniature()
        for number in range(2):
            self.model, self.clip = apply(self.model, self.clip, person(number), 1.0, 1.0)
        self.negative = self.encode("")
        self.base = load_base(BaseSpec())

    def encode(self, text: str) -> Any:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def focuses(self, boxes: tuple = (LEFT, RIGHT), find: bool = False, **manner: Any) -> list[Focus]:
        return [
            Focus(token=f"<v{number}>", region=None if find else box, **manner)
            for number, box in enumerate(boxes)
        ]

    def prompt(self, focuses: list[Focus], text: str = PROMPT) -> tuple[Any, Any]:
        model, conditioning = self.model, None
        for focus in focuses:
            model, conditioning = bridge.refocused_prompt(
                model, self.clip, text, focus, conditioning=conditioning, vae=self.vae
            )
        return model, conditioning

    def draw(
        self, model: Any, positive: Any, height: int = 16, width: int = 32, **changes: Any
    ) -> torch.Tensor:
        told = {"batch": 1, "cfg": GUIDANCE, "sampler": "euler", "scheduler": "simple", **changes}
        latent = {"samples": torch.zeros(told["batch"], 4, height, width)}
        sampling = Sampling(
            latent, SEED, STEPS, told["cfg"], told["sampler"], told["scheduler"], 1.0, positive, self.negative
        )
        return sampling.draw(model)["samples"]

    def pixels(self, latents: torch.Tensor) -> np.ndarray:
        return (self.vae.decode(latents) * 255).clamp(0, 255).to(torch.uint8).numpy()


def likeness_of_pictures(bench: Bench) -> dict[str, list[float]]:
    """For each way: how near ours is to ComfyUI's picture, and how near the plain one is to it."""
    artifacts = [(person(number), 1.0) for number in range(2)]
    plain = bench.pixels(bench.draw(bench.model, bench.encode(PROMPT)))
    looking = refocusing_of(["<v0>=face"], bench.base)
    assert looking is not None
    found = {}
    for name, way in WAYS.items():
        focuses = bench.focuses(**way)
        theirs = bench.pixels(bench.draw(*bench.prompt(focuses)))
        ours = generate(
            bench.base, [PROMPT], artifacts=artifacts, seed=SEED, steps=STEPS, guidance=GUIDANCE, width=256,
            height=128, refocus=Refocusing(focuses=focuses, look=looking.look),
        )  # fmt: skip
        found[name] = [psnr(ours, theirs), psnr(plain, theirs)]
    return {**found, "staged": likeness_of_staged(bench), "two LoRAs": likeness_of_loras(bench)}


def likeness_of_loras(bench: Bench) -> list[float]:
    """The same of two people each of whom has a LoRA besides words."""
    people = [with_lora(person(number), bench.base.unet) for number in range(2)]
    model, clip, _ = build_miniature()
    for learned in people:
        model, clip = apply(model, clip, learned, 0.8, 0.8)
    drawn = generate(
        bench.base, [PROMPT], artifacts=[(learned, 0.8) for learned in people], seed=SEED, steps=STEPS,
        guidance=GUIDANCE, width=256, height=128, refocus=Refocusing(focuses=bench.focuses()),
    )  # fmt: skip
    plain = bench.pixels(bench.draw(model, clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))))
    positive = None
    for focus in bench.focuses():
        model, positive = bridge.refocused_prompt(model, clip, PROMPT, focus, conditioning=positive)
    theirs = bench.pixels(bench.draw(model, positive))
    without = bench.pixels(bench.draw(*bench.prompt(bench.focuses())))
    assert psnr(without, theirs) < 30  # the LoRAs are in both
    return [psnr(drawn, theirs), psnr(plain, theirs)]


def likeness_of_staged(bench: Bench) -> list[float]:
    """The same of a prompt whose first person changes with the noise level."""
    staged = staged_person("<v0>", 128, "miniature")
    model, clip = apply(*build_miniature()[:2], person(1), 1.0, 1.0)
    model, positive = staged_prompt(model, clip, staged, PROMPT)
    plain = bench.pixels(bench.draw(model, positive))
    focuses = bench.focuses(scope="word")
    for focus in focuses:
        model, positive = bridge.refocused_prompt(model, clip, PROMPT, focus, conditioning=positive)
    theirs = bench.pixels(bench.draw(model, positive))
    ours = generate(
        bench.base, [PROMPT], artifacts=[(staged, 1.0), (person(1), 1.0)], seed=SEED, steps=STEPS,
        guidance=GUIDANCE, width=256, height=128, refocus=Refocusing(focuses=focuses),
    )  # fmt: skip
    return [psnr(ours, theirs), psnr(plain, theirs)]


def untouched(bench: Bench) -> dict[str, bool]:
    """What must be the same to the last bit."""
    plain = bench.draw(bench.model, bench.encode(PROMPT))
    model, ones = bench.prompt(bench.focuses((ALL, ALL), scope="word"))
    other, halves = bench.prompt(bench.focuses())
    refocused = bench.draw(other, halves)
    return {
        "ones": torch.equal(bench.draw(model, ones), plain),
        "plain prompt, patched model": torch.equal(bench.draw(other, bench.encode(PROMPT)), plain),
        "regions, plain model": torch.equal(bench.draw(bench.model, halves), plain),
        "again": torch.equal(bench.draw(other, halves), refocused),
        "afterwards": torch.equal(bench.draw(bench.model, bench.encode(PROMPT)), plain),
        "regions do something": not torch.equal(refocused, plain),
    }


def step(model: Any, groups: dict[str, Any], x: torch.Tensor) -> list[torch.Tensor]:
    """What one step predicts for each group of prompts (CONDITIONING)."""
    network = model.model
    network.current_patcher = model
    conds = {name: comfy.sampler_helpers.convert_cond(prompts) for name, prompts in groups.items()}
    conds = comfy.samplers.process_conds(network, x, conds, torch.device("cpu"))
    sigma = torch.full((len(x),), 3.0)
    options = {"transformer_options": {"wrappers": model.wrappers}}  # as a sampler puts them there
    return comfy.samplers.calc_cond_batch(network, list(conds.values()), x, sigma, options)


def entry(context: torch.Tensor, **about: Any) -> list[Any]:
    return [context, {"pooled_output": torch.zeros(1, 1280), **about}]


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def families(tiny_model: Callable) -> dict[str, dict[str, bool]]:
    """On SD 1.x, 2.x and SDXL shapes and odd sizes: the word is masked, the negative prompt left alone."""
    kinds = {
        "sd1": (comfy.supported_models.SD15, {"use_linear_in_transformer": False, "num_heads": 4}),
        "sd2": (comfy.supported_models.SD20, {"use_linear_in_transformer": True, "num_head_channels": 16}),
        "sdxl": (
            comfy.supported_models.SDXL,
            {
                "use_linear_in_transformer": True,
                "num_head_channels": 16,
                "adm_in_channels": 2816,
                "num_classes": "sequential",
            },
        ),
    }
    found = {}
    for name, (kind, changes) in kinds.items():
        model = tiny_model(kind, **changes)
        generator = torch.Generator().manual_seed(3)
        context, other = (torch.randn(1, 77, 128, generator=generator) * 30 for _ in range(2))
        x = torch.randn(3, 4, 9, 15, generator=generator)
        aims = {bridge.AIMS: ((bridge.Aim(Focus(token="x", region=LEFT, scope="word")), (4, 5)),)}
        negative = [entry(other)]
        patched = bridge.with_refocus(model)
        before = step(model, {"positive": [entry(context)], "negative": negative}, x)
        after = step(patched, {"positive": [entry(context, **aims)], "negative": negative}, x)
        alone = step(patched, {"positive": [entry(context, **aims)]}, x)
        area = entry(context, **aims, area=(8, 8, 1, 5))
        pieces = step(patched, {"positive": [entry(context, **aims), area], "negative": negative}, x)
        found[name] = {
            "the prompt is masked": apart(before[0], after[0]) > 100 * apart(before[1], after[1]),
            "the negative is not": apart(before[1], after[1]) < 1e-4,
            "with or without guidance": apart(after[0], alone[0]) < 1e-4,
            "with areas": not torch.allclose(pieces[0], after[0], atol=1e-4)
            and bool(pieces[0].isfinite().all()),
        }
    return found


def neighbours(bench: Bench) -> dict[str, bool]:
    """Another pack's replacement of cross-attention, put in before or after ours, goes on being heard."""

    def louder(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Any) -> torch.Tensor:
        return attention.optimized_attention(q, k, v, options["n_heads"]) + 0.3

    def patched(model: Any) -> Any:
        model = model.clone()
        for block in (("input", 1), ("output", 5)):
            model.set_model_attn2_replace(louder, *block)
        return model

    refocused, halves = bench.prompt(bench.focuses(scope="word"))
    after = bench.draw(patched(refocused), halves)
    before = bench.draw(bridge.with_refocus(patched(bench.model)), halves)
    theirs = bench.draw(patched(bench.model), bench.encode(PROMPT))
    ones = bench.prompt(bench.focuses((ALL, ALL), scope="word"))
    return {
        "in either order": torch.allclose(after, before, atol=1e-5),
        "theirs is heard": not torch.allclose(after, bench.draw(refocused, halves), atol=1e-2),
        "ours is heard": not torch.allclose(after, theirs, atol=1e-2),
        "ones leave theirs": torch.equal(bench.draw(patched(ones[0]), ones[1]), theirs),
        **neighbours_of_own_prompts(bench, patched),
    }


def neighbours_of_own_prompts(bench: Bench, patched: Callable) -> dict[str, bool]:
    """The same where regions read prompts of their own, and beside a patch that puts tokens behind."""

    def more(n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, options: Any) -> tuple:
        return n, torch.cat([context, context.flip(1)], 1), torch.cat([value, value.flip(1)], 1)

    refocused, halves = bench.prompt(bench.focuses())
    longer = refocused.clone()
    longer.set_model_attn2_patch(more)
    alone, beside = bench.draw(refocused, halves), bench.draw(longer, halves)
    after = bench.draw(patched(refocused), halves)
    return {
        "apart: theirs is heard": _finite(after) and not torch.allclose(after, alone, atol=1e-2),
        "apart: ours is heard": not torch.allclose(
            after, bench.draw(patched(bench.model), bench.encode(PROMPT)), atol=1e-2
        ),
        "apart: their tokens": _finite(beside) and not torch.allclose(beside, alone, atol=1e-3),
    }


class Residual(comfy.controlnet.ControlBase):
    """What a ControlNet gives: something added to the middle of the network, here a slope."""

    def get_control(self, x_noisy: torch.Tensor, *told: Any) -> dict[str, list]:
        rows, (height, width) = len(x_noisy), (side // 4 for side in x_noisy.shape[-2:])
        slope = torch.linspace(-1, 1, width).expand(rows, 128, height, width)
        return {"input": [], "middle": [slope.clone()], "output": []}

    def copy(self) -> "Residual":
        return self

    def get_models(self) -> list[Any]:
        return []


def controlled(bench: Bench) -> dict[str, bool]:
    """Regions and a ControlNet on the same prompts."""
    control = Residual()

    def steered(model: Any, positive: Any) -> torch.Tensor:
        told = {"control": control, "control_apply_to_uncond": True}
        return bench.draw(model, node_helpers.conditioning_set_values(positive, told))

    model, halves = bench.prompt(bench.focuses())
    ones = bench.prompt(bench.focuses((ALL, ALL), scope="word"))
    plain, both = steered(bench.model, bench.encode(PROMPT)), steered(model, halves)
    return {
        "ones leave it": torch.equal(steered(*ones), plain),
        "regions act": not torch.allclose(both, plain, atol=1e-2),
        "control acts": not torch.allclose(both, bench.draw(model, halves), atol=1e-2),
    }


def whole_node(bench: Bench) -> dict[str, Any]:
    """What the sampler node gives for two pictures whose regions it has to find."""
    model, positive = bench.prompt(bench.focuses(find=True))
    latent, heat, regions, *_ = bridge.refocused_sample(
        model, positive, bench.negative, {"samples": torch.zeros(2, 4, 16, 32)}, vae=bench.vae, seed=SEED,
        steps=STEPS, cfg=GUIDANCE, sampler="dpmpp_2m", scheduler="karras",
    )  # fmt: skip
    model, halves = bench.prompt(bench.focuses())
    fixed, _, known, *_ = bridge.refocused_sample(
        model, halves, bench.negative, {"samples": torch.zeros(1, 4, 16, 32)}, vae=bench.vae, seed=SEED,
        steps=STEPS, cfg=GUIDANCE, sampler="euler", scheduler="simple",
    )  # fmt: skip
    return {
        "shapes": [list(latent["samples"].shape), list(heat.shape), list(regions.shape)],
        "heat": [float(heat.min()), float(heat.max())],
        "overlap": float((regions[0] * regions[1]).sum()),
        "as KSampler": torch.equal(fixed["samples"], bench.draw(model, halves)),
        "halves": [float(known[0].mean()), float(known[1][:, :128].sum())],
    }


def told(act: Callable[[], Any]) -> str:
    try:
        act()
    except LikenessError as error:
        return str(error)
    return ""


def mistakes(bench: Bench) -> dict[str, str]:
    mask = torch.ones(1, 64, 64)
    two = torch.cat([box_region(LEFT, (16, 32))] * 2)
    plain = bench.encode(PROMPT)

    def sampled(positive: Any) -> Any:
        return bridge.refocused_sample(
            bench.model, positive, bench.negative, {"samples": torch.zeros(1, 4, 16, 32)}, vae=bench.vae,
            seed=0, steps=1, cfg=1.0, sampler="euler", scheduler="simple",
        )  # fmt: skip

    def with_region(region: torch.Tensor, batch: int = 1) -> Any:
        return bench.draw(*bench.prompt([Focus(token="<v0>", region=region)]), batch=batch)

    return {
        "word": told(lambda: bench.prompt([Focus(token="red hat", region=LEFT)])),
        "placeholder": told(lambda: bench.prompt([Focus(token="<v7>", region=LEFT)])),
        "undefined": told(lambda: bench.prompt([Focus(token="<v7>", region=LEFT)], "a photo of <v7>")),
        "shape": told(lambda: with_region(mask)),
        "batch": told(lambda: with_region(two, 3)),
        "no region": told(lambda: sampled(plain)),
        "staged": told(lambda: staged_without_own(bench)),
        "no vae": told(lambda: bridge.refocused_prompt(bench.model, bench.clip, PROMPT, Focus(token="<v0>"))),
    }


def staged_without_own(bench: Bench) -> Any:
    staged = staged_person("<v0>", 128, "miniature")
    model, clip = apply(*build_miniature()[:2], person(1), 1.0, 1.0)
    model, positive = staged_prompt(model, clip, staged, PROMPT)
    focus = Focus(token="<v0>", region=LEFT)
    return bridge.refocused_prompt(model, clip, PROMPT, focus, conditioning=positive)


def stock_prompts(bench: Bench) -> dict[str, bool]:
    """What stock nodes do to CONDITIONING leaves the regions in it."""
    model, halves = bench.prompt(bench.focuses(scope="word"))
    ranged = node_helpers.conditioning_set_values(halves, {"start_percent": 0.0, "end_percent": 1.0})
    other = bench.encode("in a forest, " * 30)  # two chunks of tokens beside one
    alone = bench.draw(model, halves)
    together = bench.draw(model, halves + other)
    return {
        "time range": torch.equal(bench.draw(model, ranged), alone),
        "combined with a longer prompt": _finite(together) and not torch.equal(together, alone),
        "long prompt": _finite(bench.draw(*bench.prompt(bench.focuses(), "so very nice, " * 30 + PROMPT))),
    }


def encodes(count: int) -> list[int]:
    """How many prompts are encoded for so many people in regions, and for one more who is drawn again."""
    model, clip, _ = build_miniature()
    kind, encoded = type(clip), []
    genuine = kind.encode_from_tokens_scheduled

    def counted(self: Any, *tokens: Any, **about: Any) -> Any:
        encoded.append(tokens)
        return genuine(self, *tokens, **about)

    kind.encode_from_tokens_scheduled = counted
    try:
        words = " and ".join(f"<v{number}>" for number in range(count))
        shown = [person(number) for number in range(count)]
        _, _, people, _ = people_in_regions(model, clip, f"a photo of {words}", shown, "side by side")
        drawn = len(encoded)
        for _ in range(2):
            assert people.persons[0].positive
    finally:
        kind.encode_from_tokens_scheduled = genuine
    return [drawn, len(encoded)]


def _finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def main() -> None:
    sys.path.insert(0, f"{package_parent}/likeness_portraits/tests/comfy")
    from tiny_models import tiny_model

    with torch.inference_mode():  # as the executor runs nodes
        bench = Bench()
        facts = {
            "psnr": likeness_of_pictures(bench), "same": untouched(bench), "families": families(tiny_model),
            "neighbours": neighbours(bench), "node": whole_node(bench), "told": mistakes(bench),
            "stock": stock_prompts(bench), "control": controlled(bench), "encodes": encodes(6),
        }  # fmt: skip
    print(json.dumps(facts))  # noqa: T201 (the answer)


main()
