"""Run by the Python of a ComfyUI host: staged prompts beside ControlNets and other packs' attention patches.

    python staged_beside.py CHECKOUT PARENT_OF_THE_PACKAGE CONTROLNET

CONTROLNET is a file's path, which this writes: a ControlNet of the Miniature's shape and random weights.
Each picture is drawn twice: with our patch, and by hand, where hooks hand the values to each layer. Prints
one JSON object: for each neighbour how far both are apart, and how far from the picture without the values,
and without the neighbour.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

checkout, package_parent, controlnet_file = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [checkout, package_parent]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cldm.cldm  # noqa: E402
import comfy.controlnet  # noqa: E402
import comfy.ldm.modules.attention as attention  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import nodes  # noqa: E402
from likeness_portraits.engine.comfy_bridge.miniature import build_miniature  # noqa: E402
from likeness_portraits.engine.comfy_bridge.sampling import Sampling  # noqa: E402
from likeness_portraits.engine.comfy_bridge.staged import VALUES, staged_prompt  # noqa: E402
from likeness_portraits.tests.engine.tiny import staged_person  # noqa: E402

TEXT = "a watercolor painting of a smiling {}, wearing a green shirt, in a forest"
STEPS, GUIDANCE = 4, 5.0
RANDOM = torch.Generator().manual_seed(0)
PICTURE = torch.randn(1, 5, 128, generator=RANDOM)  # another pack's image tokens

Neighbour = Callable[[Any], Any]  # a clone of MODEL with another node's patch
Stock = Callable[[Any], Any]  # CONDITIONING as a stock node makes another of it


def random_controlnet(model: Any, path: str) -> Any:
    """Of the MODEL's shape, by ComfyUI's own loader."""
    config = {name: value for name, value in model.model.model_config.unet_config.items()}
    config.pop("out_channels", None)
    config.pop("transformer_depth_output", None)
    torch.manual_seed(3)
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **config)
    weights = {}
    for name, weight in network.state_dict().items():
        small = weight.ndim < 2 and not name.endswith("bias")  # a norm's factors
        weights[name] = torch.ones_like(weight) if small else 0.05 * torch.randn(weight.shape)
    save_file(weights, path)
    return comfy.controlnet.load_controlnet(path)


def appended(model: Any, rows: torch.Tensor = PICTURE) -> Any:
    """As the first IP-Adapters did it: image tokens behind the prompt's, for keys and values."""

    def patch(n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, _options: Any) -> tuple:
        more = rows.to(context).expand(len(context), -1, -1)
        return n, torch.cat([context, more], 1), torch.cat([value, -more], 1)

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def appended_as_many(model: Any) -> Any:
    """As many image tokens as the prompt has text states: no lengths that were evened out."""
    return appended(model, PICTURE.repeat(1, 16, 1)[:, :77])


