"""The kinds of adapters beside LoRA while they are trained, put in by peft, and their tensors as files have
them: LyCORIS' names, which ComfyUI's weight adapters read.

OFT is our own: peft's rotates what a layer reads, LyCORIS' and ComfyUI's what it writes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import BlockRank
from ..errors import LikenessError

ADAPTER = "likeness"
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
_KRON = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """What every layer's adapter is like."""

    kind: str = "lora"  # of `config.ADAPTERS`
    rank: int  # OFT: the largest size of a block
    alpha: float
    rslora: bool = False  # updates are scaled by alpha / sqrt(rank) (arXiv 2312.03732)
    by_block: Sequence[BlockRank] = ()

    def of(self, path: str) -> tuple[int, float]:
        """The rank and alpha of a layer, such that it is scaled by alpha / rank."""
        by_pattern = next((entry for entry in self.by_block if re.search(entry.pattern, path)), None)
        rank = self.rank if by_pattern is None else by_pattern.rank
        alpha = self.alpha
        if by_pattern is not None:
            alpha = self.alpha * by_pattern.rank / self.rank if by_pattern.alpha is None else by_pattern.alpha
        return rank, alpha * (math.sqrt(rank) if self.rslora else 1.0)


def put_in(module: nn.Module, targets: Sequence[str], shape: AdapterShape, start: Any = True) -> None:
    """Puts an adapter into every layer whose path ends in one of the targets; its first update is zero."""
    ends = tuple(targets)
    paths = [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(f".{path}".endswith(f".{end}") for end in ends)
    ]
    unmatched = [entry for entry in shape.by_block if not any(re.search(entry.pattern, p) for p in paths)]
    if unmatched:
        raise LikenessError(
            f"'rank_by_block' says {unmatched[0].pattern}, which none of the layers has in its path, such as "
            f"{paths[0] if paths else 'none'}"
        )
    if shape.kind == "oft":
        for path in paths:
            parent, _, leaf = path.rpartition(".")
            plain = module.get_submodule(path)
            setattr(module.get_submodule(parent), leaf, OutputRotation(plain, shape.of(path)[0]))
        return
    from peft import inject_adapter_in_model

    inject_adapter_in_model(_config(shape, list(targets), paths, start), module, adapter_name=ADAPTER)


def _config(shape: AdapterShape, targets: list[str], paths: Sequence[str], start: Any) -> Any:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    varied = shape.rslora or bool(shape.by_block)
    each = {path: shape.of(path) for path in paths} if varied else {}
    patterns: dict[str, Any] = {
        "rank_pattern": {f"^{re.escape(path)}": rank for path, (rank, _) in each.items()},
        "alpha_pattern": {f"^{re.escape(path)}": alpha for path, (_, alpha) in each.items()},
    }
    alpha: Any = shape.alpha  # said to be whole; PEFT scales by any number
    if shape.kind == "loha":
        # convolutions through a Tucker core, or their matrices would be as large as the layer
        return LoHaConfig(
            r=shape.rank, alpha=alpha, target_modules=targets, use_effective_conv2d=True, **patterns
        )
    if shape.kind == "lokr":
        return LoKrConfig(r=shape.rank, alpha=alpha, target_modules=targets, **patterns)
    return LoraConfig(
        r=shape.rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=start,
        use_dora=shape.kind == "dora", **patterns,
    )  # fmt: skip


def adapted_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """The layers that have an adapter, by their paths."""
    from peft.tuners.loha import LoHaLayer
    from peft.tuners.lokr import LoKrLayer
    from peft.tuners.lora import LoraLayer

    kinds = (LoraLayer, LoHaLayer, LoKrLayer, OutputRotation)
    return [(path, layer) for path, layer in module.named_modules() if isinstance(layer, kinds)]


