"""Others' LoRAs under kohya's names, whoever wrote them, and the base they are for.

Read are the layouts of kohya and LyCORIS (with diffusers' or LDM's names of a U-Net), diffusers (2023's,
which began at the U-Net, and today's), PEFT, and ComfyUI's own training. A layer's numbers stay as they are:
`lora` applies them, and ComfyUI does.
"""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bases.families import FAMILIES, Family
from ..errors import LikenessError
from .concept_file import LORA_PARTS

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_PARTS = "|".join(map(re.escape, [*LORA_PARTS, "lokr_t2"]))
KEY = re.compile(
    r"(?P<layer>.+?)(?:"
    rf"\.(?P<part>{_PARTS})"
    r"|\.lora_(?P<letter>[AB])(?:\.\w+)?\.weight"  # PEFT, where an adapter may have a name
    r"|[._]lora(?:_linear_layer)?\.(?P<way>down|up)\.weight"  # diffusers; in 2023 as attention processors
    r"|_lora\.(?P<alpha>alpha)"
    r"|\.(?P<norm>[wb])_norm"  # LyCORIS: differences of a norm's weight and bias
    r")"
)
_KOHYA = re.compile(r"lora_(?:unet|te|te1|te2)_\w+")
_FRONTS = {  # how names of layers begin, and what they begin with here
    "unet.": "unet", "diffusion_model.": "unet", "text_encoder.": "te", "text_encoder_2.": "te2",
    "text_encoders.clip_l.transformer.": "te", "text_encoders.clip_h.transformer.": "te",
    "text_encoders.clip_g.transformer.": "te2",
}  # fmt: skip
_UNET = re.compile(r"(?:down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)\..+")
KINDS_REFUSED = {  # kinds that neither half can apply as they were meant, by their own names
    r"\.lora_magnitude_vector": "PEFT's DoRA, whose magnitudes ComfyUI leaves out",
    r"\.lora_embedding_[AB]": "a LoRA of the word table, which ComfyUI leaves out",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.on_input$": "an (IA)³",
    r"\.oft_|\.rescale$": "an OFT of another kind than LyCORIS' blocks",
}
_LIKE_FLUX2 = "FLUX.1"  # whose layers are often called alike, and have the same sizes
_ARCHITECTURES_REFUSED = {
    r"double_blocks|single_blocks|single_transformer_blocks": _LIKE_FLUX2,
    r"^lora_prior_|^prior\.": "Stable Cascade",
    r"joint_blocks": "Stable Diffusion 3",
    r"^(?:lora_)?transformer[._]|t5xxl|lora_te3|^lora_unet_(?:blocks|layers)_"
    r"|^diffusion_model\.(?:blocks|layers)\.": "a diffusion transformer",
}
LEFT_OUT = re.compile(r"bundle_emb\..+")  # OneTrainer's embeddings inside of a LoRA
_ATTENTION = re.compile(
    r"lora_unet_(down|up|input|output)_blocks_(\d+)_(attentions_\d+|1_transformer|1_proj)_?"
)
_AS_WIDE_AS_ITS_BLOCK = re.compile(
    r"(?:attn\d_to_[qkv]|attn\d_to_out_0|proj_in|proj_out|conv[12]|in_layers_2|out_layers_3)$"
)
_DEEP = re.compile(r"transformer_blocks_[1-9]\d*_")
_SD_BLOCKS = {  # diffusers' own defaults, which are SD 1.x's
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
}


def is_lora(keys: Iterable[str]) -> bool:
    """Whether tensors of these names are a LoRA or one of its relatives."""
    sign = re.compile(r"lora|\.hada_w|\.lokr_w|\.oft_|\.diff$|\.on_input$|\.[ab][12]\.weight$")
    return any(sign.search(key) for key in keys)


def to_kohya(
    tensors: "Mapping[str, Tensor]", path: Path, metadata: Mapping[str, str] | None = None
) -> "dict[str, Tensor]":
    """The LoRA under kohya's names, in precisions that can be computed with.

    Alpha equals the rank where neither the file nor what PEFT keeps beside the weights says another.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    written: dict[str, str] = {}  # by name, how the file calls the layer
    left_out = [key for key in tensors if LEFT_OUT.fullmatch(key)]
    if left_out:
        log.warning("%s: the embedding bundled with the LoRA is left out (%s)", path, left_out[0])
    for key in tensors.keys() - left_out:
        match = KEY.fullmatch(key)
        name = None if match is None else _name_of(match["layer"])
        if match is None or name is None or _other_architecture(key):
            raise _foreign(path, key)
        layers.setdefault(name, {})[kohya_part(match)] = tensors[key]
        written[name] = match["layer"]
    if any(name.startswith("lora_te2_") for name in layers):
        layers = {_first_of_two(name): layer for name, layer in layers.items()}
        written = {_first_of_two(name): layer for name, layer in written.items()}
    alphas = Told(path, metadata or {})
    return {
        f"{name}.{part}": tensor
        for name, layer in sorted(layers.items())
        for part, tensor in computable(layer, alphas.alpha(written[name], layer)).items()
    }


def for_two_encoders(lora: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The same where the base has two text encoders and the file, holding one, did not number it."""
    return {_first_of_two(key): tensor for key, tensor in lora.items()}


