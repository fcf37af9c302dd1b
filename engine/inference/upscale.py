"""Enlarging pictures of any size with a network, tile by tile: memory goes with the tile, not the picture."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import LikenessError

_Pixels = NDArray[np.float32]  # (H, W, 3) in [0, 1]
OnTile = Callable[[int, int], None]  # tiles done, tiles in all
TILE_SIDE, TILE_MARGIN = 512, 32  # pixels of what is kept of a tile, and of what is seen around it
SMALLEST = 64  # tiles are halved down to this where memory runs out


def upscaled(
    pixels: _Pixels,
    network: Any,
    *,
    shrink: int = 1,
    tile: int = TILE_SIDE,
    margin: int = TILE_MARGIN,
    device: str | torch.device = "cpu",
    on_tile: OnTile | None = None,
) -> _Pixels:
    """The picture (H, W, 3) as (H s, W s, 3), s = network.scale / shrink.

    Each tile is computed with `margin` pixels of its surroundings, which are then cut off, so that tiles meet
    without seams where the network looks no further. `shrink` averages each tile's pixels, n by n, before it
    is kept. Out of memory: the tiles are halved, then halved again.
    """
    if tile < SMALLEST or margin < 0:
        raise LikenessError(f"tile {tile}, margin {margin}: use {SMALLEST} or more and 0 or more")
    scale = int(network.scale)
    if shrink < 1 or scale % shrink:
        raise LikenessError(f"{scale} times enlarged cannot be shrunk by {shrink}; use a divisor of {scale}")
    while True:
        try:
            return _by_tiles(pixels, network, scale, shrink, tile, margin, device, on_tile)
        except torch.OutOfMemoryError:
            if tile // 2 < SMALLEST:
                raise
            tile //= 2


def _by_tiles(
    pixels: _Pixels, network: Any, scale: int, shrink: int, tile: int, margin: int,
    device: str | torch.device, on_tile: OnTile | None,
) -> _Pixels:  # fmt: skip
    height, width = pixels.shape[:2]
    factor = scale // shrink
    whole = np.empty((height * factor, width * factor, 3), np.float32)
    places = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
    for number, (top, left) in enumerate(places, start=1):
        bottom, right = min(top + tile, height), min(left + tile, width)
        above, before = min(margin, top), min(margin, left)
        seen = pixels[top - above : bottom + margin, left - before : right + margin]
        large = _run(network, seen, scale, device)
        kept = large[
            ...,
            above * scale : (above + bottom - top) * scale,
            before * scale : (before + right - left) * scale,
        ]
        kept = F.avg_pool2d(kept, shrink) if shrink > 1 else kept
        whole[top * factor : bottom * factor, left * factor : right * factor] = (
            kept[0].permute(1, 2, 0).cpu().numpy()
        )
        if on_tile is not None:
            on_tile(number, len(places))
    return whole


@torch.inference_mode()
def _run(network: Any, seen: _Pixels, scale: int, device: str | torch.device) -> Tensor:
    """The network's answer (1, 3, h s, w s) to a part (h, w, 3) of the picture."""
    x = torch.from_numpy(np.ascontiguousarray(seen)).permute(2, 0, 1)[None].to(device)
    large = network(x).float().clamp(0, 1)
    expected = (1, 3, seen.shape[0] * scale, seen.shape[1] * scale)
    if tuple(large.shape) != expected:
        raise LikenessError(
            f"the network made {tuple(large.shape)} of a part of {tuple(x.shape)}, not {expected}; "
            "choose another upscaler"
        )
    return large
