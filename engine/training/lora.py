"""LoRA layers and their relatives (`adapters`) while they are trained: peft puts them in and takes them out
again; files have their family's names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..artifact import lora as kohya
from ..bases.base import BaseModel
from ..bases.lora_ranks import RankByNoise
from ..errors import LikenessError
from .adapters import ADAPTER, AdapterShape, adapted_layers, file_parts, magnitude, put_in, trained
from .orthogonal_lora import OrthogonalDown, halves, merged_halves


def inject(
    module: nn.Module,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    *,
    gaussian: bool = False,
    orthogonal: bool = False,
    ranks: RankByNoise | None = None,
    shape: AdapterShape | None = None,
) -> list[nn.Parameter]:
    """Adds LoRA to every layer whose path ends in one of the targets; returns the new parameters in order.

    The first update is zero; the random half comes from torch's global generator, evenly within bounds or
    normal with a deviation of 1 / rank; or both halves are `orthogonal`. `ranks`: how many count in a pass.
    `shape`: of another kind of adapter, or with other ranks in some layers.
    """
    shape = shape or AdapterShape(rank=rank, alpha=alpha)
    put_in(module, targets, shape, "gaussian" if gaussian else True)
    added = []
    for _, layer in adapted_layers(module):
        if orthogonal:
            _begin_orthogonal(layer, rank)
        if ranks is not None:
            layer.lora_A[ADAPTER].register_forward_hook(lambda _half, _inputs, low: ranks.masked(low))
        added += trained(layer)
    return added


def _begin_orthogonal(layer: Any, rank: int) -> None:
    inner = layer.get_base_layer()
    if rank > min(inner.in_features, inner.out_features):
        raise LikenessError(
            f"the rank is {rank}, but a layer has {min(inner.in_features, inner.out_features)} directions; "
            "an orthogonal start needs a smaller rank"
        )
    device = layer.lora_A[ADAPTER].weight.device
    down, up = halves(inner.in_features, inner.out_features, rank)
    layer.lora_A[ADAPTER], layer.lora_B[ADAPTER] = down.to(device), up.to(device)


def starts(module: nn.Module) -> dict[str, Tensor]:
    """Where orthogonal LoRA layers began, as they are held: what resuming needs beside their parameters."""
    return {
        f"{path}.{side}.{name}": start
        for path, layer in adapted_layers(module)
        if hasattr(layer, "lora_A")
        for side, half in (("down", layer.lora_A), ("up", layer.lora_B))
        for name, start in half[ADAPTER].named_buffers()
    }


def remove(module: nn.Module) -> None:
    """Takes the LoRA layers out; the module is as it was before `inject`."""
    for path, layer in adapted_layers(module):
        parent, _, leaf = path.rpartition(".")
        setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config


@contextmanager
def switched_off(*modules: nn.Module) -> Iterator[None]:
    """Within, the modules compute as if the LoRA layers were not there."""
    layers = [layer for module in modules for _, layer in adapted_layers(module)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def tensors(base: BaseModel) -> dict[str, Tensor]:
    """Copies of all LoRA weights in the base, under its family's names with explicit alpha; other kinds of
    adapters under LyCORIS' endings."""
    peft = base.traits.peft_names
    down_name, up_name = (kohya.PEFT_DOWN, kohya.PEFT_UP) if peft else (kohya.DOWN, kohya.UP)
    weights: dict[str, Tensor] = {}
    for name, layer in _named(base, peft):
        parts = file_parts(layer)
        if parts is not None:
            weights |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
            continue
        down, up = _halves(layer)
        weights[name + down_name], weights[name + up_name] = down, up
        scaling = layer.scaling[ADAPTER]
        weights[name + kohya.ALPHA] = torch.tensor(scaling * down.shape[0])
        scale = magnitude(layer, scaling * (up.flatten(1) @ down.flatten(1)).detach().float())
        if scale is not None:
            weights[f"{name}.dora_scale"] = scale
    return {key: tensor.detach().float().cpu().clone().contiguous() for key, tensor in weights.items()}


def _halves(layer: Any) -> tuple[Tensor, Tensor]:
    """(r, in) and (out, r) of what a layer has learned."""
    first, second = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return (
        merged_halves(first, second) if isinstance(first, OrthogonalDown) else (first.weight, second.weight)
    )


def _named(base: BaseModel, peft: bool) -> list[tuple[str, Any]]:
    """The LoRA layers in the base by the names that files have for them."""
    encoders: dict[str, Any] = dict(base.text_encoders.items())
    layers = adapted_layers(base.network)
    if peft:
        named = [(kohya.transformer_name(path), layer) for path, layer in layers]
        for name, encoder in encoders.items():
            named += [
                (kohya.language_model_name(path, name), layer) for path, layer in adapted_layers(encoder)
            ]
        return named
    named = [(kohya.unet_name(path), layer) for path, layer in layers]
    for number, encoder in enumerate(encoders.values()):
        named += [
            (kohya.text_name(path, number, len(encoders)), layer) for path, layer in adapted_layers(encoder)
        ]
    return named
