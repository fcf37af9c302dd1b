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
import time  # noqa: E402

import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy_api.latest  # noqa: E402, F401 (there before any pack is)
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


START = seconds_to_start()  # before anything of the engine is imported

from likeness_portraits.engine.comfy_bridge.miniature import build_miniature, miniature_person  # noqa: E402
from likeness_portraits.engine.comfy_bridge.weights import take_weights  # noqa: E402
from likeness_portraits.engine.config import BaseSpec  # noqa: E402
from likeness_portraits.engine.training.base_model import BaseModel, load_base  # noqa: E402
from likeness_portraits.engine.training.graph_base import base_from_graph  # noqa: E402

PROMPTS = ["a photo of a smiling man, wearing a red hoodie, on a beach", "", "a sketch of a woman"]
RANDOM = torch.Generator().manual_seed(0)


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def text_states(clip: Any) -> torch.Tensor:
    return torch.cat([clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0] for prompt in PROMPTS])


@torch.inference_mode()
def differences(loaded: tuple[Any, Any, Any], base: BaseModel, side: int) -> dict[str, float]:
    """ComfyUI's MODEL, CLIP and VAE against the engine's base."""
    model, clip, vae = loaded
    context = base.encode_text(PROMPTS)
    noisy = torch.randn(len(PROMPTS), 4, side, side, generator=RANDOM)
    timesteps = torch.tensor([1, 500, 999])
    predicted = model.model.diffusion_model(noisy, timesteps.float(), context=context)
    pixels, _, _ = miniature_person(0, 2)
    latents = vae.encode(pixels)
    return {
        "text": apart(text_states(clip), context),
        "noise": apart(predicted, base.predict(noisy, timesteps, context)),
        "latents": apart(latents, base.encode_pixels(pixels.movedim(-1, 1) * 2 - 1) / base.latent_scale),
        "pictures": apart(  # as IMAGE, in [0, 1]
            vae.decode(latents), base.decode(latents * base.latent_scale).movedim(1, -1) / 2 + 0.5
        ),
    }


def taken_out(loaded: tuple[Any, Any, Any]) -> BaseModel:
    """The base that training gets, as from a node, which ComfyUI runs in inference mode."""
    with torch.inference_mode(), torch.inference_mode(False):
        return base_from_graph(take_weights(*loaded))


def tiny_model(kind: type, **changes: Any) -> Any:
    """A MODEL with random weights, of an architecture that ComfyUI knows."""
    config = kind({
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2],
        "num_res_blocks": [2, 2], "transformer_depth": [1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1, "context_dim": 128,
        "use_spatial_transformer": True, "legacy": False, "use_checkpoint": False, "adm_in_channels": None,
        "use_temporal_attention": False, "use_temporal_resblock": False, **changes,
    })  # fmt: skip
    config.unet_config |= changes
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=RANDOM) * 0.05)
    return comfy.model_patcher.ModelPatcher(
        model, load_device=torch.device("cpu"), offload_device=torch.device("cpu")
    )


def main() -> None:
    with torch.inference_mode():  # as the executor runs the node
        loaded = build_miniature()
    model, clip, vae = loaded
    headless = load_base(BaseSpec())
    from_graph = taken_out(loaded)
    sd1 = (tiny_model(comfy.supported_models.SD15, use_linear_in_transformer=False, num_heads=4), clip, vae)
    sd2 = (
        tiny_model(comfy.supported_models.SD20, use_linear_in_transformer=True, num_head_channels=16),
        clip, vae,
    )  # fmt: skip
    patched = model.clone()
    untouched = from_graph.unet.state_dict()["conv_in.weight"]
    patch = ("diff", (torch.ones_like(untouched),))
    patched.add_patches({"diffusion_model.input_blocks.0.0.weight": patch}, 0.5)
    as_used = taken_out((patched, clip, vae)).unet.state_dict()["conv_in.weight"]
    print(json.dumps({  # noqa: T201 (the answer)
        "start": START,
        "headless": differences(loaded, headless, 16),
        "taken out": differences(loaded, from_graph, 16),
        "sd1": differences(sd1, taken_out(sd1), 8),
        "sd2 noise": differences(sd2, taken_out(sd2), 8)["noise"],
        "schedule": apart(headless.alphas_cumprod, from_graph.alphas_cumprod),
        "same fingerprint": headless.fingerprint == from_graph.fingerprint,
        "patch of a half": (as_used - untouched).mean().item(),
    }))  # fmt: skip


main()
