"""The part of a picture's latents where a head is: what losses on faces decode of a large picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.alignment import Points

_AROUND = 4  # latents on each side of the crop: the decoder looks around


@dataclass(frozen=True)
class HeadBoxes:
    """Boxes of one size in latents, one for each row."""

    starts: tuple[tuple[int, int], ...]  # (row, column) of each one's first latent
    size: tuple[int, int]  # (h, w) of all

    def of(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) of latents (B, C, H, W)."""
        height, width = self.size
        rows = zip(latents, self.starts)
        return torch.stack([row[:, y : y + height, x : x + width] for row, (y, x) in rows])

    def corners(self, cell: int) -> Points:
        """(B, 2): where they begin in the picture, x and y in pixels, of which a latent covers `cell`."""
        return np.array([(x * cell, y * cell) for y, x in self.starts], np.float64)


def head_boxes(matrices: Sequence[Points | None], side: int, size: tuple[int, int], cell: int) -> HeadBoxes:
    """Around the squares of this side that the matrices (2, 3) cut out of pictures; None: nobody, anywhere.

    size: (h, w) of the latents, which the boxes never leave.
    """
    lows, highs = [], []
    for matrix in matrices:
        if matrix is None:
            lows.append(np.zeros(2, int))
            highs.append(np.zeros(2, int))
            continue
        back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
        square = np.array([[x, y, 1] for x in (0, side - 1) for y in (0, side - 1)]) @ back.T  # (4, 2)
        lows.append(np.floor(square.min(0) / cell).astype(int)[::-1] - _AROUND)
        highs.append(np.ceil((square.max(0) + 1) / cell).astype(int)[::-1] + _AROUND)
    most = np.minimum(np.max(np.array(highs) - np.array(lows), axis=0), size)
    starts = [np.clip(low, 0, np.array(size) - most) for low in lows]
    return HeadBoxes(tuple((int(y), int(x)) for y, x in starts), (int(most[0]), int(most[1])))


def moved(matrix: Points, corner: Points) -> Points:
    """The matrix (2, 3) for a picture's part that begins at (x, y)."""
    return np.hstack([matrix[:, :2], (matrix[:, 2] + matrix[:, :2] @ corner)[:, None]])
