"""Face recognisers that judge while something is learned: any in ONNX, or arcface_torch's checkpoints.

Gradients go through them to the pixels, which onnxruntime cannot do.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ..artifact.tensors import read_pickle, read_tensors
from ..errors import LikenessError
from ..files import reading
from .onnx_network import OnnxNetwork

_SIDE = 112  # pixels a side of the upright faces that they see
_MAP_SIDE = 7  # what four halvings leave of that
_DEEPEST = 4  # levels of state_dict in a checkpoint
_KNOWN = (
    "w600k_r50.onnx of buffalo_l, glintr100.onnx of antelopev2 or AuraFace, or an arcface_torch checkpoint"
)


class Scaled(nn.Module):
    """A frozen batch norm as the scale and shift that it is: gradients through it keep no picture."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: Any) -> None:  # of pictures
        super().__init__()
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("scale", scale.detach()[:, None, None])
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


class Leaky(nn.PReLU):
    """PReLU of pictures (B, C, H, W) whose gradients keep only where they were above 0."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.where(input >= 0, input, input * self.weight[:, None, None])


class Block(nn.Module):
    """A residual block under arcface_torch's names; where it halves, so does a convolution beside it."""

    def __init__(self, inside: int, out: int, halves: bool) -> None:
        super().__init__()
        stride = 2 if halves else 1
        self.bn1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, out, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(out), Leaky(out)
        self.conv2, self.bn3 = nn.Conv2d(out, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        beside = [nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)] if halves else []
        self.downsample = nn.Sequential(*beside)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))

    def fold(self) -> None:
        """Batch norms go into the convolution before them, or become scales: what is frozen needs no more."""
        self.conv1, self.bn2 = _folded(self.conv1, self.bn2)
        self.conv2, self.bn3 = _folded(self.conv2, self.bn3)
        if len(self.downsample):
            self.downsample = nn.Sequential(*_folded(*self.downsample))
        self.bn1 = Scaled(self.bn1)  # before a convolution that pads with zeros


def _folded(conv: Any, norm: Any) -> tuple[nn.Module, nn.Module]:
    return fuse_conv_bn_eval(conv.eval(), norm.eval()), nn.Identity()


class IResNet(nn.Module):
    """Upright faces (B, 3, 112, 112), RGB in [-1, 1], to embeddings (B, D) as they come (not unit length).

    As deep and wide as a checkpoint's tensors say, frozen, batch norms folded away. Raises KeyError where one
    of them is missing.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        width = len(state["conv1.weight"])
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(width), Leaky(width)
        for stage in range(1, 5):
            blocks = nn.Sequential()
            while (name := f"layer{stage}.{len(blocks)}.conv1.weight") in state:
                out, inside = state[name].shape[:2]
                halves = f"layer{stage}.{len(blocks)}.downsample.0.weight" in state
                blocks.append(Block(inside, out, halves))
                width = out
            self.add_module(f"layer{stage}", blocks)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width * _MAP_SIDE**2, len(state["fc.weight"]))
        self.features = nn.BatchNorm1d(len(state["fc.weight"]))
        missing = self.load_state_dict(state, strict=False).missing_keys
        if missing:
            raise KeyError(missing[0])
        self.eval().requires_grad_(False)
        self._fold()

    def _fold(self) -> None:
        self.conv1, self.bn1 = _folded(self.conv1, self.bn1)
        for block in self.modules():
            if isinstance(block, Block):
                block.fold()
        self.bn2 = Scaled(self.bn2)
        last: Any = self.features
        self.fc, self.features = fuse_linear_bn_eval(self.fc, last), nn.Identity()

    def forward(self, faces: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(faces)))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def load_recogniser(path: str | Path) -> nn.Module:
    """The recogniser in that file: .onnx, or a checkpoint of tensors (.pt, .pth, .bin, .safetensors).

    Takes upright faces (B, 3, 112, 112), RGB in [-1, 1]; gradients go through it.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise LikenessError(f"there is no face recogniser at {path}; put {_KNOWN} there")
    with reading(path, f"is no face recogniser that can be used; give {_KNOWN}"):
        network = OnnxNetwork(path) if path.suffix.lower() == ".onnx" else _from_checkpoint(path)
        network.eval().requires_grad_(False)
        with torch.no_grad():  # whatever does not fit together shows here, before the first step
            seen = network(torch.zeros(1, 3, _SIDE, _SIDE))
        if seen.ndim != 2 or not seen.isfinite().all():
            raise ValueError(f"it gives {tuple(seen.shape)}")
    return network


def _from_checkpoint(path: Path) -> IResNet:
    if path.suffix.lower() == ".safetensors":
        content: Any = read_tensors(path, f"give {_KNOWN}")
    else:
        content = read_pickle(path, f"give {_KNOWN}")
    for _ in range(_DEEPEST):  # a pickle may hold itself
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise LikenessError(f"{path} holds more than tensors; give {_KNOWN}")
    try:
        return IResNet({key.removeprefix("module."): value for key, value in content.items()})
    except KeyError as error:
        raise LikenessError(f"{path} is no IResNet (it has no {error}); give {_KNOWN}") from error
