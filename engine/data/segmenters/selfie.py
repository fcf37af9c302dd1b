"""MediaPipe's selfie segmentation (213 KB, Apache-2.0): a photographed person, without any large model.

Its TensorFlow.js files are read and run by torch: a description of the graph in JSON, and its numbers.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...config import from_json
from ...errors import LikenessError, nearest
from ...files import read_text, reading
from ..helpers import SELFIE
from .base import Found, enlarged, network_input

Does = Callable[[Sequence[Tensor], Mapping[str, Any]], Tensor]  # tensors and attributes in, a tensor out

PERSON = ("person", "man", "woman", "boy", "girl", "child", "people", "human", "subject", "body")
_BEHIND = "background"
TYPES = {"float32": np.float32, "float16": np.float16, "int32": np.int32}


class SelfieNetwork(nn.Module):
    """Pictures (B, 3, 256, 256) in [0, 1] to where a person is, (B, 1, 256, 256) in [0, 1]."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._stored = {name: f"value_{number}" for number, name in enumerate(weights)}
        for name, value in weights.items():
            self.register_buffer(self._stored[name], value, persistent=False)
        self._nodes = [node for node in nodes if node["op"] != "Const"]
        self.side = next(int(_dimensions(node)[1]) for node in nodes if node["op"] == "Placeholder")

    def forward(self, pictures: Tensor) -> Tensor:
        values: dict[str, Tensor] = {name: getattr(self, kept) for name, kept in self._stored.items()}
        output = pictures
        for node in self._nodes:
            given = [values[name.split(":")[0].lstrip("^")] for name in node.get("input", ())]
            output = (
                pictures if node["op"] == "Placeholder" else _DOES[node["op"]](given, node.get("attr", {}))
            )
            values[node["name"]] = output
        return output


class Selfie:
    """Words of people are marked where a person is, `background` everywhere else."""

    def __init__(self, network: SelfieNetwork, device: str = "cpu") -> None:
        self.network, self.device = network.to(device), device

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        marks = [_is_person(word) for word in words]
        side = self.network.side
        person = self.network(network_input(pixels, (side, side), (0, 0, 0), (1, 1, 1)).to(self.device))[0, 0]
        maps = torch.stack([person if mark else 1 - person for mark in marks])
        scores = tuple(float(score) for score in maps.amax((1, 2)))
        return Found(enlarged(maps, pixels.shape[:2]), scores, {"person": float(person.max())})


def _is_person(word: str) -> bool:
    """Whether a word is marked where the person is, or where they are not."""
    name = word.strip().lower()
    if name in PERSON or name == _BEHIND:
        return name != _BEHIND
    hint = nearest(name, (*PERSON, _BEHIND)) or f"; it knows {', '.join((*PERSON, _BEHIND))}"
    raise LikenessError(f"the selfie network knows no '{word}'{hint}, or choose another back end")


def load(models: Path, device: str = "cpu") -> Selfie:
    folder = SELFIE.find(models)
    described = folder / "selfie.json"
    with reading(described, f"is not the selfie network's description; get it again from {SELFIE.source}"):
        plan = from_json(read_text(described), described)
        nodes = plan["modelTopology"]["node"]
        unknown = sorted({node["op"] for node in nodes} - set(_DOES) - {"Const", "Placeholder"})
        if unknown:
            raise LikenessError(f"{described} computes with {', '.join(unknown)}, which is not known here")
        network = SelfieNetwork(nodes, _weights(folder, plan["weightsManifest"]))
    return Selfie(network.eval().requires_grad_(False), device)


def _weights(folder: Path, manifest: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The numbers of the network by name, as they follow each other in the files beside the description."""
    weights: dict[str, Tensor] = {}
    for group in manifest:
        raw = b"".join((folder / Path(name).name).read_bytes() for name in group["paths"])
        place = 0
        for entry in group["weights"]:
            kind = np.dtype(TYPES[entry.get("quantization", entry)["dtype"]])
            count = math.prod(entry["shape"])
            values = np.frombuffer(raw, kind, count, place).reshape(entry["shape"])
            place += count * kind.itemsize
            whole = np.issubdtype(kind, np.integer)
            weights[entry["name"]] = torch.from_numpy(values.astype(np.int64 if whole else np.float32))
    return weights


# ---- what each kind of node does; TensorFlow has channels last, torch has them second


def _dimensions(node: Mapping[str, Any]) -> list[str]:
    return [entry["size"] for entry in node["attr"]["shape"]["shape"]["dim"]]


def _list(attributes: Mapping[str, Any], name: str) -> list[int]:
    return [int(value) for value in attributes[name]["list"]["i"]]


def _same(attributes: Mapping[str, Any]) -> bool:
    return base64.b64decode(attributes["padding"]["s"]) == b"SAME"


def _padded(x: Tensor, kernel: Sequence[int], strides: Sequence[int], same: bool) -> Tensor:
    if not same:
        return x
    over = [
        max((-(-size // stride) - 1) * stride + side - size, 0)
        for size, side, stride in zip(x.shape[2:], kernel, strides)
    ]
    (top, left), (bottom, right) = [amount // 2 for amount in over], [-(-amount // 2) for amount in over]
    return F.pad(x, (left, right, top, bottom))


def _conv(given: Sequence[Tensor], attributes: Mapping[str, Any], each: bool = False) -> Tensor:
    x, weight = given
    strides = _list(attributes, "strides")[1:3]
    weight = weight.permute(2, 3, 0, 1) if each else weight.permute(3, 2, 0, 1)
    x = _padded(x, weight.shape[2:], strides, _same(attributes))
    return F.conv2d(x, weight, stride=strides, groups=x.shape[1] if each else 1)


def _spread(given: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    """A transposed convolution whose stride is its kernel's side, to the size that its first input names."""
    size, weight, x = given
    strides = _list(attributes, "strides")[1:3]
    spread = F.conv_transpose2d(x, weight.permute(3, 2, 0, 1), stride=strides)
    return spread[:, :, : int(size[1]), : int(size[2])]


def _pooled(given: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    return F.avg_pool2d(given[0], _list(attributes, "ksize")[1:3], _list(attributes, "strides")[1:3])


def _resized(given: Sequence[Tensor], _: Mapping[str, Any]) -> Tensor:
    size = [int(value) for value in given[1]]
    return F.interpolate(given[0], size=size, mode="bilinear", align_corners=False)


def _channels(value: Tensor) -> Tensor:
    """A stored row of numbers, one for each channel, where torch has channels."""
    return value.view(1, -1, 1, 1) if value.ndim == 1 else value


def _folded(how: Callable[[Tensor, Tensor], Tensor]) -> Does:
    def fold(given: Sequence[Tensor], _: Mapping[str, Any]) -> Tensor:
        total = _channels(given[0])
        for other in given[1:]:
            total = how(total, _channels(other))
        return total

    return fold


_DOES: dict[str, Does] = {
    "Add": _folded(torch.add), "AddV2": _folded(torch.add), "AddN": _folded(torch.add),
    "Mul": _folded(torch.mul), "Relu": lambda given, _: given[0].relu(),
    "Relu6": lambda given, _: given[0].clamp(0, 6), "Sigmoid": lambda given, _: given[0].sigmoid(),
    "Conv2D": _conv, "DepthwiseConv2dNative": lambda given, attributes: _conv(given, attributes, each=True),
    "Conv2DBackpropInput": _spread, "AvgPool": _pooled, "ResizeBilinear": _resized,
}  # fmt: skip
