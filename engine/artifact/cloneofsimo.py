"""The files of cloneofsimo's LoRA code, which MagiCapture writes: modules by number, without names or alpha.

`unet:<number>:up|down`, `text_encoder:<number>:up|down`, and one vector for each placeholder. Numbers follow
the order in which diffusers 0.14 registered its modules: down blocks, up blocks, the middle last.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LikenessError
from .lora import ALPHA, DOWN, UP, text_name, unet_name

STRENGTHS = {"unet": 0.6, "text_encoder": 0.9}  # what MagiCapture's code draws with, whatever the file says
MARK = "likeness.strengths"  # in metadata: the file is meant for code that draws so
_CLASSES = {"unet": ["Attention", "CrossAttention", "GEGLU"], "text_encoder": ["CLIPAttention"]}
_KEY = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
_PLACEHOLDER = re.compile(r"<[^<>]+>")
_IN_BLOCK = (
    *(f"attn1.{leaf}" for leaf in ("to_q", "to_k", "to_v", "to_out.0")), "ff.net.0.proj",
    *(f"attn2.{leaf}" for leaf in ("to_q", "to_k", "to_v", "to_out.0")),
)  # fmt: skip
_IN_LAYER = ("k_proj", "v_proj", "q_proj", "out_proj")
_SD = (
    *(f"down_blocks.{level}.attentions.{number}" for level in (0, 1, 2) for number in (0, 1)),
    *(f"up_blocks.{level}.attentions.{number}" for level in (1, 2, 3) for number in (0, 1, 2)),
    "mid_block.attentions.0",
)
_MINIATURE = (
    *(f"down_blocks.{level}.attentions.0" for level in (0, 1)),
    *(f"up_blocks.{level}.attentions.{number}" for level in (1, 2) for number in (0, 1)),
    "mid_block.attentions.0",
)
BLOCKS_BY_COUNT = {len(blocks): blocks for blocks in (_SD, _MINIATURE)}  # those with attention


def unet_paths(blocks: Sequence[str]) -> list[str]:
    """The U-Net's modules in the file's order; `blocks` are its attention blocks in that order."""
    return [f"{block}.transformer_blocks.0.{leaf}" for block in blocks for leaf in _IN_BLOCK]


def text_paths(layers: int) -> list[str]:
    return [f"text_model.encoder.layers.{n}.self_attn.{leaf}" for n in range(layers) for leaf in _IN_LAYER]


def read_numbered_lora(
    tensors: Mapping[str, Tensor],
    path: Path,
    blocks: Sequence[str] | None = None,
    strengths: Mapping[str, float] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The LoRA under kohya names, its alphas holding `strengths` (by default `STRENGTHS`, 1 for a part that
    is not named), and the placeholders' vectors (D,)."""
    strengths = STRENGTHS if strengths is None else strengths
    counts = {part: _count(tensors, part) for part in STRENGTHS}
    blocks = blocks or BLOCKS_BY_COUNT.get(counts["unet"] // len(_IN_BLOCK), ())
    names = {
        "unet": [unet_name(name) for name in unet_paths(blocks)],
        "text_encoder": [text_name(name) for name in text_paths(counts["text_encoder"] // len(_IN_LAYER))],
    }
    if any(len(names[part]) != count for part, count in counts.items()):
        raise LikenessError(
            f"{path} numbers {counts['unet']} modules of a U-Net and {counts['text_encoder']} of a text "
            "encoder, which fits no base we know; only files for SD 1.x and 2.x can be read"
        )
    lora: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match:
            part, number, way = match[1], int(match[2]), match[3]
            name = names[part][number]
            lora[name + (UP if way == "up" else DOWN)] = tensor
            if way == "down":
                lora[name + ALPHA] = torch.tensor(strengths.get(part, 1.0) * tensor.shape[0])
        elif _PLACEHOLDER.fullmatch(key):
            rows[key] = tensor.flatten()
        else:
            raise LikenessError(f"{path} holds '{key}', which no file of this kind has; choose another")
    return lora, rows


def _count(tensors: Mapping[str, Tensor], part: str) -> int:
    matches = (_KEY.fullmatch(key) for key in tensors)
    return max((int(match[2]) + 1 for match in matches if match and match[1] == part), default=0)


def write(
    lora: Mapping[str, Tensor], rows: Mapping[str, Tensor], blocks: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that draws the same in code that applies `STRENGTHS`."""
    names = {key.removesuffix(DOWN) for key in lora if key.endswith(DOWN)}
    count = sum(name.startswith("lora_unet_") for name in names)
    blocks = blocks or BLOCKS_BY_COUNT.get(count // len(_IN_BLOCK), ())
    layers = sum(name.startswith("lora_te_") for name in names) // len(_IN_LAYER)
    by_part = {
        "unet": [unet_name(path) for path in unet_paths(blocks)],
        "text_encoder": [text_name(path) for path in text_paths(layers)],
    }
    if names != {name for part in by_part.values() for name in part}:
        raise LikenessError(
            "this LoRA is on other layers than MagiCapture's code has; export it as a stock LoRA instead"
        )
    tensors, metadata = {}, {}
    for part, ordered in by_part.items():
        if ordered:
            metadata[part] = json.dumps(_CLASSES[part])
        for number, name in enumerate(ordered):
            down, up = lora[name + DOWN], lora[name + UP]
            factor = float(lora[name + ALPHA]) / down.shape[0] / STRENGTHS[part]
            factor = 1.0 if abs(factor - 1) < 1e-6 else factor  # what was read is written again exactly
            tensors[f"{part}:{number}:up"] = (up.float() * factor).half()
            tensors[f"{part}:{number}:down"] = down.half()
            metadata[f"{part}:{number}:rank"] = str(down.shape[0])
    for token, vectors in rows.items():
        if len(vectors) != 1:
            raise LikenessError(
                f"{token} has {len(vectors)} vectors; files of this kind hold one for each word"
            )
        tensors[token], metadata[token] = vectors[0].float(), "<embed>"
    return tensors, metadata
