"""Others' LoRAs for Z-Image, whoever wrote them, brought under PEFT's names.

Layers are called as in the files that ComfyUI reads (`diffusion_model.layers…`, kohya's `lora_unet_layers_…`;
queries, keys and values may be one layer), or as by diffusers (`transformer.layers…`, OneTrainer's
`lora_transformer_…`, LyCORIS' `lycoris_…`, or nothing before them).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..bases.families import FAMILIES
from ..errors import LikenessError
from .flux2_lora import ENDINGS, FLAT_FRONTS, NAME_FRONTS, OF_TEXT, layers_in
from .lora_layouts import KEY, LEFT_OUT, Told, computable, kohya_part
from .z_image_names import z_image_paths, z_image_spelled_out

if TYPE_CHECKING:
    from torch import Tensor

_SPOKEN = re.compile(r"z[-_. ]?image", re.IGNORECASE)
_LUMINA_WIDTH = 2304  # of Lumina 2, whose layers are called alike
_PARTS = ("lora_down.weight", "lora_up.weight", "alpha")


def is_z_image_lora(
    tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str], family: str | None = None
) -> bool:
    """Whether a LoRA is for Z-Image: its layers are, and neither file nor user nor sizes say otherwise."""
    layers = layers_in(tensors)
    ours = [name for name in layers if any(path.startswith("transformer.") for path in _names(name))]
    if not ours or family not in (None, "z_image"):
        return False
    about = " ".join(metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version"))
    if family or _SPOKEN.search(about):
        return True
    widths = {
        size for name in ours if ".attention." in _names(name)[0]
        for part in layers[name].values() if part.ndim == 2 for size in part.shape
    }  # fmt: skip
    return bool(widths) and _LUMINA_WIDTH not in widths


def z_image_to_peft(
    tensors: "Mapping[str, Tensor]", path: Path, metadata: Mapping[str, str]
) -> "dict[str, Tensor]":
    """A Z-Image LoRA under PEFT's names with explicit alphas."""
    for key in tensors:
        match = KEY.fullmatch(key)
        if not LEFT_OUT.fullmatch(key) and (
            match is None or kohya_part(match) not in _PARTS or not _names(match["layer"])
        ):
            raise LikenessError(
                f"{path} holds '{key}', which is no part of a plain LoRA for {FAMILIES['z_image'].name}; "
                "draw with it in ComfyUI, through Load LoRA"
            )
    alphas, renamed = Told(path, metadata), {}
    for written, layer in layers_in(tensors).items():
        parts, names = computable(layer, alphas.alpha(written, layer)), _names(written)
        up = parts.get("lora_up.weight")
        thirds = [up] if up is None or up.ndim < 2 else list(up.chunk(len(names)))
        for name, third in zip(names, thirds):
            ours = parts if third is None else {**parts, "lora_up.weight": third.contiguous()}
            renamed |= {f"{name}.{ENDINGS.get(part, part)}": tensor for part, tensor in ours.items()}
    return renamed


def _names(written: str) -> tuple[str, ...]:
    """PEFT's names of the layer that a file calls so; three where it is one there, none where Z-Image has no
    such one."""
    name = written.removeprefix("base_model.model.")
    if text := OF_TEXT.fullmatch(name):
        (encoder,) = FAMILIES["z_image"].encoders
        inside = f"layers.{text['number']}.{text['part']}.{text['leaf']}"
        return (f"text_encoders.{text['encoder'] or encoder}.transformer.model.{inside}",)
    flat = next((front for front in FLAT_FRONTS if name.startswith(front)), None)
    if flat is not None:
        name = z_image_spelled_out(name.removeprefix(flat)) or ""
    name = name.removeprefix(next(front for front in NAME_FRONTS if name.startswith(front)))
    return tuple(f"transformer.{path}" for path in z_image_paths(name))