def decoupled(model: Any) -> Any:
    """As today's IP-Adapters do it: attention to image tokens is added to cross-attention, in its place, for
    the prompt's rows only."""

    def instead(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Any) -> torch.Tensor:
        wide = q.shape[-1]
        rows = PICTURE.to(q).repeat(len(q), 1, -(-wide // PICTURE.shape[-1]))[..., :wide]
        shown = torch.tensor([kind == 0 for kind in options["cond_or_uncond"]]).to(q)
        shown = shown.repeat_interleave(len(q) // len(shown))[:, None, None]
        extra = attention.optimized_attention(q, rows, rows, options["n_heads"])
        return attention.optimized_attention(q, k, v, options["n_heads"]) + 0.2 * shown * extra

    model = model.clone()
    blocks = [("input", n) for n in range(12)] + [("middle", n) for n in range(3)]
    for place, number in blocks + [("output", n) for n in range(12)]:
        model.set_model_attn2_replace(instead, place, number)
    return model


@contextmanager
def by_hand(model: Any, values: torch.Tensor) -> Iterator[Any]:
    """Within, layers of a clone of MODEL make values of `values` (1, T, D) for the prompt, without us."""
    model, chunks = model.clone(), []

    def remember(executor: Any, x: Any, timesteps: Any, context: Any, y: Any, control: Any, options: Any,
                 **more: Any) -> Any:  # fmt: skip
        chunks[:] = options["cond_or_uncond"]
        return executor(x, timesteps, context, y, control, options, **more)

    def swap(_layer: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        rows = []
        for kind, given in zip(chunks, inputs[0].chunk(len(chunks))):
            own = values.to(given).expand(len(given), -1, -1)
            rows.append(torch.cat([own, given[:, own.shape[1] :]], 1) if kind == 0 else given)
        return (torch.cat(rows),)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "test", remember)
    network = model.model.diffusion_model
    layers = [part for name, part in network.named_modules() if name.endswith("attn2.to_v")]
    hooks = [layer.register_forward_pre_hook(swap) for layer in layers]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


@torch.inference_mode()
def main() -> None:
    model, clip, _ = build_miniature()
    person = staged_person("<v0>", 128, "miniature")
    person = replace(person, extra={**person.extra, "interval": [0, 1000], "stages": 1})
    patched, positive = staged_prompt(model, clip, person, TEXT.format("<v0>"))
    ((keys, about),) = positive  # one stage for all noise levels
    values = about[VALUES]
    plain = [[keys, {"pooled_output": about["pooled_output"]}]]
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("a man, in a kitchen"))
    network = random_controlnet(model, controlnet_file)
    hint = torch.rand(1, 128, 128, 3, generator=RANDOM)

    hat = clip.encode_from_tokens_scheduled(clip.tokenize("a red hat"))
    concat, average = nodes.ConditioningConcat().concat, nodes.ConditioningAverage().addWeighted

    def draw(model: Any, positive: Any, controlled: bool = False) -> torch.Tensor:
        both = positive, negative
        if controlled:
            both = nodes.ControlNetApplyAdvanced().apply_controlnet(*both, network, hint, 0.8, 0.0, 1.0)[:2]
        latent = {"samples": torch.zeros(2, 4, 16, 16)}
        return Sampling(latent, 7, STEPS, GUIDANCE, "euler", "simple", 1.0, *both).draw(model)["samples"]

    alone = draw(patched, positive)
    nothing: Neighbour = lambda model: model  # noqa: E731
    # who is put on before ours, who after it, whether there is a ControlNet, and what the prompt goes through
    ways: dict[str, tuple[Neighbour, Neighbour, bool, Stock]] = {
        "nobody": (nothing, nothing, False, nothing),
        "ControlNet": (nothing, nothing, True, nothing),
        "appended tokens": (nothing, appended, False, nothing),
        "appended tokens before": (appended, nothing, False, nothing),
        "as many appended": (nothing, appended_as_many, False, nothing),
        "decoupled attention": (nothing, decoupled, False, nothing),
        "all of them": (appended, decoupled, True, nothing),
        "concat": (nothing, nothing, False, lambda prompt: concat(prompt, hat)[0]),
        "two concats": (nothing, nothing, False, lambda prompt: concat(concat(prompt, hat)[0], hat)[0]),
        "concat and appended": (nothing, appended, False, lambda prompt: concat(prompt, hat)[0]),
        "average": (nothing, nothing, False, lambda prompt: average(prompt, hat, 0.6)[0]),
    }
    found = {}
    for name, (before, after, controlled, stock) in ways.items():
        stacked, _ = staged_prompt(before(model), clip, person, TEXT.format("<v0>"))
        drawn = draw(after(stacked), stock(positive), controlled)
        neighbours, bare = after(before(model)), stock(plain)
        front = bare[0][0][:, : keys.shape[1]]
        moved = values if torch.equal(front, keys) else values + (front - keys)  # along with an average
        with by_hand(neighbours, moved) as reference:
            wanted = draw(reference, bare, controlled)
        found[name] = {
            "by hand": apart(drawn, wanted), "values": apart(drawn, draw(neighbours, bare, controlled)),
            "neighbour": apart(drawn, alone),
        }  # fmt: skip
    print(json.dumps(found))  # noqa: T201 (the answer)


main()
