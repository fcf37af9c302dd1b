"""Krea 2's layers by its makers' names, which ComfyUI has too, and by diffusers'."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_FRONTS = ("", "model.diffusion_model.", "diffusion_model.")  # of a transformer's names in files
_SIGNS = ("txtfusion.projector.weight", "text_fusion.projector.weight")
_TOPS = {
    "first": "img_in", "tmlp.0": "time_embed.linear_1", "tmlp.2": "time_embed.linear_2",
    "tproj.1": "time_mod_proj", "txtmlp.0": "txt_in.norm", "txtmlp.1": "txt_in.linear_1",
    "txtmlp.3": "txt_in.linear_2", "txtfusion.projector": "text_fusion.projector",
    "last.linear": "final_layer.linear", "last.norm": "final_layer.norm",
}  # fmt: skip
_TABLES = {"last.modulation.lin": "final_layer.scale_shift_table"}  # tensors that are no layer's
_BLOCKS = {
    "blocks": "transformer_blocks", "txtfusion.layerwise_blocks": "text_fusion.layerwise_blocks",
    "txtfusion.refiner_blocks": "text_fusion.refiner_blocks",
}  # fmt: skip
_IN_BLOCKS = {
    "attn.wq": "attn.to_q", "attn.wk": "attn.to_k", "attn.wv": "attn.to_v", "attn.wo": "attn.to_out.0",
    "attn.gate": "attn.to_gate", "attn.qknorm.qnorm": "attn.norm_q", "attn.qknorm.knorm": "attn.norm_k",
    "mlp.gate": "ff.gate", "mlp.up": "ff.up", "mlp.down": "ff.down", "prenorm": "norm1", "postnorm": "norm2",
}  # fmt: skip
_BLOCK = re.compile(rf"({'|'.join(map(re.escape, _BLOCKS))})\.(\d+)\.(.+)")
_THEIR_BLOCK = re.compile(rf"({'|'.join(map(re.escape, _BLOCKS.values()))})\.(\d+)\.(.+)")


def krea2_front(keys: Iterable[str]) -> str | None:
    """What the names of a Krea 2 transformer begin with; None where there is none."""
    names = set(keys)
    return next((front for front in _FRONTS if any(front + sign in names for sign in _SIGNS)), None)


def is_krea2(keys: Iterable[str]) -> bool:
    """Whether tensors of these names hold a Krea 2 transformer."""
    return krea2_front(keys) is not None


def krea2_path(layer: str) -> str | None:
    """diffusers' path of a layer by its makers' name; None for a name that Krea 2 does not have."""
    match = _BLOCK.fullmatch(layer)
    if match is None:
        return _TOPS.get(layer)
    kind, number, inside = match.groups()
    return f"{_BLOCKS[kind]}.{number}.{_IN_BLOCKS[inside]}" if inside in _IN_BLOCKS else None


def has_krea2_path(path: str) -> bool:
    """Whether diffusers' Krea 2 has a layer of this path; blocks are not counted."""
    match = _THEIR_BLOCK.fullmatch(path)
    return path in _TOPS.values() if match is None else match[3] in _IN_BLOCKS.values()


def krea2_spelled_out(name: str) -> str | None:
    """A layer's name by diffusers or its makers, out of one whose dots became underscores."""
    blocks = {block.replace(".", "_"): block for block in (*_BLOCKS, *_BLOCKS.values())}
    match = re.fullmatch(rf"({'|'.join(blocks)})_(\d+)_(\w+)", name)
    leaves = (
        [*_TOPS, *_TOPS.values()] if match is None else [*_IN_BLOCKS, *_IN_BLOCKS.values(), "attn.to_out"]
    )
    rest = name if match is None else match[3]
    leaf = next((leaf for leaf in leaves if leaf.replace(".", "_") == rest), None)
    return leaf if leaf is None or match is None else f"{blocks[match[1]]}.{match[2]}.{leaf}"


def krea2_for_diffusers(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A transformer's tensors, without a front, under diffusers' names. Raises KeyError for one that Krea 2
    does not have."""
    if _SIGNS[1] in state:
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer, _, part = key.rpartition(".")
        path, table = krea2_path(layer), re.fullmatch(r"blocks\.(\d+)\.mod\.lin", key)
        if key in _TABLES:
            renamed[_TABLES[key]] = tensor
        elif table is not None:  # six vectors in one
            renamed[f"transformer_blocks.{table[1]}.scale_shift_table"] = tensor.reshape(6, -1)
        elif path is not None:
            renamed[f"{path}.{'weight' if part == 'scale' else part}"] = tensor
        else:
            raise KeyError(key)
    return renamed
