"""Linear layers whose frozen weights stay as they are stored, in 8 bits, and are widened in each pass.

What they compute, and the gradients of what they read, are those of the widened weights; of these, no more
than one layer's are there at a time. Accelerated fp8 matrix products would round what goes in, too.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EIGHT_BITS = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.int8})


def widened_weight(stored: Tensor, scale: Tensor | None, kind: torch.dtype) -> Tensor:
    """Weights (out, in) in `kind`; `scale` (out, 1) or (), fp32: what their stored numbers are multiplied
    with, before anything is put_in_fp8."""
    return stored.to(kind) if scale is None else (stored.float() * scale.to(stored.device)).to(kind)


class StoredLinear(nn.Linear):
    """A linear layer around a weight in 8 bits; what it reads says in which precision it computes.

    `weight` is the widened weight, made anew whenever it is asked for; a parameter that is put in its place
    (a merged LoRA) is computed with instead.
    """

    def __init__(self, plain: nn.Linear, stored: Tensor, scale: Tensor | None, kind: torch.dtype) -> None:
        """`kind`: the precision of `weight`."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.stored = nn.Parameter(stored, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = plain.bias
        self.kind = kind

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        other = self._parameters.get("weight")
        scale: Any = self.scale
        return widened_weight(self.stored, scale, self.kind) if other is None else other

    def forward(self, input: Tensor) -> Tensor:
        other, device = self._parameters.get("weight"), input.device.type
        if other is not None:
            return F.linear(input, other, self.bias)
        asked = device != "meta" and torch.is_autocast_enabled(device)
        kind = torch.get_autocast_dtype(device) if asked else input.dtype
        bias = None if self.bias is None else self.bias.to(kind)
        return _Linear.apply(input.to(kind), self.stored, self.scale, bias)


class _Linear(torch.autograd.Function):
    """Keeps nothing but the stored weight for the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(stored, scale)
        return F.linear(x, widened_weight(stored, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        stored, scale = ctx.saved_tensors
        whole = gradient.sum(tuple(range(gradient.ndim - 1))) if ctx.needs_input_grad[3] else None
        return gradient @ widened_weight(stored, scale, gradient.dtype), None, None, whole


def keep_stored(network: nn.Module, weights: dict[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    """Gives the network layers for those of the weights that are in 8 bits; returns what it is to load.

    weights: by the network's names, scales (out, 1) beside them as `….weight_scale`. Whatever is no linear
    layer's is widened, and so is the first of all: by that, a network says in which precision it computes.
    """
    first = next(name for name, _ in network.named_parameters())
    loaded: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        path, _, part = key.rpartition(".")
        if part == "weight_scale":
            continue
        scale = weights.get(f"{path}.weight_scale")
        if part != "weight" or tensor.dtype not in EIGHT_BITS:
            loaded[key] = tensor.to(kind) if tensor.dtype in EIGHT_BITS else tensor
            continue
        try:
            layer = network.get_submodule(path)
        except AttributeError:  # what else is wrong with it is said where it is loaded
            layer = None
        if type(layer) is not nn.Linear or key == first:
            loaded[key] = widened_weight(tensor, scale, kind)
            continue
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, StoredLinear(layer, tensor, scale, kind))
        loaded[f"{path}.stored"] = tensor
        if scale is not None:
            loaded[f"{path}.scale"] = scale
    return loaded


def put_in_fp8(network: nn.Module) -> None:
    """The network's layers as a plain file in 8 bits gives them, but for the first."""
    first = next(name for name, _ in network.named_parameters())
    layers = [(path, layer) for path, layer in network.named_modules() if type(layer) is nn.Linear]
    for path, layer in layers:
        if f"{path}.weight" != first:
            weight = layer.weight.detach()
            parent, _, leaf = path.rpartition(".")
            new = StoredLinear(layer, weight.to(torch.float8_e4m3fn), None, weight.dtype)
            setattr(network.get_submodule(parent), leaf, new)


def first_numbers(network: nn.Module, count: int) -> Iterator[tuple[str, torch.Size, Tensor]]:
    """Names, shapes and first numbers of a network's weights, in the order of names; stored ones widened."""
    layers = {f"{path}.weight": layer for path, layer in network.named_modules()
              if isinstance(layer, StoredLinear)}  # fmt: skip
    inside = {f"{name.removesuffix('weight')}{leaf}" for name in layers for leaf in ("stored", "scale")}
    plain = {name: weight for name, weight in network.state_dict().items() if name not in inside}
    for name in sorted({*plain, *layers}):
        if name in plain:
            yield name, plain[name].shape, plain[name].flatten()[:count]
            continue
        layer = layers[name]
        rows = slice(-(-count // layer.in_features))
        scale: Any = layer.scale
        some = widened_weight(layer.stored[rows], None if scale is None else scale[rows], layer.kind)
        yield name, layer.stored.shape, some.flatten()[:count]
