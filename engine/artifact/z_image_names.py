"""Z-Image's layers by the names of the files that ComfyUI reads, and by diffusers'."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .flux2_names import FRONTS

if TYPE_CHECKING:
    from torch import Tensor

_SIGNS = (  # what Lumina 2, whose blocks are called alike, does not have; and one of a block
    ("cap_pad_token", "noise_refiner.0.attention.k_norm.weight"),
    ("cap_pad_token", "noise_refiner.0.attention.norm_k.weight"),
)
_TOPS = {"x_embedder": "all_x_embedder.2-1", "final_layer": "all_final_layer.2-1"}
_IN_BLOCKS = {
    "attention.q_norm": "attention.norm_q", "attention.k_norm": "attention.norm_k",
    "attention.out": "attention.to_out.0",
}  # fmt: skip
_SAME = (
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "attention_norm1", "attention_norm2",
    "ffn_norm1", "ffn_norm2", "adaLN_modulation.0",
)  # fmt: skip
_FUSED = "attention.qkv"  # one layer there, three here
_SPLIT = ("attention.to_q", "attention.to_k", "attention.to_v")
_OUTSIDE = (
    *(f"{top}.{leaf}" for top, leaf in (("final_layer", "linear"), ("final_layer", "adaLN_modulation.1"))),
    "x_embedder", "cap_embedder.0", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2",
)  # fmt: skip
_BLOCK = re.compile(r"(layers|noise_refiner|context_refiner)\.(\d+)\.(.+)")
_UNUSED = "norm_final."  # in some files, and read by nobody


def z_image_front(keys: Iterable[str]) -> str | None:
    """What the names of a Z-Image transformer begin with; None where there is none."""
    names = set(keys)
    return next(
        (front for front in FRONTS for signs in _SIGNS if all(front + sign in names for sign in signs)), None
    )


def is_z_image(keys: Iterable[str]) -> bool:
    """Whether tensors of these names hold a Z-Image transformer."""
    return z_image_front(keys) is not None


def z_image_paths(layer: str) -> tuple[str, ...]:
    """diffusers' paths of a layer by either name: one, or three that are fused in files; none for a name that
    Z-Image does not have."""
    match = _BLOCK.fullmatch(layer)
    if match is None:
        for theirs, ours in _TOPS.items():
            layer = layer.replace(ours, theirs, 1) if layer.startswith(ours) else layer
        return (_top(layer),) if layer in _OUTSIDE else ()
    block, inside = f"{match[1]}.{match[2]}.", match[3]
    if inside == _FUSED:
        return tuple(block + name for name in _SPLIT)
    if inside in (*_SAME, *_SPLIT, *_IN_BLOCKS.values()):
        return (layer,)
    return (block + _IN_BLOCKS[inside],) if inside in _IN_BLOCKS else ()


def z_image_spelled_out(name: str) -> str | None:
    """A layer's name, out of one whose dots became underscores."""
    match = re.fullmatch(r"(layers|noise_refiner|context_refiner)_(\d+)_(\w+)", name)
    leaves: tuple[str, ...] = (*_OUTSIDE, *map(_top, _OUTSIDE))
    if match is not None:
        leaves = (*_SAME, *_SPLIT, _FUSED, *_IN_BLOCKS, *_IN_BLOCKS.values())
    rest = name if match is None else match[3]
    leaf = next((leaf for leaf in leaves if leaf.replace(".", "_") == rest), None)
    return leaf if leaf is None or match is None else f"{match[1]}.{match[2]}.{leaf}"


def _top(name: str) -> str:
    front, dot, rest = name.partition(".")
    return f"{_TOPS.get(front, front)}{dot}{rest}"


def z_image_for_diffusers(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A transformer's tensors, without a front, under diffusers' names. Raises KeyError for one that Z-Image
    does not have."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in ("x_pad_token", "cap_pad_token"):
            renamed[key] = tensor
            continue
        if key.startswith(_UNUSED):
            continue
        layer, _, part = key.rpartition(".")
        paths = z_image_paths(layer)
        if not paths:
            raise KeyError(key)
        for path, one in zip(paths, tensor.chunk(len(paths)), strict=True):
            renamed[f"{path}.{part}"] = one
    return renamed


def z_image_for_core(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A transformer's tensors under the names of the files that ComfyUI reads, out of diffusers'."""
    import torch

    renamed: dict[str, Tensor] = {}
    fused: dict[str, list[Tensor]] = {}
    for key, tensor in state.items():
        for theirs, ours in _TOPS.items():
            key = key.replace(f"{ours}.", f"{theirs}.", 1) if key.startswith(f"{ours}.") else key
        match = _BLOCK.fullmatch(key.rpartition(".")[0])
        if match is not None and match[3] in _SPLIT:
            whole = f"{match[1]}.{match[2]}.{_FUSED}.{key.rpartition('.')[2]}"
            fused.setdefault(whole, []).append(tensor)
            renamed[whole] = torch.cat(fused[whole])
            continue
        for theirs, ours in _IN_BLOCKS.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
        renamed[key] = tensor
    return renamed
