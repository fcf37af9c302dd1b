"""Low-rank updates in kohya's or PEFT's naming: which module a name means, weights with updates folded in.

Names: `lora_unet_` or `lora_te_` (two text encoders: `lora_te1_`, `lora_te2_`), then the module's path with
underscores, then `.lora_down.weight` (r, in), `.lora_up.weight` (out, r) or `.alpha`; or the endings of a
relative (LoCon, DoRA, LoHa, LoKr, OFT, a whole difference). U-Nets' modules are known by LDM's names too,
which kohya's trainer takes for SDXL and ComfyUI's for all. Transformers' modules have PEFT's names:
`transformer.` or `text_encoders.<encoder>.transformer.model.`, the module's path, then `.lora_A.weight`
(r, in), `.lora_B.weight` (out, r) or `.alpha`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LikenessError
from .concept_file import lora_layer

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
PEFT_DOWN, PEFT_UP = ".lora_A.weight", ".lora_B.weight"
RANK_BY_NOISE = "rank_by_noise"  # in an artifact's `extra`: the ranks there are, and how few count at least
_LDM_TOPS = {  # diffusers' names of a U-Net's parts, and LDM's
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
_LDM_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip


def unet_name(path: str) -> str:
    """The kohya name of a U-Net module, from its path in diffusers' class."""
    return "lora_unet_" + path.replace(".", "_")


def transformer_name(path: str) -> str:
    """The PEFT name of a transformer's module, from its path in diffusers' class."""
    return f"transformer.{path}"


def language_model_name(path: str, encoder: str) -> str:
    """The name of a language model's module that ComfyUI reads, from its path in transformers' class."""
    return f"text_encoders.{encoder}.transformer.model.{path}"


def text_name(path: str, number: int = 0, encoders: int = 1) -> str:
    """The kohya name of a text encoder's module, from its path in transformers' class (old or new)."""
    prefix = "lora_te" if encoders == 1 else f"lora_te{number + 1}"
    path = (
        path if path.startswith("text_model.") else f"text_model.{path}"
    )  # transformers 5 dropped this level
    return f"{prefix}_{path.replace('.', '_')}"


def ldm_paths(paths: Iterable[str], layers: int) -> dict[str, str]:
    """By what diffusers calls a U-Net's modules, what LDM does; `layers`: of each block."""
    paths = list(paths)
    crossing = {path.partition(".attentions.")[0] for path in paths if ".attentions." in path}
    renamed = {}
    for path in paths:
        top = next((top for top in _LDM_TOPS if f"{path}.".startswith(f"{top}.")), None)
        if top is not None:
            place, rest = _LDM_TOPS[top], path.removeprefix(top).lstrip(".")
        else:
            block, level, kind, number, *names = path.split(".")
            rest = ".".join(names)
            place = _ldm_block(block, int(level), kind, int(number), layers, f"{block}.{level}" in crossing)
            rest = "op" if kind == "downsamplers" else rest
        rest = _LDM_RESNET.get(rest, rest) if "resnets" in path else rest
        renamed[path] = f"{place}.{rest}" if rest else place
    return renamed


def _ldm_block(block: str, level: int, kind: str, number: int, layers: int, crossing: bool) -> str:
    """LDM's name for a part of one of diffusers' blocks; an upsampler comes behind attention, where it is."""
    first, place = level * (layers + 1), {"resnets": 0, "attentions": 1}
    if block == "down_blocks":
        at = first + layers + 1 if kind == "downsamplers" else first + 1 + number
        return f"input_blocks.{at}.{place.get(kind, 0)}"
    at = first + layers if kind == "upsamplers" else first + number
    return f"output_blocks.{at}.{place.get(kind, 1 + crossing)}"


def adaptable(unet: nn.Module, text_encoders: list[nn.Module]) -> dict[str, nn.Module]:
    """Every linear, convolution and norm layer by its kohya names."""
    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    paths = {path: module for path, module in unet.named_modules() if isinstance(module, kinds)}
    by_name: dict[str, nn.Module] = {unet_name(path): module for path, module in paths.items()}
    layers: Any = getattr(getattr(unet, "config", None), "layers_per_block", None)
    if layers is not None:  # transformers never had LDM's names
        theirs = ldm_paths(paths, layers)
        by_name |= {unet_name(theirs[path]): module for path, module in paths.items()}
    for number, encoder in enumerate(text_encoders):
        for path, module in encoder.named_modules():
            if isinstance(module, kinds):
                by_name[text_name(path, number, len(text_encoders))] = module
    return by_name


def adaptable_in(network: nn.Module, encoders: Mapping[str, Any], peft_names: bool) -> dict[str, nn.Module]:
    """A base's layers by the names that its LoRAs have for them."""
    if not peft_names:
        return adaptable(network, list(encoders.values()))
    parts = [(transformer_name, network)]
    parts += [(partial(language_model_name, encoder=name), encoder) for name, encoder in encoders.items()]
    return {
        named(path): module
        for named, part in parts
        for path, module in part.named_modules()
        if isinstance(module, nn.Linear)
    }


