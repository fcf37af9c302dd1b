"""MasterWeaver's decoupled cross-attention: beside the text, layers read ID tokens.

What they say is added through the seam of attention, before a site's output projection. A pass that nobody's
tokens are given to is the stock one, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bases.attention import WHOLE, AttentionSite, AttentionUser, Bias, text_probabilities
from ..bases.denoisers.protocol import AttentionLayer
from ..bases.denoisers.seam import Seam
from ..errors import LikenessError

_EPSILON = 1e-6  # of the norm over keys
# by layer: keys and values (B or 1, n, hidden), or split into heads already, (B or 1, heads, n, d)
KeysValues = Mapping[str, tuple[Tensor, Tensor]]


class _HeadNorm(nn.Module):
    """RMS norm over each head's numbers, as layers have it whose keys are normed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, keys: Tensor) -> Tensor:
        """(B, n, heads * width)."""
        heads = keys.float().unflatten(-1, (-1, len(self.weight)))
        spread = heads.square().mean(-1, keepdim=True) + _EPSILON
        return (heads * spread.rsqrt() * self.weight.float()).flatten(2).to(keys.dtype)


class IdAttention(nn.Module):
    """Keys and values of ID tokens for each layer that has any, found by the layer's name."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], norms: Mapping[str, int] | None = None) -> None:
        """`shapes`: by layer name, as diffusers spells it, the layer's width and that of the tokens; `norms`:
        the heads' width of layers whose keys are normed."""
        super().__init__()
        self.names = tuple(shapes)
        self.layers = nn.ModuleDict(
            {
                _key(name): nn.ModuleDict(
                    {part: nn.Linear(tokens, hidden, bias=False) for part in ("to_k_img", "to_v_img")}
                )
                for name, (hidden, tokens) in shapes.items()
            }
        )
        for name, width in (norms or {}).items():
            parts: Any = self.layers[_key(name)]
            parts["norm_k_img"] = _HeadNorm(width)

    @classmethod
    def beside(cls, layers: Mapping[str, AttentionLayer]) -> "IdAttention":
        """For these layers; begins with what they themselves make of text (spec 2)."""
        weights = {}
        for name, beside in layers.items():
            text = beside.text
            for part in ("to_k", "to_v", "norm_k"):
                if getattr(text, part) is not None:
                    weights[f"{name}.{part}_img.weight"] = getattr(text, part).detach().float().clone()
        return cls.from_weights(weights)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> "IdAttention":
        """From `<layer name>.to_k_img.weight` and `….to_v_img.weight`, beside which `….norm_k_img.weight` may
        be; KeyError where one is missing."""
        names = list(dict.fromkeys(key.rsplit(".", 2)[0] for key in weights))
        shapes = {name: tuple(weights[f"{name}.to_k_img.weight"].shape) for name in names}
        normed = {name: weights.get(f"{name}.norm_k_img.weight") for name in names}
        norms = {name: len(weight) for name, weight in normed.items() if weight is not None}
        branch = cls(shapes, norms)  # pyright: ignore[reportArgumentType] (two sides)
        branch.load_state_dict({f"layers.{_key(key, 2)}": weight for key, weight in weights.items()})
        return branch

    def layer_weights(self) -> dict[str, Tensor]:
        """What `from_weights` takes."""
        state = self.state_dict()
        return {key.removeprefix("layers.").replace("/", "."): weight for key, weight in state.items()}

    def forward(self, tokens: Tensor) -> KeysValues:
        """By layer, keys and values (B, n, hidden) of tokens (B, n, D)."""
        layers: Any = {name: self.layers[_key(name)] for name in self.names}
        keys_values = {}
        for name, parts in layers.items():
            keys = parts["to_k_img"](tokens)
            if "norm_k_img" in parts:
                keys = parts["norm_k_img"](keys)
            keys_values[name] = keys, parts["to_v_img"](tokens)
        return keys_values

    @property
    def width(self) -> int:
        """Of the tokens."""
        parts: Any = self.layers[_key(self.names[0])]
        return parts["to_k_img"].in_features


def _key(name: str, keep: int = 0) -> str:
    """A layer's name as a ModuleDict takes it, all but the last `keep` dots replaced."""
    pieces = name.split(".")
    return "/".join(pieces[: len(pieces) - keep]) + "".join(
        f".{piece}" for piece in pieces[len(pieces) - keep :]
    )