def _first_of_two(name: str) -> str:
    return re.sub(r"^lora_te_", "lora_te1_", name)


def kohya_part(match: re.Match[str]) -> str:
    """Which of `LORA_PARTS` a key is."""
    if match["norm"]:
        return {"w": "diff", "b": "diff_b"}[match["norm"]]
    way = match["way"] or {"A": "down", "B": "up"}.get(match["letter"] or "")
    return f"lora_{way}.weight" if way else match["part"] or match["alpha"]


def _name_of(layer: str) -> str | None:
    """A layer's kohya name; None where it is none of a U-Net's or of CLIP's."""
    if _KOHYA.fullmatch(layer):
        return layer
    if layer.startswith("lycoris_"):
        return "lora_unet_" + layer.removeprefix("lycoris_")
    layer = layer.replace("base_model.model.", "").replace(".processor.", ".")
    front = next((front for front in _FRONTS if layer.startswith(front)), "")
    if not front and not _UNET.fullmatch(layer):
        return None
    part, rest = _FRONTS.get(front, "unet"), layer.removeprefix(front)
    if rest.endswith(".to_out"):
        rest += ".0"
    if part != "unet" and not rest.startswith("text_model."):
        rest = f"text_model.{rest}"  # transformers 5 dropped that level
    return f"lora_{part}_{rest.replace('.', '_')}"


def computable(layer: "Mapping[str, Tensor]", alpha: float | None) -> "dict[str, Tensor]":
    """The layer's tensors with an alpha; 8-bit floats as 16-bit ones, which hold each of them."""
    import torch

    parts = {
        part: tensor.half() if str(tensor.dtype).startswith("torch.float8") else tensor
        for part, tensor in layer.items()
    }
    if "alpha" in parts:
        parts["alpha"] = parts["alpha"].float()
    elif alpha is not None:
        parts["alpha"] = torch.tensor(alpha)
    if {"lokr_t2", "lokr_w2_a", "lokr_w2_b"} <= parts.keys():  # ComfyUI cannot apply a LoKr's Tucker core
        factors = [parts.pop(f"lokr_{part}").float() for part in ("t2", "w2_b", "w2_a")]
        whole = torch.einsum("i j k l, j r, i p -> p r k l", *factors)
        scale = parts.pop("alpha") / len(factors[1]) if "alpha" in parts else 1.0
        parts["lokr_w2"] = (whole * scale).contiguous()
    return parts


def _foreign(path: Path, key: str) -> LikenessError:
    """What to say about a tensor that nobody here can apply."""
    for sign, what in KINDS_REFUSED.items():
        if re.search(sign, key):
            return LikenessError(f"{path} holds '{key}': it is {what}; ask for a plain LoRA of it")
    if other := _other_architecture(key):
        alike = other == _LIKE_FLUX2 or "transformer_blocks" in key
        return LikenessError(
            f"{path} holds '{key}': it is a LoRA for {other}, not for SD 1.x, SD 2.x, SDXL, FLUX.2 Klein, "
            "Z-Image or Krea 2; draw with it in ComfyUI, through Load LoRA"
            + (", or, if it is Klein's, say so with --family flux2" if alike else "")
        )
    return LikenessError(
        f"{path} holds '{key}', which no layout of LoRAs that we know has; convert it to kohya's with the "
        "tool that wrote it"
    )


def _other_architecture(key: str) -> str | None:
    return next((what for sign, what in _ARCHITECTURES_REFUSED.items() if re.search(sign, key)), None)


