"""FLUX.2's layers by Black Forest Labs' names, which ComfyUI has too, and by diffusers'."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FRONTS = ("", "model.diffusion_model.", "diffusion_model.")  # of a transformer's names in files
_SIGNS = ("double_stream_modulation_img.lin.weight", "double_stream_modulation_img.linear.weight")
_TOPS = {
    "img_in": "x_embedder", "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.linear": "proj_out", "final_layer.adaLN_modulation.1": "norm_out.linear",
}  # fmt: skip
_IN_BLOCKS = {
    "img_attn.norm.query_norm": "attn.norm_q", "img_attn.norm.key_norm": "attn.norm_k",
    "img_attn.proj": "attn.to_out.0", "img_mlp.0": "ff.linear_in", "img_mlp.2": "ff.linear_out",
    "txt_attn.norm.query_norm": "attn.norm_added_q", "txt_attn.norm.key_norm": "attn.norm_added_k",
    "txt_attn.proj": "attn.to_add_out", "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
    "linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out", "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}  # fmt: skip
_FUSED = {  # one layer there, three here
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)")
_THEIR_BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d+)\.(.+)")
_SCALE = "final_layer.adaLN_modulation.1"  # shift before scale there, behind it here


def front_of(keys: Iterable[str]) -> str | None:
    """What the names of a FLUX.2 transformer begin with; None where there is none."""
    names = set(keys)
    return next((front for front in FRONTS if any(front + sign in names for sign in _SIGNS)), None)


def is_flux2(keys: Iterable[str]) -> bool:
    """Whether tensors of these names hold a FLUX.2 transformer."""
    return front_of(keys) is not None


def paths_of(layer: str) -> tuple[str, ...]:
    """diffusers' paths of a layer by Black Forest Labs' name: one, or three that are fused there; none for a
    name that FLUX.2 does not have."""
    match = _BLOCK.fullmatch(layer)
    if match is None:
        return (_TOPS[layer],) if layer in _TOPS else ()
    kind, number, inside = match.groups()
    front = f"{'single_' if kind == 'single' else ''}transformer_blocks.{number}."
    names = _FUSED.get(inside) or ((_IN_BLOCKS[inside],) if inside in _IN_BLOCKS else ())
    return tuple(front + name for name in names)


def has_path(path: str) -> bool:
    """Whether diffusers' FLUX.2 has a layer of this path; blocks are not counted."""
    match = _THEIR_BLOCK.fullmatch(path)
    if match is None:
        return path in _TOPS.values()
    single = match[1] is not None
    names = {name for layer, name in _IN_BLOCKS.items() if layer.startswith(("img_", "txt_")) != single}
    return match[3] in names or (not single and any(match[3] in fused for fused in _FUSED.values()))


def core_layer(path: str) -> str | None:
    """Black Forest Labs' name of a layer that ComfyUI does not know by diffusers' path; None of others."""
    unknown = path.startswith("time_guidance_embed.") or "_stream_modulation" in path
    return next((layer for layer, other in _TOPS.items() if unknown and other == path), None)


def spelled_out(name: str) -> str | None:
    """A layer's name by diffusers or Black Forest Labs, out of one whose dots became underscores."""
    match = re.fullmatch(r"(double_blocks|single_blocks|(?:single_)?transformer_blocks)_(\d+)_(\w+)", name)
    fused = [inside for names in _FUSED.values() for inside in names]
    inner = [*_IN_BLOCKS, *_FUSED, *_IN_BLOCKS.values(), *fused]
    leaves, rest = ([*_TOPS, *_TOPS.values()], name) if match is None else (inner, match[3])
    leaf = next((leaf for leaf in leaves if leaf.replace(".", "_") == rest), None)
    if leaf is None or match is None:
        return leaf
    return f"{match[1]}.{match[2]}.{leaf}"


def swapped(layer: str) -> bool:
    """Whether what a layer puts out comes in halves the other way round by diffusers' names."""
    return layer == _SCALE


def transformer_for_core(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A transformer's tensors under Black Forest Labs' names, as ComfyUI has them, out of diffusers'."""
    import torch

    blocks = dict.fromkeys(match.groups()[:2] for match in map(_THEIR_BLOCK.fullmatch, state) if match)
    inner = [(name, name.startswith(("img_", "txt_"))) for name in (*_IN_BLOCKS, *_FUSED)]
    layers = [*_TOPS]
    for single, number in blocks:
        kind = "single" if single else "double"
        layers += [f"{kind}_blocks.{number}.{name}" for name, double in inner if double != bool(single)]
    renamed: dict[str, Tensor] = {}
    for layer in layers:
        parts = [state[f"{path}.weight"] for path in paths_of(layer) if f"{path}.weight" in state]
        if parts:
            whole = torch.cat(parts)
            renamed[f"{layer}.weight"] = torch.cat(whole.chunk(2)[::-1]) if swapped(layer) else whole
    return renamed


def for_diffusers(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A transformer's tensors, without a front, under diffusers' names. Raises KeyError for one that FLUX.2
    does not have."""
    import torch

    if _SIGNS[1] in state:
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer, _, part = key.rpartition(".")
        paths = paths_of(layer)
        if not paths:
            raise KeyError(key)
        if layer == _SCALE:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        ending = "weight" if part == "scale" else part
        for path, one in zip(paths, tensor.chunk(len(paths)), strict=True):
            renamed[f"{path}.{ending}"] = one
    return renamed
