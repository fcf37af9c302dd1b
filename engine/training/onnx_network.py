"""Networks stored as ONNX, run by torch so that gradients go through them: recognisers for the identity loss,
whatever their architecture. onnxruntime has no gradients; a converter to PyTorch is one more dependency.

Each node is one function of tensors here. Whole numbers, which graphs compute shapes with, stay on the CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LikenessError
from ..files import reading

Given = Sequence[Any]  # tensors; None in the place of an optional input
Attributes = Mapping[str, Any]
SCALED_INSIDE = (("Sub", "_minus"), ("Mul", "_mul"))  # how MXNet's exports name the nodes that scale pixels
FIRST = 8  # nodes among which insightface looks for them


@dataclass(frozen=True)
class Step:
    """A node: what it does, the names it reads ("" where an optional input is left away) and writes."""

    does: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    attributes: Attributes


class OnnxNetwork(nn.Module):
    """A recogniser of upright faces (B, 3, S, S), RGB in [-1, 1]: embeddings (B, D) as they come."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = read_graph(path)
        unknown = sorted({node.op_type for node in graph.node} - set(_DOES))
        if unknown:
            raise LikenessError(
                f"{path} computes with {', '.join(unknown)}, which gradients cannot be taken through here; "
                "choose another recogniser for the identity loss, or measure with this one"
            )
        self._fixed: dict[str, Tensor] = {}  # whole numbers, on the CPU
        self._kept: dict[str, str] = {}  # buffers by the graph's names
        for entry in graph.initializer:
            self._keep(entry.name, entry)
        self._steps = [_step(node) for node in graph.node]
        for step in [step for step in self._steps if step.does == "Constant"]:
            self._keep(step.writes[0], step.attributes["value"])
        self._steps = [step for step in self._steps if step.does != "Constant"]
        stored = {entry.name for entry in graph.initializer}
        (self._input,) = [entry.name for entry in graph.input if entry.name not in stored]
        self._output = graph.output[0].name
        names = [node.name for node in list(graph.node)[:FIRST]]
        self._scales = all(any(name.startswith(kind) for name in names) for kind in SCALED_INSIDE)

    def _keep(self, name: str, entry: Any) -> None:
        value = entry if isinstance(entry, Tensor) else _array(entry)
        if value.is_floating_point():
            self._kept[name] = f"value_{len(self._kept)}"
            self.register_buffer(self._kept[name], value, persistent=False)
        else:
            self._fixed[name] = value

    def forward(self, faces: Tensor) -> Tensor:
        values: dict[str, Tensor] = {
            **self._fixed,
            **{name: getattr(self, kept) for name, kept in self._kept.items()},
            self._input: faces * 127.5 + 127.5 if self._scales else faces,
        }
        for step in self._steps:
            given = [values[name] if name else None for name in step.reads]
            output = _DOES[step.does](_together(given), step.attributes)
            values.update(zip(step.writes, output if isinstance(output, tuple) else (output,)))
        return values[self._output]


def read_graph(path: Path) -> Any:
    """The graph of an ONNX file."""
    try:
        import onnx
        from onnx.external_data_helper import uses_external_data
    except ImportError as error:
        raise LikenessError(
            f'{path.name} is read with onnx, which does not load ({error}); run `pip install ".[faces]"`'
        ) from error
    with reading(path, "is damaged or no ONNX model; get it again"):  # protobuf raises what it likes
        graph = onnx.load(str(path), load_external_data=False).graph
    if any(uses_external_data(entry) for entry in graph.initializer):
        raise LikenessError(f"{path} keeps its weights in another file; choose one that holds them itself")
    return graph


