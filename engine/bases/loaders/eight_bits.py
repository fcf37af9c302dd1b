"""Weights in 8 bits as files and ComfyUI have them, and what else is packed and cannot be read."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import LikenessError
from ..stored import EIGHT_BITS, widened_weight

SCALES = (".weight_scale", ".scale_weight")  # that stored weights are multiplied with
_NO_WEIGHTS = (".comfy_quant", ".input_scale", ".scale_input", "scaled_fp8", "lm_head.weight")
_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")  # ComfyUI's names for those that are read
GET = "get it in bf16, fp16, fp32, fp8 or int8"


def as_kept(where: object, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], torch.dtype]:
    """A network's weights, and the precision that most of them are computed in; those in fp8 or int8 as they
    are, with their scales (out, 1) beside them as `….weight_scale`, all others in that precision.

    Raises LikenessError for numbers that are packed in other ways.
    """
    scales = {key.removesuffix(ending): value for ending in SCALES for key, value in state.items()
              if key.endswith(ending)}  # fmt: skip
    plain = {key: value for key, value in state.items() if not key.endswith((*SCALES, *_NO_WEIGHTS))}
    formats = {key.removesuffix(".comfy_quant"): _format_of(value) for key, value in state.items()
               if key.endswith(".comfy_quant")}  # fmt: skip
    for layer, format_ in formats.items():
        if format_ not in _FORMATS and f"{layer}.weight" in plain:
            raise _refused(where, f"{layer} is {format_}")
    kinds: Counter[torch.dtype] = Counter()
    for key, value in plain.items():
        layer = key.removesuffix(".weight")
        readable = value.is_floating_point() or (value.dtype == torch.int8 and layer in scales)
        if not readable or ".weight_scale_2" in key:
            raise _refused(where, f"{key} is {str(value.dtype).removeprefix('torch.')}")
        kinds[_computed(value.dtype)] += value.numel()
    most = kinds.most_common(1)[0][0]
    weights = {}
    for key, value in plain.items():
        layer = key.removesuffix(".weight")
        scale = scales.get(layer) if key.endswith(".weight") else None
        if scale is not None:
            scale = _by_row(where, layer, scale, value)
        if value.dtype not in EIGHT_BITS:
            weights[key] = value.to(most) if scale is None else (value.float() * scale).to(most)
            continue
        weights[key] = value
        if scale is not None:
            weights[f"{layer}.weight_scale"] = scale
    return weights, most


def as_stored(where: object, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's weights in the precision that most of them have, those in 8 bits widened to it."""
    kept, most = as_kept(where, state)
    weights = {key: value for key, value in kept.items() if not key.endswith(SCALES)}
    return {key: widened_weight(value, kept.get(f"{key}_scale"), most) for key, value in weights.items()}


def _by_row(where: object, layer: str, scale: Tensor, weight: Tensor) -> Tensor:
    """A layer's scale, one number for each of its outputs."""
    if not scale.is_floating_point() or scale.numel() not in (1, weight.shape[0]):
        raise _refused(where, f"{layer} has scales of blocks")
    return scale.float().reshape(-1, 1).expand(weight.shape[0], 1).contiguous()


def _format_of(packed: Tensor) -> str:
    """What ComfyUI calls a layer's format; rotated weights are another."""
    try:
        about: Any = json.loads(bytes(packed.tolist()))
        inner = about.get("params") or {}
        rotated = about.get("convrot", isinstance(inner, dict) and inner.get("convrot"))
        return f"{about.get('format')}{' with rotated weights' if rotated else ''}"
    except (ValueError, TypeError, AttributeError):
        return "of an unknown format"


def _refused(where: object, what: str) -> LikenessError:
    return LikenessError(f"{where} is quantised and cannot be learned on ({what}); {GET}")


def _computed(stored: torch.dtype) -> torch.dtype:
    """What numbers stored so are computed with."""
    if stored == torch.float64:
        return torch.float32
    return stored if stored in (torch.float32, torch.float16) else torch.bfloat16