def by_module(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A LoRA's tensors by the name of their module, then by kohya's endings, without the dot."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, part = lora_layer(key)
        modules.setdefault(name, {})[part] = tensor
    return modules


def lora_changed(weight: Tensor, parts: Mapping[str, Tensor], strength: float) -> Tensor:
    """A weight in fp32 with `strength` times a module's update, as ComfyUI's weight adapters compute it."""
    weight = weight.detach().float()
    parts = {part: tensor.to(weight.device).float() for part, tensor in parts.items()}
    if "oft_blocks" in parts:
        return weight + strength**2 * _rotation(weight, parts["oft_blocks"], float(parts.get("alpha", 0.0)))
    update = update_of(parts).reshape(weight.shape)
    if "dora_scale" not in parts:
        return weight + strength * update
    return weight + strength * (_of_magnitude(parts["dora_scale"], weight, weight + update) - weight)


def update_of(parts: Mapping[str, Tensor]) -> Tensor:
    """What a module's weight changes by at strength 1, (out, in) or flattened behind, before any DoRA."""
    update, rank = _update(parts)
    return update * (float(parts["alpha"]) / rank if rank and "alpha" in parts else 1.0)


def _update(parts: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """What a module's weight changes by at scale 1, and the rank that divides alpha; 0: alpha is unused."""
    if DOWN[1:] in parts:
        down, up = parts[DOWN[1:]], parts[UP[1:]]
        rank = down.shape[0]
        if "lora_mid.weight" in parts:  # a convolution's Tucker core (r, r, h, w)
            down = torch.einsum("o r h w, r i -> o i h w", parts["lora_mid.weight"], down.flatten(1))
        return up.flatten(1) @ down.flatten(1), rank
    if "hada_w1_a" in parts:
        first, second = (_hadamard_factor(parts, n) for n in (1, 2))
        return first * second, parts["hada_w1_b"].shape[0]
    if "diff" in parts:
        return parts["diff"], 0
    rank = 0
    factors = []
    for number in (1, 2):
        factors.append(parts.get(f"lokr_w{number}"))
        if factors[-1] is None:
            factors[-1] = parts[f"lokr_w{number}_a"] @ parts[f"lokr_w{number}_b"]
            rank = parts[f"lokr_w{number}_b"].shape[0]
    first, second = factors
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - first.ndim)), second), rank


def _hadamard_factor(parts: Mapping[str, Tensor], number: int) -> Tensor:
    """One of a LoHa's two factors: a product, through a Tucker core where there is one."""
    first, second = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    if f"hada_t{number}" in parts:
        return torch.einsum("i j k l, j r, i p -> p r k l", parts[f"hada_t{number}"], second, first)
    return first @ second


def _of_magnitude(magnitude: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """DoRA: directions of `after` with learned lengths (arXiv 2402.09353). Along outputs the length they had
    before is divided by, as ComfyUI does it, along inputs the one they have."""
    if len(magnitude) == len(after):
        length = before.flatten(1).norm(dim=1).reshape(-1, *[1] * (after.ndim - 1))
    else:
        length = after.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (after.ndim - 2))
    return after * (magnitude / (length + torch.finfo(length.dtype).eps))


def _rotation(weight: Tensor, blocks: Tensor, most: float) -> Tensor:
    """What rotating a weight's outputs in blocks (k, n, n) changes (OFT, arXiv 2306.07280); `most`: the norm
    that a rotation's generator is held to. ComfyUI multiplies it with the strength twice."""
    turn = blocks - blocks.transpose(1, 2)
    if 0 < most < turn.norm():
        turn = turn * (most / (turn.norm() + 1e-8))
    one = torch.eye(blocks.shape[1], device=blocks.device)
    rotation = (one + turn) @ torch.linalg.inv(one - turn)
    split = weight.unflatten(0, tuple(blocks.shape[:2]))
    return torch.einsum("k n m, k n ... -> k m ...", rotation - one, split).flatten(0, 1)


@contextmanager
def merged(
    modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], strength: float
) -> Iterator[None]:
    """The named modules with `strength` times the updates added; afterwards their own parameters are back."""
    updates = by_module(tensors)
    unknown = [name for name in updates if name not in modules]
    if unknown:
        raise LikenessError(
            f"this base has no layer for {unknown[0]}; use the base that the LoRA was made for"
        )
    # the objects themselves must come back; a weight that is kept in 8 bits is no parameter of its own
    originals: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    try:
        for name, parts in updates.items():
            for kind, own_parts in _by_parameter(parts).items():
                module, original = modules[name], getattr(modules[name], kind, None)
                if original is None:
                    raise LikenessError(
                        f"{name} has no {kind} in this base; use the base the LoRA was made for"
                    )
                try:
                    new = lora_changed(original, own_parts, strength).to(original.dtype)
                except RuntimeError as error:
                    raise LikenessError(
                        f"{name} has another size in this base; use the base the LoRA was made for"
                    ) from error
                originals.append((module, kind, module._parameters.get(kind)))
                module._parameters[kind] = nn.Parameter(new, requires_grad=False)
        yield
    finally:
        for module, kind, before in reversed(originals):
            if before is None:
                del module._parameters[kind]
            else:
                module._parameters[kind] = before


def _by_parameter(parts: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What changes a module's weight, and what its bias, as tensors that `changed` takes."""
    weight = {part: tensor for part, tensor in parts.items() if part != "diff_b"}
    bias = {"diff": parts["diff_b"]} if "diff_b" in parts else {}
    only_alpha = not weight.keys() - {"alpha"}
    return {**({} if only_alpha else {"weight": weight}), **({"bias": bias} if bias else {})}