def _step(node: Any) -> Step:
    from onnx import helper

    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    attributes = {
        name: _array(value) if hasattr(value, "raw_data") else value for name, value in attributes.items()
    }
    attributes = {
        name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()
    }
    if node.op_type == "Constant" and "value" not in attributes:
        attributes = {"value": torch.tensor(next(iter(attributes.values())))}
    return Step(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _array(entry: Any) -> Tensor:
    from onnx import numpy_helper

    values = torch.from_numpy(np.array(numpy_helper.to_array(entry)))
    return values.float() if values.dtype == torch.float16 else values  # all is computed in fp32


def _together(given: Given) -> Given:
    """The tensors, those of floats all on the device of the first that is not on the CPU."""
    floats = [value for value in given if value is not None and value.is_floating_point()]
    device = next((value.device for value in floats if value.device.type != "cpu"), None)
    if device is None:
        return given
    return [value.to(device) if value is not None and value.is_floating_point() else value for value in given]


# ---- what each kind of node does: tensors as ONNX orders them, and its attributes


def _numbers(given: Given, attributes: Attributes, place: int, name: str) -> list[int] | None:
    """Whole numbers that newer graphs give as an input and older ones as an attribute."""
    if len(given) > place and given[place] is not None:
        return [int(value) for value in given[place].flatten()]  # type: ignore[union-attr]
    return None if name not in attributes else [int(value) for value in attributes[name]]


def _padding(x: Tensor, kernel: Sequence[int], strides: Sequence[int], attributes: Attributes) -> list[int]:
    """Rows above, columns left, rows below, columns right: as told, or what SAME means at this size."""
    how = attributes.get("auto_pad", "NOTSET")
    if how in ("NOTSET", "VALID"):
        return list(attributes.get("pads", [0, 0, 0, 0])) if how == "NOTSET" else [0, 0, 0, 0]
    over = [
        max((-(-size // stride) - 1) * stride + side - size, 0)
        for size, side, stride in zip(x.shape[2:], kernel, strides)
    ]
    less = [amount // 2 for amount in over]
    more = [amount - half for amount, half in zip(over, less)]
    return [*less, *more] if how == "SAME_UPPER" else [*more, *less]


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _conv(given: Given, attributes: Attributes) -> Tensor:
    x, weight = given[0], given[1]
    bias = given[2] if len(given) > 2 else None
    strides, dilations = list(attributes.get("strides", [1, 1])), list(attributes.get("dilations", [1, 1]))
    reach = [(side - 1) * apart + 1 for side, apart in zip(weight.shape[2:], dilations)]
    x = _padded(x, _padding(x, reach, strides, attributes))
    return F.conv2d(x, weight, bias, strides, 0, dilations, attributes.get("group", 1))


def _pool(given: Given, attributes: Attributes, largest: bool) -> Tensor:
    x, kernel = given[0], list(attributes["kernel_shape"])
    strides = list(attributes.get("strides", [1, 1]))
    pads = _padding(x, kernel, strides, attributes)
    up = bool(attributes.get("ceil_mode", 0))
    if largest:
        return F.max_pool2d(_padded(x, pads, -torch.inf), kernel, strides, ceil_mode=up)
    if any(pads) and not attributes.get("count_include_pad", 0):
        share = F.avg_pool2d(_padded(torch.ones_like(x), pads), kernel, strides, ceil_mode=up)
        return F.avg_pool2d(_padded(x, pads), kernel, strides, ceil_mode=up) / share
    return F.avg_pool2d(_padded(x, pads), kernel, strides, ceil_mode=up)


def _pad(given: Given, attributes: Attributes) -> Tensor:
    x, pads = given[0], _numbers(given, attributes, 1, "pads") or []
    axes = _numbers(given, {}, 3, "") or list(range(x.ndim))
    amounts = [0] * (2 * x.ndim)  # torch counts from the last axis
    for place, axis in enumerate(axes):
        at = 2 * (x.ndim - 1 - axis % x.ndim)
        amounts[at], amounts[at + 1] = pads[place], pads[place + len(axes)]
    fill = float(given[2]) if len(given) > 2 and given[2] is not None else float(attributes.get("value", 0.0))
    mode = attributes.get("mode", "constant")
    if mode == "constant":
        return F.pad(x, amounts, value=fill)
    while amounts and amounts[-2:] == [0, 0]:  # torch mirrors no more axes than it must
        amounts = amounts[:-2]
    return F.pad(x, amounts, mode="replicate" if mode == "edge" else str(mode))


def _reshape(given: Given, attributes: Attributes) -> Tensor:
    x, shape = given[0], _numbers(given, attributes, 1, "shape") or []
    return x.reshape([x.shape[place] if size == 0 else size for place, size in enumerate(shape)])


def _gather(given: Given, attributes: Attributes) -> Tensor:
    x, indices, axis = given[0], given[1].long(), attributes.get("axis", 0) % given[0].ndim
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    gathered = x.index_select(axis, indices.flatten().to(x.device))
    return gathered.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _slice(given: Given, attributes: Attributes) -> Tensor:
    x = given[0]
    starts, ends = (
        _numbers(given, attributes, 1, "starts") or [],
        _numbers(given, attributes, 2, "ends") or [],
    )
    axes = _numbers(given, attributes, 3, "axes") or list(range(len(starts)))
    steps = _numbers(given, attributes, 4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        places = range(x.shape[axis])[slice(start, max(min(end, 2**31), -(2**31)), step)]
        x = x.index_select(axis, torch.tensor(list(places), dtype=torch.long, device=x.device))
    return x


def _axes(given: Given, attributes: Attributes) -> list[int]:
    return _numbers(given, attributes, 1, "axes") or []


def _unsqueeze(given: Given, attributes: Attributes) -> Tensor:
    x = given[0]
    rank = x.ndim + len(_axes(given, attributes))
    for axis in sorted(axis % rank for axis in _axes(given, attributes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(given: Given, attributes: Attributes) -> Tensor:
    axes = _axes(given, attributes)
    return given[0].squeeze() if not axes else given[0].squeeze(tuple(axes))


def _reduced(how: Callable[..., Tensor]) -> Callable[[Given, Attributes], Tensor]:
    def reduce(given: Given, attributes: Attributes) -> Tensor:
        axes = _axes(given, attributes) or list(range(given[0].ndim))
        return how(given[0], dim=axes, keepdim=bool(attributes.get("keepdims", 1)))

    return reduce


def _gemm(given: Given, attributes: Attributes) -> Tensor:
    first = given[0].T if attributes.get("transA", 0) else given[0]
    second = given[1].T if attributes.get("transB", 0) else given[1]
    product = attributes.get("alpha", 1.0) * (first @ second)
    return product if len(given) < 3 else product + attributes.get("beta", 1.0) * given[2]


def _normalised(given: Given, attributes: Attributes) -> Tensor:
    x, weight, bias, mean, variance = given[:5]
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def _prelu(given: Given, _: Attributes) -> Tensor:
    return torch.where(given[0] >= 0, given[0], given[0] * given[1])


def _clip(given: Given, attributes: Attributes) -> Tensor:
    low, high = (
        given[place] if len(given) > place else attributes.get(name)
        for place, name in ((1, "min"), (2, "max"))
    )
    return given[0] if low is None and high is None else torch.clamp(given[0], low, high)


def _divided(given: Given, _: Attributes) -> Tensor:
    whole = not given[0].is_floating_point() and not given[1].is_floating_point()
    return torch.div(given[0], given[1], rounding_mode="trunc" if whole else None)


def _cast(given: Given, attributes: Attributes) -> Tensor:
    from onnx import helper

    kind = torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(attributes["to"]))).dtype
    return given[0].to(torch.float32 if kind == torch.float16 else kind)


def _filled(given: Given, attributes: Attributes) -> Tensor:
    shape, value = [int(size) for size in given[0]], attributes.get("value", torch.zeros(1))
    return value.flatten()[0].expand(shape).clone()


def _sampled(given: Given, attributes: Attributes) -> Tensor:
    named = str(attributes.get("mode", "linear"))
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(named, named)
    return F.grid_sample(
        given[0], given[1], mode=mode, padding_mode=attributes.get("padding_mode", "zeros"),
        align_corners=bool(attributes.get("align_corners", 0)),
    )  # fmt: skip


def _flat(given: Given, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 1) % (given[0].ndim + 1)
    return given[0].reshape(int(np.prod(given[0].shape[:axis], dtype=np.int64)), -1)


def _expanded(given: Given, _: Attributes) -> Tensor:
    x, shape = given[0], [int(size) for size in given[1]]
    return x.expand(torch.broadcast_shapes(x.shape, shape))


def _split(given: Given, attributes: Attributes) -> tuple[Tensor, ...]:
    axis, parts = attributes.get("axis", 0), _numbers(given, attributes, 1, "split")
    if parts is None:
        raise LikenessError("a recogniser splits a tensor into parts that it does not name; choose another")
    return given[0].split(parts, axis)


def _one(how: Callable[[Tensor], Tensor]) -> Callable[[Given, Attributes], Tensor]:
    return lambda given, attributes: how(given[0])


def _two(how: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Given, Attributes], Tensor]:
    return lambda given, attributes: how(given[0], given[1])


def _many(how: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Given, Attributes], Tensor]:
    def folded(given: Given, _: Attributes) -> Tensor:
        result = given[0]
        for other in given[1:]:
            result = how(result, other)
        return result

    return folded


_DOES: dict[str, Callable[[Given, Attributes], Any]] = {
    "Abs": _one(torch.abs), "Erf": _one(torch.erf), "Exp": _one(torch.exp), "Floor": _one(torch.floor),
    "HardSwish": _one(F.hardswish), "Identity": _one(lambda x: x), "Neg": _one(torch.neg),
    "Relu": _one(torch.relu), "Sigmoid": _one(torch.sigmoid), "Sqrt": _one(torch.sqrt),
    "Tanh": _one(torch.tanh), "Dropout": _one(lambda x: x),
    "Add": _two(torch.add), "Sub": _two(torch.sub), "Mul": _two(torch.mul), "Div": _divided,
    "Pow": _two(torch.pow), "MatMul": _two(torch.matmul), "Equal": _two(torch.eq),
    "Max": _many(torch.maximum), "Min": _many(torch.minimum), "Sum": _many(torch.add),
    "Concat": lambda given, attributes: torch.cat(list(given), attributes["axis"]),
    "Transpose": lambda given, attributes: given[0].permute(*attributes["perm"]),
    "Softmax": lambda given, attributes: given[0].softmax(attributes.get("axis", -1)),
    "LeakyRelu": lambda given, attributes: F.leaky_relu(given[0], attributes.get("alpha", 0.01)),
    "HardSigmoid": lambda given, attributes: (
        given[0] * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)
    ).clamp(0, 1),
    "Where": lambda given, attributes: torch.where(given[0].bool(), given[1], given[2]),
    "Shape": lambda given, attributes: torch.tensor(given[0].shape, dtype=torch.long),
    "GlobalAveragePool": lambda given, attributes: given[0].mean((2, 3), keepdim=True),
    "AveragePool": lambda given, attributes: _pool(given, attributes, largest=False),
    "MaxPool": lambda given, attributes: _pool(given, attributes, largest=True),
    "ReduceMean": _reduced(torch.mean), "ReduceSum": _reduced(torch.sum),
    "ReduceL2": _reduced(torch.linalg.vector_norm), "Constant": lambda given, attributes: attributes["value"],
    "BatchNormalization": _normalised, "Cast": _cast, "Clip": _clip, "ConstantOfShape": _filled,
    "Conv": _conv, "Expand": _expanded, "Flatten": _flat, "Gather": _gather, "Gemm": _gemm,
    "GridSample": _sampled, "PRelu": _prelu, "Pad": _pad, "Reshape": _reshape, "Slice": _slice,
    "Split": _split, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
}  # fmt: skip