class Told:
    """The alphas that PEFT and diffusers keep beside the weights: in metadata, or in adapter_config.json."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._path, self._said = path, False
        self._all: dict[str, Any] = {}
        beside = path.with_name("adapter_config.json")
        if "lora_adapter_metadata" in metadata:
            self._all = json.loads(metadata["lora_adapter_metadata"])
        elif path.stem == "adapter_model" and beside.is_file():
            self._all = json.loads(beside.read_text("utf-8"))

    def alpha(self, written: str, layer: "Mapping[str, Tensor]") -> float | None:
        """For a layer as the file calls it; the rank where nothing is said of a LoRA, None of other kinds."""
        down = layer.get("lora_down.weight")
        if down is None:
            return None
        if not down.ndim:
            raise LikenessError(f"{self._path}: {written} holds a single number, no matrix; get it again")
        rank = float(down.shape[0])
        part = written.split(".")[0]
        config = {
            name: self._all.get(f"{part}.{name}", self._all.get(name))
            for name in ("lora_alpha", "alpha_pattern", "use_rslora")
        }
        patterns = config["alpha_pattern"] or {}
        alpha = next(
            (patterns[name] for name in patterns if f".{written}".endswith(f".{name}")), config["lora_alpha"]
        )
        if alpha is None:
            return rank
        alpha = float(alpha) * (math.sqrt(rank) if config["use_rslora"] else 1)
        if alpha != rank and not self._said:
            self._said = True
            log.warning(
                "%s was learned at %.3g times its matrices, as PEFT's configuration says; it is drawn so, "
                "though ComfyUI's own Load LoRA leaves that out", self._path, alpha / rank,
            )  # fmt: skip
        return alpha


# ------------------------------------------------------------------------------------------- for which base


def family_of_lora(
    lora: "Mapping[str, Tensor]", path: Path, metadata: Mapping[str, str], family: str | None = None
) -> str:
    """The family of bases it fits, a key of `FAMILIES`; `family`: what the user says it is.

    Where several would do, what the file says of itself decides, else it is taken for the first, and that is
    said.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in lora.items():
        name, _, part = key.partition(".")
        layers.setdefault(name, {})[part] = tensor
    unets = [row for row in FAMILIES.values() if row.denoiser == "unet"]
    fitting = [row for row in unets if all(_fits(row, *entry) for entry in layers.items())]
    keys = [row.key for row in fitting]
    if family is not None:
        if family in keys:
            return family
        raise LikenessError(f"{path} does not fit {FAMILIES[family].name}; it is for another base")
    if not fitting:
        raise LikenessError(
            f"{path} does not fit SD 1.x, SD 2.x, SDXL or the Miniature; it is for another base"
        )
    about = metadata.get("modelspec.architecture", "") + " " + metadata.get("ss_base_model_version", "")
    signs = {"sdxl": "xl", "sd2": "v2", "sd1": "v1"}
    named = [key for key in keys if key in signs and signs[key] in about]
    if len(keys) > 1 and not named:
        log.warning(
            "%s fits %s alike; it is taken for %s: say which with --family",
            path, " and ".join(row.name for row in fitting), fitting[0].name,
        )  # fmt: skip
    return (named or keys)[0]


def _fits(row: Family, name: str, layer: "Mapping[str, Tensor]") -> bool:
    """Whether a base of this family has a layer of this name that reads as many numbers."""
    width = _reads(layer)
    if not name.startswith("lora_unet_"):
        number = {"lora_te2_": 1}.get(name[:9], 0)
        if number >= len(row.encoders) or (name.startswith("lora_te1_") and len(row.encoders) < 2):
            return False
        inside = re.search(r"(?:[qkv]|out)_proj$|fc1$", name)
        return not inside or width in (None, row.text_widths[row.encoders[number]])
    if re.search(r"attn2_to_[kv]$", name) and width not in (None, row.context_width):
        return False
    made = _writes(layer)
    if made is not None and _AS_WIDE_AS_ITS_BLOCK.search(name):
        widths = {**_SD_BLOCKS, **row.network}["block_out_channels"]
        if (made in widths) == row.own_world:
            return False
    if row.own_world:
        return True
    down = layer.get("lora_down.weight")
    if (
        row.linear_projection
        and name.endswith(("proj_in", "proj_out"))
        and down is not None
        and down.ndim == 4
    ):
        return False
    return _has_attention(row, name)


def _has_attention(row: Family, name: str) -> bool:
    """Whether the family's U-Net has attention where a layer's name says, and as much of it."""
    blocks: dict[str, Any] = {**_SD_BLOCKS, **row.network}
    if _DEEP.search(name) and max(blocks.get("transformer_layers_per_block", [1])) < 2:
        return False
    match = _ATTENTION.match(name)
    if match is None:
        return True
    each, number = blocks["layers_per_block"] + 1, int(match[2])
    level = {"input": (number - 1) // each, "output": number // each}.get(match[1], number)
    kinds = blocks["down_block_types" if match[1] in ("down", "input") else "up_block_types"]
    return level < len(kinds) and "CrossAttn" in kinds[level]


def _writes(layer: "Mapping[str, Tensor]") -> int | None:
    """How many numbers a layer gives; None where that cannot be told from its tensors."""
    for part in ("lora_up.weight", "diff"):
        if part in layer and layer[part].ndim > 1:
            return layer[part].shape[0]
    if "hada_w1_a" in layer and "hada_t1" not in layer:
        return layer["hada_w1_a"].shape[0]
    rows = [
        next((layer[part].shape[0] for part in (f"lokr_w{n}", f"lokr_w{n}_a") if part in layer), 0)
        for n in (1, 2)
    ]
    if all(rows):
        return rows[0] * rows[1]
    blocks = layer.get("oft_blocks")
    return blocks.shape[0] * blocks.shape[1] if blocks is not None and blocks.ndim == 3 else None


def _reads(layer: "Mapping[str, Tensor]") -> int | None:
    """How many numbers a layer reads; None where that cannot be told from its tensors."""

    def columns(part: str) -> int | None:
        return layer[part].shape[1] if part in layer and layer[part].ndim > 1 else None

    if any(part in layer for part in ("lora_down.weight", "hada_w1_b", "diff")):
        return columns("lora_down.weight") or columns("hada_w1_b") or columns("diff")
    first, second = (columns(f"lokr_w{n}") or columns(f"lokr_w{n}_b") for n in (1, 2))
    return first * second if first and second else None
