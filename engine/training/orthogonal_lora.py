"""LoRA's halves as T-LoRA begins them (arXiv 2507.05964): orthogonal, and full of rank from the first step.

The update is B S A - B0 S0 A0, where B0 S0 A0 are the last r singular vectors and values of a random matrix
with deviation 1 / r; it is 0 at first. As a LoRA file it has twice the rank.
"""

import math

import torch
from torch import Tensor, nn

_POINTS = 4096  # of the distribution of singular values


class OrthogonalDown(nn.Linear):
    """(…, in) -> (…, 2r): each rank's share now, and at first, side by side."""

    scales: Tensor
    start: Tensor
    start_scales: Tensor

    def __init__(self, rows: Tensor, scales: Tensor) -> None:
        """rows (r, in), orthonormal; scales (r,)."""
        super().__init__(rows.shape[1], rows.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(rows.clone())
        self.scales = nn.Parameter(scales.clone())
        self.register_buffer("start", rows)
        self.register_buffer("start_scales", scales)

    def forward(self, input: Tensor) -> Tensor:
        now = nn.functional.linear(input, self.weight) * self.scales
        before = nn.functional.linear(input, self.start) * self.start_scales
        return torch.stack([now, before], -1).flatten(-2)


class OrthogonalUp(nn.Linear):
    """(…, 2r) -> (…, out): what there is now without what there was at first."""

    start: Tensor

    def __init__(self, columns: Tensor) -> None:
        """columns (out, r), orthonormal."""
        super().__init__(columns.shape[1], columns.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(columns.clone())
        self.register_buffer("start", columns)

    def forward(self, input: Tensor) -> Tensor:
        now, before = input.unflatten(-1, (-1, 2)).unbind(-1)
        return nn.functional.linear(now, self.weight) - nn.functional.linear(before, self.start)


def halves(inside: int, outside: int, rank: int) -> tuple[OrthogonalDown, OrthogonalUp]:
    """For a linear layer (outside, inside); random numbers come from torch's global generator."""
    scales = last_singular_values(inside, outside, rank)
    rows, columns = (torch.linalg.qr(torch.randn(size, rank)).Q for size in (inside, outside))
    return OrthogonalDown(rows.T.contiguous(), scales), OrthogonalUp(columns.contiguous())


def last_singular_values(inside: int, outside: int, rank: int) -> Tensor:
    """The smallest `rank` singular values (rank,), largest first, that a normal matrix (outside, inside) of
    deviation 1 / rank has on average.

    Its singular vectors are any orthonormal ones alike, and its values follow Marchenko and Pastur: so no
    matrix of the layer's size has to be taken apart, which takes minutes at 3072 x 12288.
    """
    few, many = sorted((inside, outside))
    ratio = few / many
    angles = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) * (math.pi / _POINTS)
    squares = 1 + ratio - 2 * math.sqrt(ratio) * angles.cos()  # smallest first
    below = (angles.sin().square() / squares).cumsum(0)
    shares = (torch.arange(rank, dtype=torch.float64) + 0.5) / few * below[-1]
    values = squares[torch.searchsorted(below, shares)] * many
    return (values.sqrt() / rank).float().flip(0)


def merged_halves(down: OrthogonalDown, up: OrthogonalUp) -> tuple[Tensor, Tensor]:
    """The same as an ordinary LoRA's halves, (2r, in) and (out, 2r), each rank's two side by side."""
    low = torch.stack([down.weight, down.start], 1).flatten(0, 1)
    high = torch.stack([up.weight * down.scales, -up.start * down.start_scales], -1).flatten(1)
    return low.detach(), high.detach()
