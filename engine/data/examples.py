"""Pictures as a method trains on them: cropped, stacked, and drawn in batches that depend only on seeds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..devices import to_device
from ..errors import LikenessError
from .concepts import Concept
from .ragged import joined


@dataclass(frozen=True, kw_only=True)
class Examples:
    """N pictures: pixels (N, 3, H, W) in [-1, 1]; masks (N, 1, H, W) in [0, 1], 1 where nobody masked.

    Both are tensors, or `Ragged` where pictures are of several sizes.
    """

    pixels: Any
    masks: Any
    concepts: Tensor  # (N,) which concept each belongs to
    prior: Tensor  # (N,) bool: drawn by the base to show the class, not a picture of the concept

    def __len__(self) -> int:
        return len(self.pixels)

    def joined(self, other: "Examples") -> "Examples":
        """These pictures, then the other's."""
        both = {entry.name: joined(getattr(self, entry.name), getattr(other, entry.name))
                for entry in fields(self)}  # fmt: skip
        return Examples(**both)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B examples and every random number that their training step needs; nobody changes it."""

    pixels: Tensor  # (B, 3, H, W) in [-1, 1], of one size
    masks: Tensor  # (B, 1, H, W) in [0, 1]
    prompts: tuple[str, ...]
    concepts: Tensor  # (B,)
    prior: Tensor  # (B,) bool
    indices: Tensor  # (B,) which examples these are
    noise: Tensor  # (B, C, h, w) that the diffusion adds
    posterior: Tensor  # (B, C, h, w) standard normal: picks the latents from the autoencoder's posterior
    times: Tensor  # (B,) in [0, 1]: how far from picture to noise
    bucket: int = 0  # which of the pictures' sizes this is
    mirrored: Tensor | None = None  # (B,) bool: left and right exchanged, where this is drawn at all
    origin: "Batch | None" = None  # the batch on the CPU that this one was sent from

    @property
    def here(self) -> Any:
        """This batch on the CPU, where its numbers can be read without waiting for a device."""
        return self if self.origin is None else self.origin

    def __len__(self) -> int:
        return len(self.prompts)

    def shard(self, rank: int, world: int) -> "Batch":
        """Every `world`-th example from number `rank`: what one of `world` processes works on."""
        if world == 1:
            return self
        for count in (int((~self.prior).sum()), int(self.prior.sum())):
            if count % world:
                raise LikenessError(
                    f"{count} pictures per pass do not divide among {world} processes; "
                    f"choose batch sizes that are multiples of {world}"
                )
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        rows = {name: value for name, value in values.items() if isinstance(value, Tensor | tuple)}
        return replace(self, **{name: value[rank::world] for name, value in rows.items()})

    def to(self, device: torch.device) -> "Batch":
        tensors = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(
            self,
            origin=None if device.type == "cpu" else self.here,
            **{key: to_device(value, device) for key, value in tensors.items() if isinstance(value, Tensor)},
        )  # fmt: skip


def examples_of(concepts: Sequence[Concept], size: int) -> Examples:
    """All pictures of the concepts, cropped to squares around their middle and scaled to `size` pixels."""
    if not concepts:  # the method reads its pictures elsewhere
        pixels, masks = torch.zeros(0, 3, size, size), torch.zeros(0, 1, size, size)
        return Examples(pixels=pixels, masks=masks, concepts=torch.zeros(0), prior=torch.zeros(0))
    pixels, masks, owners = [], [], []
    for number, concept in enumerate(concepts):
        for picture in concept.pictures:
            pixels.append(square_pixels(picture.pixels, size))
            masks.append(square_mask(picture.mask, size))
            owners.append(number)
    return Examples(
        pixels=torch.stack(pixels),
        masks=torch.stack(masks),
        concepts=torch.tensor(owners),
        prior=torch.zeros(len(owners), dtype=torch.bool),
    )


def square_pixels(pixels: np.ndarray, size: int) -> Tensor:
    """The middle square of pixels (H, W, 3) uint8 as (3, size, size) in [-1, 1]."""
    return fitted_pixels(pixels, size, size)


def fitted_pixels(pixels: np.ndarray, height: int, width: int) -> Tensor:
    """The middle of pixels (H, W, 3) uint8 in these proportions, as (3, height, width) in [-1, 1]."""
    image = Image.fromarray(_middle(pixels, height, width))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def square_mask(mask: np.ndarray | None, size: int) -> Tensor:
    """The middle square of a mask (H, W) in [0, 1] as (1, size, size); 1 everywhere without one."""
    return fitted_mask(mask, size, size)


def fitted_mask(mask: np.ndarray | None, height: int, width: int) -> Tensor:
    """The middle of a mask (H, W) in [0, 1] as (1, height, width), cut as its picture; 1 without one."""
    if mask is None:
        return torch.ones(1, height, width)
    image = Image.fromarray(_middle(mask, height, width).astype(np.float32))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(image)).clamp(0, 1)[None]


def _middle(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest middle part of an array (H, W, …) in the proportions of height to width."""
    scale = min(array.shape[0] / height, array.shape[1] / width)
    tall, wide = round(height * scale), round(width * scale)
    top, left = (array.shape[0] - tall) // 2, (array.shape[1] - wide) // 2
    return np.ascontiguousarray(array[top : top + tall, left : left + wide])


def mixed_seed(*parts: object) -> int:
    """One well-mixed seed from several numbers or words."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*parts: object) -> torch.Generator:
    """A CPU generator of its own for each combination of numbers or words."""
    return torch.Generator().manual_seed(mixed_seed(*parts))


def shuffled(choices: Tensor, count: int, number: int, *seed: object) -> Tensor:
    """The `number`-th batch of `count` items when going through `choices` (N,) in a new order each round."""
    size = len(choices)
    orders: dict[int, Tensor] = {}
    picked = []
    for position in range(number * count, (number + 1) * count):
        turn, place = divmod(position, size)
        if turn not in orders:
            orders[turn] = torch.randperm(size, generator=generator_for("order", turn, *seed))
        picked.append(orders[turn][place])
    return choices[torch.stack(picked)]
