"""Regions as people type them: `<v0>=left`, `<v1>=0.5,0,0.5,1;mode=soft`, `red hat=mask.png`, `<v0>=face`."""

import math
import re
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..bases.sampling import to_bytes
from ..config.typed import typed
from ..data.pictures import read_picture
from ..data.segment import Request, find_mask, load_segmenter
from ..errors import LikenessError, nearest
from ..files import make_folder
from .refocus import AttentionLook, Focus, Region, heat_maps
from .refocused import Heads, OnMaps, Refocusing
from .restore_options import known_of

if TYPE_CHECKING:
    from ..bases.base import BaseModel

_HALVES: dict[str, Region] = {
    "left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 0.5, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5), "bottom": (0.0, 0.5, 1.0, 0.5),
}  # fmt: skip
_FACE = "face"  # a region that is found while drawing
HEADS = ("face", "hair")  # what a parser is asked to mark
SETTINGS = {
    field.name: field.type if field.type in (float, int) else str
    for field in fields(Focus)
    if field.name not in ("token", "region")
}


def focus_of(text: str) -> Focus:
    """One word's region: WORD=REGION, then settings of `Focus`, each after a semicolon."""
    assignment, *rest = (piece.strip() for piece in text.split(";"))
    token, equals, where = (piece.strip() for piece in assignment.partition("="))
    if not (token and equals and where):
        raise LikenessError(f"'{text}' gives no word a region; write it as <v0>=left or <v0>=mask.png")
    settings = typed(rest, SETTINGS, text)
    if where == _FACE:
        return Focus(token=token, **settings)
    return Focus(token=token, region=_region(where, text), **settings)


def _region(where: str, text: str) -> Region:
    if where in _HALVES:
        return _HALVES[where]
    shares = where.split(",")
    if len(shares) == 4:
        left, top, width, height = (_number(share, text) for share in shares)
        return left, top, width, height
    if not Path(where).suffix:
        hint = nearest(where, [*_HALVES, _FACE]) or "; use left, right, top, bottom, face"
        raise LikenessError(
            f"unknown region '{where}' in '{text}'{hint}, a box such as 0,0,0.5,1 or a mask's file"
        )
    pixels = read_picture(Path(where))
    return torch.from_numpy(pixels.astype(np.float32).mean(-1) / 255)[None]


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise LikenessError(f"'{value}' in '{text}' is not a number") from None
    if not math.isfinite(number):
        raise LikenessError(f"'{value}' in '{text}' is no share of the picture")
    return number


def refocusing_of(
    texts: Sequence[str], base: "BaseModel", *, restart: bool = True, maps: Path | None = None
) -> Refocusing | None:
    """What `--refocus` asks for; `maps`: a folder for heat maps of where the words looked."""
    if not texts:
        return None
    heads, focuses = _heads_in(base), [focus_of(text) for text in texts]
    return Refocusing(
        focuses=focuses, restart=restart, look=_looking(base, heads), heads=heads,
        known={focus.token: known_of(Path(focus.like), base) for focus in focuses if focus.like},
        on_maps=None if maps is None else _maps_writer(make_folder(maps)),
    )  # fmt: skip


def _heads_in(base: "BaseModel") -> Heads:
    """Marks heads (N, H, W) in pictures (N, H, W, 3) uint8."""

    @cache
    def segmenter() -> Any:
        return load_segmenter(base.traits.segmenter)

    def heads(pictures: np.ndarray) -> np.ndarray:
        return np.stack([marked(segmenter(), pixels) for pixels in pictures])

    return heads


def _looking(base: "BaseModel", heads: Heads) -> AttentionLook:
    """Marks heads in what a step expects the picture to become."""
    return lambda clean: torch.from_numpy(heads(to_bytes(base.decode(clean)))).to(clean)


def marked(segmenter: Any, pixels: np.ndarray) -> np.ndarray:
    """Heads (H, W) in a picture (H, W, 3) that is not finished; zeros where there is none yet."""
    try:
        return find_mask(segmenter, pixels, Request(words=HEADS), "the unfinished picture")
    except LikenessError:  # nothing there yet: the word stays free
        return np.zeros(pixels.shape[:2], np.float32)


def _maps_writer(folder: Path) -> OnMaps:
    """Writes maps behind those that are in the folder already."""
    earlier = [int(match[1]) for path in folder.glob("*.png") if (match := re.match(r"(\d+)-", path.name))]
    first = max(earlier, default=-1) + 1

    def write(group: range, maps: Tensor, focuses: Sequence[Focus], pictures: np.ndarray) -> None:
        heat = heat_maps(torch.from_numpy(pictures).float() / 255, maps.cpu())
        pixels = (heat.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        for number, shown in enumerate(pixels):
            picture, word = divmod(number, len(focuses))
            name = focuses[word].token.strip("<>").replace(" ", "-")
            Image.fromarray(shown).save(folder / f"{first + group[picture]:03d}-{name}.png")

    return write
