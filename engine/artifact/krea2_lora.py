"""Others' LoRAs for Krea 2, whoever wrote them.

Layers are called as by its makers (`diffusion_model.blocks…`, kohya's `lora_unet_blocks…`) or as by diffusers
(`transformer.…`, `base_model.model.…`, or nothing before them); here all get PEFT's names. A layer's numbers
stay as they are.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LikenessError
from .flux2_lora import ENDINGS, layers_in
from .krea2_names import has_krea2_path, krea2_path, krea2_spelled_out
from .lora_layouts import KEY, KINDS_REFUSED, LEFT_OUT, Told, computable, kohya_part

if TYPE_CHECKING:
    from torch import Tensor

_FRONTS = ("transformer.", "diffusion_model.", "model.diffusion_model.", "")
_FLAT_FRONTS = ("lora_unet_", "lora_transformer_", "lycoris_")  # dots are underscores behind them
_TEXT = re.compile(r"text_encoders\.qwen3vl_4b\.transformer\.model\.layers\.\d+\.(?:self_attn|mlp)\.\w+")
_OWN = re.compile(
    r"\.attn\.to_gate$|transformer_blocks\.\d+\.ff\.(?:gate|up|down)$|^transformer\.text_fusion\."
)
_KEYS = ".attn.to_k"  # which have fewer heads than queries: FLUX.2's are as wide as what they read
_SPOKEN = re.compile(r"krea[-_. ]?2", re.IGNORECASE)


def is_krea2_lora(
    tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str], family: str | None = None
) -> bool:
    """Whether a LoRA is for Krea 2: by what the user or the file says, or by layers that only Krea 2 has."""
    layers = layers_in(tensors)
    named = {name: parts for written, parts in layers.items() if (name := _name(written)) is not None}
    about = " ".join(metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version"))
    if named and (family == "krea2" or (family is None and _SPOKEN.search(about))):
        return True
    return any(_OWN.search(name) or _has_few_heads(name, parts) for name, parts in named.items())


def krea2_to_peft(
    tensors: "Mapping[str, Tensor]", path: Path, metadata: Mapping[str, str]
) -> "dict[str, Tensor]":
    """A Krea 2 LoRA under PEFT's names with explicit alphas."""
    for key in tensors:
        _check(key, path)
    alphas, renamed = Told(path, metadata), {}
    for written, layer in layers_in(tensors).items():
        parts, name = computable(layer, alphas.alpha(written, layer)), _name(written)
        renamed |= {f"{name}.{ENDINGS.get(part, part)}": tensor for part, tensor in parts.items()}
    return renamed


def _name(written: str) -> str | None:
    """PEFT's name of a layer that a file calls so; None where Krea 2 has no such one."""
    name = written.removeprefix("base_model.model.")
    if _TEXT.fullmatch(name):
        return name
    flat = next((front for front in _FLAT_FRONTS if name.startswith(front)), None)
    if flat is not None:
        name = krea2_spelled_out(name.removeprefix(flat)) or ""
    name = name.removeprefix(next(front for front in _FRONTS if name.startswith(front)))
    name = f"{name}.0" if name.endswith(".attn.to_out") else name  # as some tools write it
    path = krea2_path(name) or (name if has_krea2_path(name) else None)
    return None if path is None else f"transformer.{path}"


def _has_few_heads(name: str, parts: "Mapping[str, Tensor]") -> bool:
    down, up = parts.get("lora_down.weight"), parts.get("lora_up.weight")
    if not name.endswith(_KEYS) or down is None or up is None or min(down.ndim, up.ndim) < 2:
        return False
    return up.shape[0] < down.shape[1]


def _check(key: str, path: Path) -> None:
    """Raises where a tensor is none that can be applied to Krea 2."""
    if LEFT_OUT.fullmatch(key):
        return
    if what := next((what for sign, what in KINDS_REFUSED.items() if re.search(sign, key)), None):
        raise LikenessError(f"{path} holds '{key}': it is {what}; ask for a plain LoRA of it")
    match = KEY.fullmatch(key)
    plain = match is not None and kohya_part(match) in (*ENDINGS, "alpha")
    if match is None or not plain or _name(match["layer"]) is None:
        raise LikenessError(
            f"{path} holds '{key}', which is for none of Krea 2's layers, or no plain LoRA of one; draw with "
            "it in ComfyUI, through Load LoRA"
        )
