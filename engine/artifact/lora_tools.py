"""What can be done to finished LoRAs without learning: merge, resize, extract from two models, measure.

All go by a layer's singular values, as kohya's tools do. Those of a LoRA are found in its halves (a QR of
each and the small core between them: exact, and no matrix of the layer's size is made); other kinds, and
weights' differences, are taken apart whole. Kinds that are no sum (DoRA, OFT) need the base's weight to be
known as an update, and are refused.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LikenessError
from .lora import ALPHA, DOWN, PEFT_DOWN, PEFT_UP, UP, by_module, update_of

_BLOCK = re.compile(
    r"lora_unet_(?P<kohya>[a-z]+_blocks_\d+|[a-z]+_block)_|transformer\.(?P<peft>\w+_blocks\.\d+)"
)


@dataclass(frozen=True)
class Rank:
    """How much of each layer's update is kept."""

    most: int  # ranks
    share: float | None = None  # of the update's energy (sum of squared singular values) that is enough


@dataclass(frozen=True)
class BlockNorm:
    """How strong a LoRA is in one block."""

    block: str
    layers: int
    norm: float  # of all its updates together (Frobenius)
    largest: float  # singular value, of any of them
    rank: int  # the highest


def whole_updates(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each layer's update at strength 1, in its weight's shape but for convolutions, (out, in · kernel).

    One after the other: all together are as large as the network.
    """
    for name, parts in by_module(tensors).items():
        yield name, _whole_update(name, parts)


def _check_plain(name: str, parts: Mapping[str, Tensor]) -> None:
    kinds = parts.keys() & {"dora_scale", "oft_blocks", "diff_b"}
    if kinds:
        raise LikenessError(
            f"{name} has {min(kinds)}, which is no plain update of a weight; this works on LoRA, "
            "LoHa, LoKr and differences"
        )


def _whole_update(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    _check_plain(name, parts)
    update = update_of({part: tensor.float() for part, tensor in parts.items()})
    if update.ndim < 2:
        raise LikenessError(f"{name} changes {update.numel()} single numbers, which no LoRA does")
    return update


@dataclass(frozen=True)
class _Update:
    """A layer's update as a product: up (out, r) and down (r, in · kernel); whole where up is None."""

    up: Tensor | None
    down: Tensor

    @classmethod
    def of(cls, name: str, parts: Mapping[str, Tensor], strength: float) -> "_Update":
        """A module's, times the strength."""
        if DOWN[1:] not in parts or "lora_mid.weight" in parts:
            return cls(None, strength * _whole_update(name, parts).flatten(1))
        _check_plain(name, parts)
        up, down = (parts[half[1:]].float().flatten(1) for half in (UP, DOWN))
        alpha = float(parts["alpha"]) if "alpha" in parts else len(down)
        return cls(up * (strength * alpha / len(down)), down)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.down if self.up is None else self.up).shape[0], self.down.shape[1]

    def whole(self) -> Tensor:
        """(out, in · kernel)."""
        return self.down if self.up is None else self.up @ self.down

    @classmethod
    def total(cls, updates: Sequence["_Update"]) -> "_Update":
        """The sum; of products that are together narrower than the layer it is one again."""
        ups = [one.up for one in updates if one.up is not None]
        if len(ups) == len(updates) and sum(up.shape[1] for up in ups) < min(updates[0].shape):
            return cls(torch.cat(ups, 1), torch.cat([one.down for one in updates]))
        return cls(None, torch.stack([one.whole() for one in updates]).sum(0))

    def taken_apart(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (out, r), the singular values (r,), largest first, and V (r, in · kernel)."""
        if self.up is None:
            return torch.linalg.svd(self.down, full_matrices=False)
        (left, high), (right, low) = torch.linalg.qr(self.up), torch.linalg.qr(self.down.T)
        u, values, v = torch.linalg.svd(high @ low.T)
        return left @ u, values, v @ right.T


def merged_loras(
    loras: Sequence[tuple[Mapping[str, Tensor], float]], rank: Rank, peft: bool
) -> dict[str, Tensor]:
    """One LoRA that does what several do together, each with its strength, as far as the rank goes."""
    files = [(by_module(tensors), strength) for tensors, strength in loras]
    kernels: dict[str, Sequence[int]] = {}
    for tensors, _ in loras:
        kernels |= _kernels(tensors)
    merged: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for modules, _ in files for name in modules):
        updates = [
            _Update.of(name, modules[name], strength) for modules, strength in files if name in modules
        ]
        if any(update.shape != updates[0].shape for update in updates):
            raise LikenessError(f"{name} has another size in two of the files; they are for two bases")
        merged |= _factors(name, _Update.total(updates), rank, peft, kernels.get(name, ()))
    return merged


def resized(tensors: Mapping[str, Tensor], rank: Rank, peft: bool) -> dict[str, Tensor]:
    """The nearest LoRA of another rank (Eckart and Young 1936)."""
    return merged_loras([(tensors, 1.0)], rank, peft)


def difference(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], rank: Rank, peft: bool
) -> dict[str, Tensor]:
    """A LoRA of what weights (out, in, …) of one model changed by in another, by their layers' names."""
    lora: dict[str, Tensor] = {}
    for name, weight in before.items():
        other = after.get(name)
        if other is None or other.shape != weight.shape:
            raise LikenessError(f"{name} is not in both models in one size; give two models of one family")
        change = other.float() - weight.float()
        if change.any():
            lora |= _factors(name, _Update(None, change.flatten(1)), rank, peft, weight.shape[2:])
    if not lora:
        raise LikenessError("the two models have the same weights; there is no difference to extract")
    return lora


def norms_by_block(tensors: Mapping[str, Tensor]) -> list[BlockNorm]:
    """How strong a LoRA is in each block of the network, in the order of their names."""
    blocks: dict[str, list[tuple[Tensor, int]]] = {}
    for name, parts in by_module(tensors).items():
        match = _BLOCK.match(name)
        part = name.split(".")[1] if "." in name else name.split("_")[1]  # PEFT's, kohya's
        block = next(filter(None, match.groups()), part) if match else part
        values = _Update.total([_Update.of(name, parts, 1.0)]).taken_apart()[1]
        rank = int((values > values[0] * 1e-5).sum()) if len(values) and values[0] > 0 else 0
        blocks.setdefault(block, []).append((values, rank))
    return [
        BlockNorm(
            block=block,
            layers=len(layers),
            norm=math.sqrt(sum(float(values.square().sum()) for values, _ in layers)),
            largest=max(float(values.max()) for values, _ in layers),
            rank=max(rank for _, rank in layers),
        )
        for block, layers in sorted(blocks.items())
    ]


def _factors(name: str, update: _Update, rank: Rank, peft: bool, kernel: Sequence[int]) -> dict[str, Tensor]:
    """The update as down, up and alpha, each half with half of the singular values."""
    u, values, v = update.taken_apart()
    kept = min(rank.most, len(values))
    if rank.share is not None and values.any():
        energy = values.square().cumsum(0) / values.square().sum()
        kept = min(kept, int((energy < rank.share).sum()) + 1)
    root = values[:kept].sqrt()
    down, up = root[:, None] * v[:kept], u[:, :kept] * root
    if kernel:
        down, up = down.view(kept, -1, *kernel), up[:, :, None, None]
    ends = (PEFT_DOWN, PEFT_UP) if peft else (DOWN, UP)
    halves = {name + ends[0]: down.contiguous(), name + ends[1]: up.contiguous()}
    return {**halves, name + ALPHA: torch.tensor(float(kept))}


def _kernels(tensors: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    """The convolution kernels of the layers that have one."""
    kernels: dict[str, Sequence[int]] = {}
    for name, parts in by_module(tensors).items():
        whole = next((parts[part] for part in ("lora_mid.weight", DOWN[1:], "diff", "hada_t1", "lokr_w2")
                      if part in parts), None)  # fmt: skip
        if whole is not None and whole.ndim == 4:
            kernels[name] = tuple(whole.shape[2:])
    return kernels
