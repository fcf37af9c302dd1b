"""Others' LoRAs for FLUX.2, whoever wrote them, and which FLUX.2 they are for.

Layers are called as by Black Forest Labs (`diffusion_model.double_blocks…`, kohya's
`lora_unet_double_blocks…`; queries, keys and values are one layer), or as by diffusers (`transformer.…`,
OneTrainer's `lora_transformer_…`, LyCORIS' `lycoris_…`, or nothing before them, as PEFT and DiffSynth write);
here all get PEFT's names. A layer's numbers stay as they are.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..bases.families import FAMILIES
from ..errors import LikenessError
from .concept_file import lora_layer
from .flux2_names import core_layer, has_path, paths_of, spelled_out, swapped
from .lora_layouts import KEY, KINDS_REFUSED, LEFT_OUT, Told, computable, kohya_part

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NAME_FRONTS = ("transformer.", "diffusion_model.", "model.diffusion_model.", "")
FLAT_FRONTS = ("lora_unet_", "lora_transformer_", "lycoris_")  # dots are underscores behind them
OF_TEXT = re.compile(
    r"(?:text_encoders\.(?P<encoder>\w+)\.transformer\.model\.|lora_te_)"
    r"layers[._](?P<number>\d+)[._](?P<part>self_attn|mlp)[._](?P<leaf>[a-z]+_proj)"
)
_SIZES = {  # (numbers put out, numbers read) by the model's width, where FLUX.1's are others
    ".attn.to_qkv_mlp_proj": (9, 1), ".attn.to_out": (1, 4), ".linear_in": (6, 1), ".linear_out": (1, 3),
}  # fmt: skip
_WIDTHS = {3072: "flux2", 4096: "flux2_9b"}
_DEV_WIDTH = 6144
_KINDS = {"hada_": "a LoHa", "lokr_": "a LoKr", "oft_": "an OFT", "dora_": "a DoRA", "diff": "a difference"}
_SPOKEN = re.compile(r"flux[-_. ]?2|klein", re.IGNORECASE)
ENDINGS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}


@dataclass(frozen=True)
class _Layer:
    """Where a layer of a file is in FLUX.2."""

    names: tuple[str, ...]  # PEFT's; three where it is one by Black Forest Labs' names
    halves: bool = False  # it puts shift and scale out the other way round


def is_flux2_lora(
    tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str], family: str | None = None
) -> bool:
    """Whether a LoRA is for FLUX.2: by what the user or the file says, or by the sizes of layers, for FLUX.1
    has many of the same names."""
    layers = layers_in(tensors)
    flux2_layers = {name: layer for name in layers if (layer := _layer(name)) is not None}
    about = " ".join(metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version"))
    if flux2_layers and ((family and FAMILIES[family].denoiser == "flux2") or _SPOKEN.search(about)):
        return True
    return any(_has_own_size(layer.names[0], layers[name]) for name, layer in flux2_layers.items())


def to_peft(
    tensors: "Mapping[str, Tensor]", path: Path, metadata: Mapping[str, str]
) -> "tuple[dict[str, Tensor], str]":
    """A FLUX.2 LoRA under PEFT's names with explicit alphas, and the family that it is for."""
    for key in tensors:
        _check(key, path)
    layers = layers_in(tensors)
    alphas, renamed = Told(path, metadata), {}
    family = _family_of(layers, path, metadata)
    for written, layer in layers.items():
        parts = computable(layer, alphas.alpha(written, layer))
        for name, named in _under_our_names(written, parts).items():
            name = name.format(*FAMILIES[family].encoders)
            renamed |= {f"{name}.{ENDINGS.get(part, part)}": tensor for part, tensor in named.items()}
    return renamed, family