@dataclass(frozen=True)
class Person:
    """Somebody whom a pass of the U-Net shows."""

    keys_values: KeysValues  # as many rows as the pass has samples, or 1
    scale: float | Mapping[str, float] = 1.0  # one for all layers, or by layer; layers left out get nothing
    # (1 or B, 1, h, w) in [0, 1], of any size: where in the picture; None: all over
    region: Tensor | None = None
    counts: Tensor | None = None  # (B, 1, 1, n) the logarithm of how often a token is there; None: once each
    _weights: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _ready: dict[str, tuple[Any, "_Ready"]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def scale_at(self, layer: str) -> float:
        return self.scale.get(layer, 0.0) if isinstance(self.scale, Mapping) else self.scale

    def region_at(self, grid: tuple[int, int] | None) -> Tensor | None:
        """The region as weights (1 or B, N, 1) of a site's N queries; computed once for each size."""
        if self.region is None:
            return None
        if grid not in self._weights:
            self._weights[grid] = region_at(self.region, grid)
        return self._weights[grid]

    def ready(self, site: AttentionSite, q: Tensor) -> "_Ready":
        """A site's keys and values split into heads, and the counts, for queries (B, N, heads, d); made once
        for passes of one kind, but where gradients go through them."""
        like = q.dtype, q.device, len(q)
        kept = self._ready.get(site.name)
        if kept is not None and kept[0] == like:
            return kept[1]
        keys, values = (_as_asked(part, site, q) for part in self.keys_values[site.name])
        ready = keys, values, None if self.counts is None else self.counts.to(q)  # as CUDA's kernels ask
        if not (keys.requires_grad or values.requires_grad):
            self._ready[site.name] = like, ready
        return ready


_Ready = tuple[Tensor, Tensor, Tensor | None]  # (B, heads, n, d) twice; (B, 1, 1, n)


def id_branch(q: Tensor, site: AttentionSite, people: Sequence[Person]) -> Tensor | None:
    """What all people add at a site, (B, N, heads, d), for the picture's queries (B, N, heads, d); None:
    nothing."""
    total = None
    apart = q.transpose(1, 2)
    for person in people:
        scale = person.scale_at(site.name)
        if scale == 0 or site.name not in person.keys_values:
            continue
        keys, values, counts = person.ready(site, q)
        branch = F.scaled_dot_product_attention(apart, keys, values, attn_mask=counts).transpose(1, 2)
        weights = person.region_at(site.grid)
        branch = branch if weights is None else branch * weights.to(branch)[..., None]
        branch = branch if scale == 1 else scale * branch
        total = branch if total is None else total + branch
    return total


class IdentityAttention(AttentionUser):
    """People in a pass: what their tokens say is added to what the picture reads in the text."""

    def __init__(self, people: Sequence[Person]) -> None:
        self.people = people

    def after(self, site: AttentionSite, q: Tensor, out: Tensor) -> Tensor:
        branch = id_branch(q[:, site.image], site, self.people)
        if branch is None:
            return out
        if site.image != WHOLE:
            out = out.clone()
            out[:, site.image] += branch.to(out.dtype)
            return out
        if branch.requires_grad or out.requires_grad or branch.dtype != out.dtype:
            return out + branch.to(out.dtype)
        return branch.add_(out)  # into what is ours: a new tensor costs more than the sum


def _as_asked(rows: Tensor, site: AttentionSite, q: Tensor) -> Tensor:
    """Keys or values (B, heads, n, d) for queries (B, N, heads, d), each of their heads as often as queries
    have one for it."""
    apart = split_heads(rows, rows.shape[-1] // q.shape[-1], q)
    times = site.heads // apart.shape[1]
    return apart if times == 1 else apart.repeat_interleave(times, 1)


def split_heads(rows: Tensor, heads: int, like: Tensor) -> Tensor:
    """Keys or values (B or 1, n, hidden) as (B, heads, n, d) for `like` (B, …); what is split stays."""
    if rows.dtype != like.dtype or rows.device != like.device:
        rows = rows.to(like)
    if rows.ndim == 3:
        rows = rows.unflatten(-1, (heads, -1)).transpose(1, 2)
    return rows if len(rows) == len(like) else rows.expand(len(like), -1, -1, -1)


def region_at(region: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """A region (B, 1, h, w) as weights (B, N, 1) of a site's N queries, row by row."""
    if grid is None:
        raise LikenessError("a region does not fit pictures of this size; leave its mask away")
    return F.adaptive_avg_pool2d(region.float(), grid).flatten(2).transpose(1, 2)


# ------------------------------------------------------------------------------------ what text alone says


class _Enough(Exception):
    """The last site that was asked for has been passed."""


class _TextFeatures(AttentionUser):
    def __init__(self, names: Sequence[str], stop: bool) -> None:
        self._names, self._stop, self.over = set(names), stop, False
        self.found: dict[str, Tensor] = {}

    def before(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None
    ) -> tuple[Tensor, Tensor, Tensor, Bias | None]:
        if site.image != WHOLE and site.text is not None:  # what comes out is of the picture too
            words = v[:, site.text].transpose(1, 2)
            if words.shape[1] != site.heads:
                words = words.repeat_interleave(site.heads // words.shape[1], 1)
            self._keep(site, lambda: text_probabilities(site, q, k).to(v.dtype) @ words)
        return q, k, v, bias

    def after(self, site: AttentionSite, q: Tensor, out: Tensor) -> Tensor:
        if site.image == WHOLE:
            self._keep(site, lambda: out.transpose(1, 2))
        return out

    def _keep(self, site: AttentionSite, text: Callable[[], Tensor]) -> None:
        """What a site's picture reads in the text alone, (B, heads, N, d)."""
        if site.name in self._names and not self.over:
            self.found[site.name] = text().transpose(1, 2).flatten(2)
            if self._stop and len(self.found) == len(self._names):
                raise _Enough


@contextmanager
def text_features(seam: Seam, names: Sequence[str], *, stop: bool = False) -> Iterator[dict[str, Tensor]]:
    """Within, a pass leaves what each site's picture read in the text here, (B, N, hidden): before people are
    added and before the output projection; where attention is joint, by the softmax over the words alone.
    `stop`: the pass, and the with-block, end after the last of the sites.
    """
    features = _TextFeatures(names, stop)
    with suppress(_Enough), seam.using("text", features):
        try:
            yield features.found
        finally:
            features.over = True  # what a backward pass computes again is not asked for
