"""The interface every back end keeps, and what they share: a picture scaled and normalised for a network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Found:
    """What a back end found in one picture: a soft mask (H, W) in [0, 1] per word, in the words' order."""

    masks: NDArray[np.float32]  # (words, H, W)
    scores: tuple[float, ...]  # how sure it is of each word at its surest place, 0 to 1
    instead: dict[str, float] = field(default_factory=dict)  # what else it saw, and how surely
    doubt: str = ""  # why none of it can be right, after the picture's name


class Segmenter(Protocol):
    """Finds words in pictures of any size; loaded once, used for many pictures."""

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        """pixels (H, W, 3); unknown words raise LikenessError naming the nearest valid one."""
        ...


def network_input(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """The picture as (1, 3, *size), scaled (the shape may change) and normalised."""
    image = Image.fromarray(pixels)
    if (image.height, image.width) != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=3.0)
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    shape = (3, 1, 1)
    return ((values - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))[None]


def enlarged(maps: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Maps (N, h, w) at the picture's size (N, H, W), one after the other to bound the memory."""
    whole = np.empty((len(maps), *size), dtype=np.float32)
    for number, map_ in enumerate(maps):
        scaled = F.interpolate(map_[None, None].float(), size=size, mode="bilinear", align_corners=False)
        whole[number] = scaled[0, 0].clamp(0, 1).cpu().numpy()
    return whole