def for_core(lora: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A LoRA with its layers under names that ComfyUI reads."""
    return {core_name(name) + key.removeprefix(name): tensor
            for key, tensor in lora.items() for name, _ in [lora_layer(key)]}  # fmt: skip


def core_name(name: str) -> str:
    """A layer's name that ComfyUI reads: its own where it does not know diffusers'."""
    layer = core_layer(name.removeprefix("transformer."))
    return name if layer is None else f"diffusion_model.{layer}"


def _check(key: str, path: Path) -> None:
    """Raises where a tensor is none that can be applied to FLUX.2."""
    if LEFT_OUT.fullmatch(key):
        log.warning("%s: the embedding bundled with the LoRA is left out (%s)", path, key)
        return
    match = KEY.fullmatch(key)
    part = "" if match is None else kohya_part(match)
    if kind := next((what for sign, what in _KINDS.items() if part.startswith(sign)), None):
        raise LikenessError(
            f"{path} holds '{key}': it is {kind}, and on FLUX.2 plain LoRAs alone are read; draw with it in "
            "ComfyUI, through Load LoRA"
        )
    if what := next((what for sign, what in KINDS_REFUSED.items() if re.search(sign, key)), None):
        raise LikenessError(f"{path} holds '{key}': it is {what}; ask for a plain LoRA of it")
    if match is None or part == "lora_mid.weight" or _layer(match["layer"]) is None:
        raise LikenessError(
            f"{path} holds '{key}', which is for none of FLUX.2's layers; convert it with the tool that "
            "wrote it, or draw with it in ComfyUI, through Load LoRA"
        )


def layers_in(tensors: "Mapping[str, Tensor]") -> "dict[str, dict[str, Tensor]]":
    """Parts of layers by kohya's endings, by what the file calls the layers."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key in sorted(tensors):
        match = None if LEFT_OUT.fullmatch(key) else KEY.fullmatch(key)
        if match is not None:
            layers.setdefault(match["layer"], {})[kohya_part(match)] = tensors[key]
    return layers


def _layer(written: str) -> _Layer | None:
    """Where the layer is that a file calls so; None where FLUX.2 has no such one. In the place of a text
    encoder's name is a brace for it, where the file does not say it."""
    name = written.removeprefix("base_model.model.")
    if text := OF_TEXT.fullmatch(name):
        path = f"layers.{text['number']}.{text['part']}.{text['leaf']}"
        return _Layer((f"text_encoders.{text['encoder'] or '{}'}.transformer.model.{path}",))
    flat = next((front for front in FLAT_FRONTS if name.startswith(front)), None)
    if flat is not None:
        name = spelled_out(name.removeprefix(flat)) or ""
    name = name.removeprefix(next(front for front in NAME_FRONTS if name.startswith(front)))
    paths = paths_of(name) or ((name,) if has_path(name) else ())
    return _Layer(tuple(f"transformer.{path}" for path in paths), swapped(name)) if paths else None


def _under_our_names(written: str, parts: "Mapping[str, Tensor]") -> "dict[str, dict[str, Tensor]]":
    """A layer's parts by PEFT's names of it; of three that are one there, each puts a third out."""
    import torch

    layer = _layer(written)
    assert layer is not None
    up = parts.get("lora_up.weight")
    if up is None or up.ndim < 2:  # incomplete, which is told of when the whole is checked
        return {layer.names[0]: dict(parts)}
    if layer.halves:
        up = torch.cat(up.chunk(2)[::-1])
    ups = [third.contiguous() for third in up.chunk(len(layer.names))]
    return {name: {**parts, "lora_up.weight": third} for name, third in zip(layer.names, ups)}


def _sizes(parts: "Mapping[str, Tensor]") -> tuple[int, int] | None:
    """How many numbers a layer puts out, and reads; None where matrices are missing."""
    down, up = parts.get("lora_down.weight"), parts.get("lora_up.weight")
    if down is None or up is None or down.ndim < 2 or up.ndim < 2:
        return None
    return up.shape[0], down.shape[1]


def _has_own_size(name: str, parts: "Mapping[str, Tensor]") -> bool:
    """Whether a layer by PEFT's name is of a size that only FLUX.2's is."""
    ratio = next((ratio for end, ratio in _SIZES.items() if name.endswith(end)), None)
    sizes = _sizes(parts)
    return ratio is not None and sizes is not None and sizes[0] * ratio[1] == sizes[1] * ratio[0]


def _family_of(layers: "Mapping[str, Mapping[str, Tensor]]", path: Path, metadata: Mapping[str, str]) -> str:
    """A key of `FAMILIES`: by what the file says, else by its layers' width; tiny ones count as Klein 4B."""
    rows = [row for row in FAMILIES.values() if row.denoiser == "flux2"]
    said = metadata.get("modelspec.architecture", "").partition("/")[0]
    if named := [row.key for row in rows if row.architecture == said]:
        return named[0]
    widths = {
        min(sizes)
        for name, parts in layers.items()
        if "blocks" in name and (sizes := _sizes(parts)) is not None
    }
    if _DEV_WIDTH in widths:
        names = " or ".join(row.name for row in rows)
        raise LikenessError(
            f"{path} is a LoRA for FLUX.2 dev, not for {names}; draw with it in ComfyUI, through Load LoRA"
        )
    return next((_WIDTHS[width] for width in widths if width in _WIDTHS), rows[0].key)