def trained(layer: Any) -> list[nn.Parameter]:
    """What is trained of a layer's adapter in fp32, also where the frozen layer is kept in half precision."""
    if isinstance(layer, OutputRotation):
        return [layer.oft_blocks]
    weights = []
    for name in dict.fromkeys(layer.adapter_layer_names):  # PEFT names DoRA's magnitudes twice
        part = getattr(layer, name)
        if ADAPTER in part:
            inner = part[ADAPTER]
            if isinstance(inner, nn.Parameter):
                inner.data = inner.data.float()
                weights.append(inner)
            else:
                weights += list(inner.float().parameters())
    return weights


def file_parts(layer: Any) -> dict[str, Tensor] | None:
    """A layer's tensors by LyCORIS' endings; None for LoRA's and DoRA's, see `magnitude`."""
    if isinstance(layer, OutputRotation):
        return {"oft_blocks": layer.oft_blocks}
    if hasattr(layer, "hada_w1_a"):
        return {**_own(layer, _HADA), "alpha": torch.tensor(layer.scaling[ADAPTER] * layer.r[ADAPTER])}
    if not hasattr(layer, "lokr_w1"):
        return None
    parts, scaling = _own(layer, _KRON), float(layer.scaling[ADAPTER])
    split = next((parts[name] for name in ("lokr_w2_b", "lokr_w1_b") if name in parts), None)
    if split is None:  # whole factors have no alpha, in ComfyUI and in LyCORIS
        return {**parts, "lokr_w2": parts["lokr_w2"] * scaling}
    return {**parts, "alpha": torch.tensor(scaling * split.shape[0])}


def _own(layer: Any, names: Sequence[str]) -> dict[str, Tensor]:
    return {name: getattr(layer, name)[ADAPTER] for name in names if ADAPTER in getattr(layer, name)}


def magnitude(layer: Any, update: Tensor) -> Tensor | None:
    """A DoRA layer's `dora_scale` (out, 1, …) such that ComfyUI's loader draws what was trained; None of a
    LoRA. update: what the layer's weight changes by.

    PEFT divides rows by the length they have with the update, ComfyUI by the one they had before.
    """
    vectors: Mapping[str, Any] = getattr(layer, "lora_magnitude_vector", {})
    if ADAPTER not in vectors:
        return None
    before = layer.get_base_layer().weight.detach().float()
    lengths = [weight.flatten(1).norm(dim=1) for weight in (before, before + update.view_as(before))]
    scale = vectors[ADAPTER].weight.detach().float().flatten() * lengths[0] / lengths[1]
    return scale.view(-1, *[1] * (before.ndim - 1))


class OutputRotation(nn.Module):
    """A layer whose outputs are rotated in blocks (OFT, Qiu et al. 2023, arXiv 2306.07280), as LyCORIS'
    Diag-OFT; at first not at all."""

    def __init__(self, base_layer: Any, largest: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        outputs = base_layer.weight.shape[0]
        size = max(size for size in range(1, min(largest, outputs) + 1) if outputs % size == 0)
        blocks = torch.zeros(outputs // size, size, size, device=base_layer.weight.device)
        self.oft_blocks = nn.Parameter(blocks)  # (k, n, n)
        self._on = True

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def get_base_layer(self) -> nn.Module:
        return self.base_layer

    def enable_adapters(self, on: bool) -> None:
        self._on = on

    def rotation(self) -> Tensor:
        """(k, n, n), by Cayley's transform."""
        blocks = self.oft_blocks.float()
        turn = blocks - blocks.transpose(1, 2)
        one = torch.eye(blocks.shape[1], device=blocks.device)
        return (one + turn) @ torch.linalg.inv(one - turn)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.base_layer(x)
        if not self._on:
            return plain
        channels = plain.movedim(1, -1) if isinstance(self.base_layer, nn.Conv2d) else plain
        bias = 0 if self.bias is None else self.bias
        split = (channels - bias).float().unflatten(-1, tuple(self.oft_blocks.shape[:2]))
        turned = torch.einsum("knm,...kn->...km", self.rotation(), split).flatten(-2).to(plain.dtype) + bias
        return turned.movedim(-1, 1) if isinstance(self.base_layer, nn.Conv2d) else turned
