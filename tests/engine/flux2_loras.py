"""LoRAs for a FLUX.2 in the layouts that people's files have, with random numbers that show."""

import torch
from torch import Tensor

from likeness_portraits.tests.engine.tiny_flux2 import bfl_names

RANK, ALPHA = 3, 2.0
Tensors = dict[str, Tensor]
Matrices = dict[str, tuple[Tensor, Tensor]]  # down and up, by layer
_THIRDS = {"to_q": 0, "add_q_proj": 0, "to_k": 1, "add_k_proj": 1, "to_v": 2, "add_v_proj": 2}
NOT_IN_CORE = ("time_guidance_embed", "modulation")  # by diffusers' names


def matrices(state: Tensors) -> Matrices:
    """For each layer by Black Forest Labs' names; `state`: the transformer's, by diffusers'."""
    random, found = torch.Generator().manual_seed(3), {}
    for key, weight in bfl_names(state).items():
        if weight.ndim == 2:
            shapes = (RANK, weight.shape[1]), (weight.shape[0], RANK)
            down, up = (torch.randn(shape, generator=random) * 0.1 for shape in shapes)
            found[key.removesuffix(".weight")] = down, up
    return found


def for_diffusers(theirs: Matrices, state: Tensors) -> Matrices:
    """The same by diffusers' paths."""
    found = {}
    for key, weight in state.items():
        if weight.ndim == 2:
            path = key.removesuffix(".weight")
            ((name, _),) = bfl_names({key: weight}).items()
            down, up = theirs[name.removesuffix(".weight")]
            third = _THIRDS.get(path.rpartition(".")[2])
            if third is not None:
                up = up.chunk(3)[third]
            if path == "norm_out.linear":
                up = torch.cat([*up.chunk(2)[1:], up.chunk(2)[0]])
            found[path] = down, up
    return found


def changed(state: Tensors, scale: float) -> Tensors:
    """Weights by Black Forest Labs' names with the LoRA in them."""
    of = matrices(state)
    return {
        key: weight + scale * of[layer][1] @ of[layer][0] if (layer := key.removesuffix(".weight")) in of
        else weight
        for key, weight in bfl_names(state).items()
    }  # fmt: skip


def _peft(layers: Matrices, front: str, ending: str = "") -> Tensors:
    return {f"{front}{path}.lora_{way}{ending}.weight": tensor for path, pair in layers.items()
            for way, tensor in zip("AB", pair)}  # fmt: skip


def _kohya(layers: Matrices, front: str, dots: bool = False) -> Tensors:
    found = {}
    for path, (down, up) in layers.items():
        name = front + (path if dots else path.replace(".", "_"))
        found |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        found[f"{name}.alpha"] = torch.tensor(ALPHA)
    return found


def every_layout(state: Tensors, all_layers: bool = True) -> dict[str, Tensors]:
    """Files by what they are called in tests; those with kohya's endings say alpha. Without `all_layers`
    only those that ComfyUI knows by diffusers' names."""
    theirs = matrices(state)
    own = {path: pair for path, pair in for_diffusers(theirs, state).items()
           if all_layers or not any(word in path for word in NOT_IN_CORE)}  # fmt: skip
    kohya = _kohya(theirs, "lora_unet_")
    return {
        "ComfyUI's, PEFT's endings": _peft(theirs, "diffusion_model."),
        "ComfyUI's": _kohya(theirs, "diffusion_model.", dots=True),
        "kohya": kohya,
        "bf16": {key: tensor.bfloat16() for key, tensor in kohya.items()},
        "diffusers": _peft(own, "transformer."),
        "diffusers with alphas": _kohya(own, "transformer.", dots=True),
        "DiffSynth": _peft(own, "", ".default"),
        "OneTrainer": _kohya(own, "lora_transformer_"),
        "LyCORIS": _kohya(own, "lycoris_"),
        "PEFT": _peft(own, "base_model.model."),
    }
