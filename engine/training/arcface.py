"""ArcFace's network (IResNet) in plain torch, from insightface's ONNX files or arcface_torch's checkpoints.

It only ever judges: all that is linear is folded into convolutions, so that both give the same network.
The ONNX files are read by hand: the identity loss wants gradients through the network, which onnxruntime has
not; a converter to PyTorch would be one more dependency for a handful of operators.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artifact.tensors import read_pickle, read_tensors
from ..errors import LikenessError
from ..files import reading
from .onnx_network import OnnxNetwork, read_graph

_SIDE = 112  # pixels a side of the upright faces that it sees
NORM_EPSILON = 1e-5
_DEEPEST = 4  # levels of state_dict in a checkpoint
_KNOWN = (
    "w600k_r50.onnx of buffalo_l, glintr100.onnx of antelopev2 or AuraFace, or an arcface_torch checkpoint"
)


@dataclass
class Affine:
    """What a normalisation in evaluation mode does: channel times scale plus shift, both (C,)."""

    scale: Tensor
    shift: Tensor


@dataclass
class Filter:
    """A convolution or linear layer with all normalisation behind it folded in: weight (O, …), bias (O,)."""

    weight: Tensor
    bias: Tensor
    stride: int = 1

    def then(self, norm: Affine) -> "Filter":
        scale = norm.scale.view(-1, *[1] * (self.weight.ndim - 1))
        return Filter(self.weight * scale, self.bias * norm.scale + norm.shift, self.stride)


@dataclass
class BlockWeights:
    """One residual block: normalise, convolve, PReLU, convolve; beside it nothing, or a 1x1 convolution."""

    norm: Affine
    first: Filter
    slope: Tensor
    second: Filter
    shortcut: Filter | None = None


@dataclass
class Weights:
    """A whole network's weights."""

    stem: Filter
    slope: Tensor
    blocks: list[BlockWeights] = field(default_factory=list)
    head: Filter | None = None  # linear, of the flattened last map


