"""The Miniature's judges: two recognisers (as ArcFace), a reader of attributes, a parser of parts.

Plain torch, trained on real renders only.  Called on tensors, the recogniser is differentiable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from . import model, world

EMBEDDING = 128


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _trunk(widths: Sequence[int]) -> nn.Sequential:
    """Halves the side with every width; a residual block from the third on."""
    layers: list[nn.Module] = []
    for level, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
        layers.append(_conv(inputs, outputs, stride=2))
        if level >= 2:
            layers.append(Residual(outputs))
    return nn.Sequential(*layers)


def head_crop(pixels: Tensor, side: int = 64) -> Tensor:
    """Where the head is in a portrait (B, 3, S, S), as (B, 3, side, side): the picture without its rim."""
    size = pixels.shape[-1]
    top, bottom, left, right = (round(size * share) for share in (0.02, 0.86, 0.08, 0.92))
    return F.interpolate(
        pixels[..., top:bottom, left:right],
        size=(side, side),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )


class Recogniser(nn.Module):
    """Portraits (B, 3, S, S) in [-1, 1] to unit vectors (B, 128), near for the same person."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 160)) -> None:
        super().__init__()
        self.trunk = _trunk(widths)
        side = 64 // 2 ** len(widths)
        self.project = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * side * side, EMBEDDING, bias=False),
            nn.BatchNorm1d(EMBEDDING),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.project(self.trunk(head_crop(pixels))), dim=-1)


class ReportingRecogniser(Recogniser):
    """A second recogniser of another width, trained with another loss: it only ever reports."""

    def __init__(self) -> None:
        super().__init__(widths=(24, 48, 96, 192))


class Reader(nn.Module):
    """Portraits (B, 3, 128, 128) in [-1, 1] to the logits of every attribute's values."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _trunk((24, 48, 96, 128, 160))
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(160 * 16, 256), nn.ReLU(inplace=True)
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(256, len(values)) for name, values in world.ATTRIBUTES.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        hidden = self.hidden(self.trunk(pixels))
        return {name: head(hidden) for name, head in self.heads.items()}


class Parser(nn.Module):
    """Portraits (B, 3, 128, 128) in [-1, 1] to part logits (B, 13, 128, 128): a small U-Net."""

    def __init__(self, widths: Sequence[int] = (24, 48, 96)) -> None:
        super().__init__()
        first, second, third = widths
        self.down = nn.ModuleList([_conv(3, first, 2), _conv(first, second, 2), _conv(second, third, 2)])
        self.middle = nn.Sequential(Residual(third), Residual(third))
        self.up = nn.ModuleList([_conv(third + second, second), _conv(second + first, first + 8)])
        self.last = nn.Sequential(_conv(first + 8 + 3, 24), nn.Conv2d(24, len(world.PARTS), 1))

    def forward(self, pixels: Tensor) -> Tensor:
        skips = [pixels]
        x = pixels
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.middle(x)
        for layer, skip in zip(self.up, (skips[2], skips[1]), strict=True):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), skip], 1))
        return self.last(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), pixels], 1))


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Pictures (N, H, W, 3) uint8 as (N, 3, 128, 128) in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pixels.shape[-1] != model.RESOLUTION or pixels.shape[-2] != model.RESOLUTION:
        pixels = F.interpolate(pixels, size=(model.RESOLUTION,) * 2, mode="bilinear", antialias=True)
    return pixels


@dataclass(frozen=True)
class Judges:
    """All four judges, frozen; pictures are (N, H, W, 3) uint8."""

    recogniser: Recogniser
    reporting: ReportingRecogniser
    reader: Reader
    parser: Parser

    @torch.no_grad()
    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors (N, 128) of the recogniser."""
        return self.recogniser(to_tensor(images)).numpy()

    @torch.no_grad()
    def embed_reporting(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors (N, 128) of the reporting recogniser, which no training loss ever uses."""
        return self.reporting(to_tensor(images)).numpy()

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8]) -> dict[str, list[str]]:
        """The value of every attribute of `world.ATTRIBUTES` as seen in each picture."""
        logits = self.reader(to_tensor(images))
        return {
            name: [world.ATTRIBUTES[name][index] for index in values.argmax(1).tolist()]
            for name, values in logits.items()
        }

    @torch.no_grad()
    def parse(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Part labels (N, 128, 128), indices of `world.PARTS`."""
        return self.parser(to_tensor(images)).argmax(1).to(torch.uint8).numpy()


_NETWORKS: dict[str, type[nn.Module]] = {
    "recogniser": Recogniser, "reporting_recogniser": ReportingRecogniser, "reader": Reader, "parser": Parser,
}  # fmt: skip


def load_judge(name: str) -> nn.Module:
    """The frozen network `name` of `NETWORKS` with its shipped weights."""
    network = _NETWORKS[name]()
    network.load_state_dict(model.state_dict(name), strict=True)
    return network.eval().requires_grad_(False)


def load_judges() -> Judges:
    """All judges with their shipped weights; raises LikenessError where a file is missing."""
    return Judges(*(load_judge(name) for name in ("recogniser", "reporting_recogniser", "reader", "parser")))  # pyright: ignore
