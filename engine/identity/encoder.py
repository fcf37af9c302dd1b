"""MasterWeaver's ID encoder: what an image tower sees of a face, as a few tokens (arXiv 2405.05806).

Sub-modules are named as in the released checkpoints; every size comes from the base and the image tower.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LikenessError

SLOTS = 3  # reference pictures of a person; those that are not given are padded
QUERIES = 16  # tokens a reference becomes
HEAD_WIDTH = 64


class _Attention(nn.Module):
    """Latents look at rows, each normalised by itself; no biases in the projections."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, rows: Tensor, latents: Tensor, *, with_latents: bool) -> Tensor:
        """(B, n, D) for rows (B, T, D), latents (B, n, D); `with_latents`: the latents are among the rows."""
        rows, latents = self.norm1(rows), self.norm2(latents)
        looked_at = torch.cat([rows, latents], dim=1) if with_latents else rows
        queries, (keys, values) = self.to_q(latents), self.to_kv(looked_at).chunk(2, dim=-1)
        apart = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        return self.to_out(F.scaled_dot_product_attention(*apart).transpose(1, 2).flatten(2))


def _feed_forward(width: int, expansion: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width * expansion, bias=False),
        nn.GELU(),
        nn.Linear(width * expansion, width, bias=False),
    )


class IdEncoder(nn.Module):
    """An image tower's penultimate states (N, T, W) of N faces to tokens (N, queries, dim)."""

    def __init__(
        self,
        *,
        dim: int,  # the width of the base's text states
        image_width: int,  # the width of the tower's states
        heads: int | None = None,  # None: as many as fit into dim
        head_width: int = HEAD_WIDTH,
        queries: int = QUERIES,
        depth: int = 1,
        expansion: int = 4,
        face_width: int = 0,  # of a recogniser's embedding, which is then one more row; 0: none, as released
    ) -> None:
        super().__init__()
        heads = heads or max(1, dim // head_width)
        self.dim, self.queries, self.image_width, self.face_width = dim, queries, image_width, face_width
        self.head_width = head_width
        self.latents = nn.Parameter(torch.randn(1, queries, dim) / dim**0.5)
        self.proj_in = nn.Linear(image_width, dim)
        self.proj_out = nn.Linear(dim, dim)
        self.norm_out = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([_Attention(dim, heads, head_width), _feed_forward(dim, expansion)])
            for _ in range(depth)
        )
        self.final_attn = _Attention(dim, heads, head_width)
        self.face_in = nn.Linear(face_width, dim) if face_width else None

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], head_width: int = HEAD_WIDTH) -> "IdEncoder":
        """The encoder whose state dict `weights` is; its sizes are read off the shapes.

        Raises KeyError, IndexError or RuntimeError where the weights are not those of an ID encoder.
        """
        dim, image_width = weights["proj_in.weight"].shape
        depth = len({key.split(".")[1] for key in weights if key.startswith("layers.")})
        encoder = cls(
            dim=dim,
            image_width=image_width,
            heads=weights["final_attn.to_q.weight"].shape[0] // head_width,
            head_width=head_width,
            queries=weights["latents"].shape[1],
            depth=depth,
            expansion=weights["layers.0.1.1.weight"].shape[0] // dim,
            face_width=weights["face_in.weight"].shape[1] if "face_in.weight" in weights else 0,
        )
        encoder.load_state_dict(dict(weights))
        return encoder

    def forward(self, features: Tensor, face: Tensor | None = None) -> Tensor:
        """Tokens (N, queries, dim) of features (N, T, W) and, where one was asked for, embeddings (N, F)."""
        rows = self.proj_in(features)
        if self.face_in is not None:
            if face is None:
                raise LikenessError("this ID encoder wants a face embedding too; give one for each reference")
            rows = torch.cat([rows, self.face_in(face)[:, None]], dim=1)
        latents = self.latents.expand(len(features), -1, -1)
        for attend, feed in self.layers:  # pyright: ignore[reportGeneralTypeIssues] (ModuleLists)
            # one residual around both, where IP-Adapter's resampler has two
            latents = latents + feed(attend(rows, latents, with_latents=True))
        tokens = self.norm_out(self.proj_out(latents))
        return tokens + self.final_attn(tokens, tokens, with_latents=False)

    def slots(self, features: Tensor, face: Tensor | None = None) -> Tensor:
        """Tokens (B, S * queries, dim) of people with S references each: features (B, S, T, W), (B, S, F).

        No slot has a mark of its own: their order means nothing.
        """
        tokens = self(features.flatten(0, 1), None if face is None else face.flatten(0, 1))
        return tokens.unflatten(0, features.shape[:2]).flatten(1, 2)


def in_slots(features: Tensor, nothing: Tensor, slots: int = SLOTS) -> Tensor:
    """Features (n, …) of a person's references padded to (slots, …) with those of no picture at all (…).

    `nothing` is what the tower sees where every normalised pixel is 0 (a flat grey, not black).
    """
    if len(features) > slots:
        raise LikenessError(
            f"{len(features)} reference pictures are given, but the adapter has places for {slots}; "
            f"choose the best {slots}"
        )
    return torch.cat([features, nothing.to(features)[None].expand(slots - len(features), *nothing.shape)])