def _convolution(filter_: Filter) -> nn.Conv2d:
    out, inside, size, _ = filter_.weight.shape
    layer = nn.Conv2d(inside, out, size, filter_.stride, size // 2)
    return _filled(layer, filter_.weight, filter_.bias)


def _prelu(slope: Tensor) -> nn.PReLU:
    return _filled(nn.PReLU(slope.numel()), slope.flatten())


def _filled(layer: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    layer.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.float().contiguous(), requires_grad=False)
    return layer


class Block(nn.Module):
    scale: Tensor
    shift: Tensor

    def __init__(self, weights: BlockWeights) -> None:
        super().__init__()
        self.register_buffer("scale", weights.norm.scale.float().view(1, -1, 1, 1))
        self.register_buffer("shift", weights.norm.shift.float().view(1, -1, 1, 1))
        self.first, self.slope = _convolution(weights.first), _prelu(weights.slope)
        self.second = _convolution(weights.second)
        self.shortcut = nn.Identity() if weights.shortcut is None else _convolution(weights.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.slope(self.first(x * self.scale + self.shift)))


class IResNet(nn.Module):
    """Upright faces (B, 3, 112, 112), RGB in [-1, 1], to embeddings (B, D) as they come (not unit length)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        assert weights.head is not None
        self.stem, self.slope = _convolution(weights.stem), _prelu(weights.slope)
        self.blocks = nn.ModuleList([Block(block) for block in weights.blocks])
        outputs, inputs = weights.head.weight.shape
        self.head = _filled(nn.Linear(inputs, outputs), weights.head.weight, weights.head.bias)

    @property
    def width(self) -> int:
        return self.head.out_features

    @property
    def depth(self) -> int:
        """Its name's number: 50 for IResNet-50."""
        return 2 * len(self.blocks) + 2

    def forward(self, faces: Tensor) -> Tensor:
        x = self.slope(self.stem(faces))
        for block in self.blocks:
            x = block(x)
        return F.linear(x.flatten(1), self.head.weight, self.head.bias)


def load_arcface(path: str | Path) -> IResNet:
    """The recogniser in that file: .onnx, or a checkpoint of tensors (.pt, .pth, .bin, .safetensors)."""
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise LikenessError(f"there is no face recogniser at {path}; put {_KNOWN} there")
    with reading(path, f"is no IResNet, or is damaged; give {_KNOWN}"):
        if path.suffix.lower() == ".onnx":
            weights = _from_onnx(path)
        else:
            weights = _from_checkpoint(_read_checkpoint(path), path)
        return IResNet(weights).eval().requires_grad_(False)


def load_recogniser(path: str | Path) -> nn.Module:
    """The recogniser in that file: an IResNet as `load_arcface` reads it, or any other network in ONNX.

    Takes upright faces (B, 3, 112, 112), RGB in [-1, 1]; gradients go through it.
    """
    path = Path(os.path.expanduser(path))
    with reading(path, f"is no face recogniser that can be used; give {_KNOWN}"):
        network = _recogniser(path)
        with torch.no_grad():  # whatever does not fit together shows here, before the first step
            seen = network(torch.zeros(1, 3, _SIDE, _SIDE))
        if seen.ndim != 2 or not seen.isfinite().all():
            raise ValueError(f"it gives {tuple(seen.shape)}")
    return network


def _recogniser(path: Path) -> nn.Module:
    try:
        return load_arcface(path)
    except LikenessError:
        if path.suffix.lower() != ".onnx" or not path.is_file():
            raise
    return OnnxNetwork(path).eval().requires_grad_(False)


# ------------------------------------------------------------------------------- arcface_torch's checkpoints


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() == ".safetensors":
        content: Any = read_tensors(path, f"give {_KNOWN}")
    else:
        content = read_pickle(path, f"give {_KNOWN}")
    for _ in range(_DEEPEST):  # a pickle may hold itself
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise LikenessError(f"{path} holds more than tensors; give {_KNOWN}")
    return {key.removeprefix("module."): value.float() for key, value in content.items()}


def _from_checkpoint(state: Mapping[str, Tensor], path: Path) -> Weights:
    def norm(name: str) -> Affine:
        weight, bias, mean, variance = (
            state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return _affine(weight, bias, mean, variance)

    def filter_(name: str, stride: int = 1) -> Filter:
        weight = state[f"{name}.weight"]
        return Filter(weight, state.get(f"{name}.bias", weight.new_zeros(len(weight))), stride)

    try:
        weights = Weights(filter_("conv1").then(norm("bn1")), state["prelu.weight"])
        for name in _block_names(state):
            short = f"{name}.downsample.0.weight" in state
            stride = 2 if short else 1
            weights.blocks.append(
                BlockWeights(
                    norm(f"{name}.bn1"),
                    filter_(f"{name}.conv1").then(norm(f"{name}.bn2")),
                    state[f"{name}.prelu.weight"],
                    filter_(f"{name}.conv2", stride).then(norm(f"{name}.bn3")),
                    filter_(f"{name}.downsample.0", stride).then(norm(f"{name}.downsample.1"))
                    if short
                    else None,
                )
            )
        weights.head = _behind(norm("bn2"), filter_("fc")).then(norm("features"))
    except KeyError as error:
        raise LikenessError(f"{path} is no IResNet (it has no {error}); give {_KNOWN}") from error
    return weights


def _block_names(state: Mapping[str, Tensor]) -> Iterator[str]:
    for stage in range(1, 5):
        number = 0
        while f"layer{stage}.{number}.conv1.weight" in state:
            yield f"layer{stage}.{number}"
            number += 1


def _affine(
    weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float = NORM_EPSILON
) -> Affine:
    scale = weight.double() / (variance.double() + epsilon).sqrt()
    return Affine(scale, bias.double() - mean.double() * scale)


def _behind(norm: Affine, linear: Filter) -> Filter:
    """A linear layer of the flattened map (C, h, w) with the normalisation before it folded in."""
    per_channel = linear.weight.shape[1] // len(norm.scale)
    scale, shift = (values.double().repeat_interleave(per_channel) for values in (norm.scale, norm.shift))
    weight = linear.weight.double()
    return Filter(weight * scale, linear.bias.double() + weight @ shift)


# ----------------------------------------------------------------------------------------- insightface's ONNX


def _from_onnx(path: Path) -> Weights:
    layers = _layers(path)
    refused = LikenessError(f"{path} is no IResNet; give {_KNOWN}")
    try:
        weights = Weights(_take(layers, Filter), _take(layers, Tensor))
        while isinstance(layers[1], Filter) and layers[1].weight.ndim == 4:
            block = BlockWeights(
                _take(layers, Affine), _take(layers, Filter), _take(layers, Tensor), _take(layers, Filter)
            )
            if isinstance(layers[0], Filter):
                pair = block.second, _take(layers, Filter)
                # exporters differ in which of the two comes first
                block.shortcut, block.second = sorted(pair, key=lambda filter_: filter_.weight.shape[-1])
            weights.blocks.append(block)
        weights.head = _behind(_take(layers, Affine), _take(layers, Filter))
    except (IndexError, TypeError) as error:
        raise refused from error
    if layers or any(block.first.weight.shape[1] != len(block.norm.scale) for block in weights.blocks):
        raise refused
    return weights


def _take(layers: list[Any], kind: type) -> Any:
    layer = layers.pop(0)
    if not isinstance(layer, kind):
        raise TypeError(f"{type(layer).__name__} in the place of {kind.__name__}")
    return layer


PASSED_OVER = ("Flatten", "Reshape", "Identity", "Dropout", "Add", "Constant", "Shape", "Cast", "Gather",
               "Concat", "Unsqueeze", "Slice", "Squeeze", "Sub", "Mul")  # fmt: skip


def _layers(path: Path) -> list[Filter | Affine | Tensor]:
    """The graph's layers in running order; normalisation right behind a convolution is folded into it."""
    graph = read_graph(path)
    values = {entry.name: entry for entry in graph.initializer}
    _check_input(graph, values, path)
    layers: list[Any] = []
    made: dict[str, int] = {}  # which layer gave a value
    for node in graph.node:
        given = [_array(values[name]) for name in node.input[1:] if name in values]
        attributes = {entry.name: entry for entry in node.attribute}
        before = made.get(node.input[0]) if node.input else None
        if node.op_type == "Conv":
            layers.append(_conv(given, attributes, path))
        elif node.op_type in ("Gemm", "MatMul"):
            layers.append(_gemm(given, attributes))
        elif node.op_type == "PRelu":
            layers.append(given[0].flatten())
        elif node.op_type == "BatchNormalization":
            epsilon = attributes["epsilon"].f if "epsilon" in attributes else NORM_EPSILON
            norm = _affine(*given, epsilon=epsilon)
            if before is not None and isinstance(layers[before], Filter):
                layers[before] = layers[before].then(norm)
                made[node.output[0]] = before
                continue
            layers.append(norm)
        elif node.op_type in PASSED_OVER:
            if node.input and node.input[0] in values:  # slopes are given their shape at run time
                values[node.output[0]] = values[node.input[0]]
            if node.op_type in ("Flatten", "Reshape", "Identity", "Dropout") and before is not None:
                made[node.output[0]] = before
            continue
        else:
            raise LikenessError(f"{path} is no IResNet (it has a layer {node.op_type}); give {_KNOWN}")
        made[node.output[0]] = len(layers) - 1
    return layers


def _check_input(graph: Any, values: Mapping[str, Any], path: Path) -> None:
    """MXNet's exports subtract and scale inside; theirs is another recogniser than ours would be."""
    inputs = {entry.name for entry in graph.input} - set(values)
    if any(node.op_type in ("Sub", "Mul") and inputs & set(node.input) for node in graph.node):
        raise LikenessError(f"{path} is an old export that scales its pixels itself; give {_KNOWN}")


def _array(entry: Any) -> Tensor:
    from onnx import numpy_helper

    return torch.from_numpy(numpy_helper.to_array(entry).copy())


def _conv(given: Sequence[Tensor], attributes: Mapping[str, Any], path: Path) -> Filter:
    if "group" in attributes and attributes["group"].i != 1:
        raise LikenessError(f"{path} is a small recogniser with grouped convolutions; give {_KNOWN}")
    weight = given[0].double()
    bias = given[1].double() if len(given) > 1 else weight.new_zeros(len(weight))
    return Filter(weight, bias, attributes["strides"].ints[0] if "strides" in attributes else 1)


def _gemm(given: Sequence[Tensor], attributes: Mapping[str, Any]) -> Filter:
    weight = given[0].double()
    weight = weight if "transB" in attributes and attributes["transB"].i else weight.T
    return Filter(weight, given[1].double() if len(given) > 1 else weight.new_zeros(len(weight)))
