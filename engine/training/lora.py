"""LoRA layers while they are trained: peft puts them in and takes them out again; files have their family's
names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..artifact import lora as kohya
from ..bases.base import BaseModel
from ..bases.lora_ranks import RankByNoise
from ..errors import LikenessError
from .orthogonal_lora import OrthogonalDown, halves, merged_halves

ADAPTER = "likeness"


def inject(
    module: nn.Module,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    *,
    gaussian: bool = False,
    orthogonal: bool = False,
    ranks: RankByNoise | None = None,
) -> list[nn.Parameter]:
    """Adds LoRA to every layer whose path ends in one of the targets; returns the new parameters in order.

    The first update is zero; the random half comes from torch's global generator, evenly within bounds or
    normal with a deviation of 1 / rank; or both halves are `orthogonal`. `ranks`: how many count in a pass.
    """
    from peft import LoraConfig, inject_adapter_in_model

    start = "gaussian" if gaussian else True
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] (said to be whole; PEFT scales by any number)
        target_modules=list(targets),
        init_lora_weights=start,
    )
    inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    added = []
    for _, layer in _layers(module):
        if orthogonal:
            _begin_orthogonal(layer, rank)
        if ranks is not None:
            layer.lora_A[ADAPTER].register_forward_hook(lambda _half, _inputs, low: ranks.masked(low))
        # what is trained stays in fp32 where the frozen layer is kept in half precision
        for half in (layer.lora_A, layer.lora_B):
            added += list(half[ADAPTER].float().parameters())
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
        for path, layer in _layers(module)
        for side, half in (("down", layer.lora_A), ("up", layer.lora_B))
        for name, start in half[ADAPTER].named_buffers()
    }


def remove(module: nn.Module) -> None:
    """Takes the LoRA layers out; the module is as it was before `inject`."""
    for path, layer in _layers(module):
        parent, _, leaf = path.rpartition(".")
        setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config


@contextmanager
def switched_off(*modules: nn.Module) -> Iterator[None]:
    """Within, the modules compute as if the LoRA layers were not there."""
    layers = [layer for module in modules for _, layer in _layers(module)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def tensors(base: BaseModel) -> dict[str, Tensor]:
    """Copies of all LoRA weights in the base, under its family's names with explicit alpha."""
    peft = base.traits.peft_names
    down_name, up_name = (kohya.PEFT_DOWN, kohya.PEFT_UP) if peft else (kohya.DOWN, kohya.UP)
    weights: dict[str, Tensor] = {}
    for name, layer in _named(base, peft):
        down, up = _halves(layer)
        weights[name + down_name] = down.detach().float().cpu().clone()
        weights[name + up_name] = up.detach().float().cpu().clone()
        weights[name + kohya.ALPHA] = torch.tensor(layer.scaling[ADAPTER] * down.shape[0])
    return weights


def _halves(layer: Any) -> tuple[Tensor, Tensor]:
    """(r, in) and (out, r) of what a layer has learned."""
    first, second = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return (
        merged_halves(first, second) if isinstance(first, OrthogonalDown) else (first.weight, second.weight)
    )


def _named(base: BaseModel, peft: bool) -> list[tuple[str, Any]]:
    """The LoRA layers in the base by the names that files have for them."""
    encoders: dict[str, Any] = dict(base.text_encoders.items())
    layers = _layers(base.network)
    if peft:
        named = [(kohya.transformer_name(path), layer) for path, layer in layers]
        for name, encoder in encoders.items():
            named += [(kohya.language_model_name(path, name), layer) for path, layer in _layers(encoder)]
        return named
    named = [(kohya.unet_name(path), layer) for path, layer in layers]
    for number, encoder in enumerate(encoders.values()):
        named += [(kohya.text_name(path, number, len(encoders)), layer) for path, layer in _layers(encoder)]
    return named


def _layers(module: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(path, layer) for path, layer in module.named_modules() if isinstance(layer, LoraLayer)]
