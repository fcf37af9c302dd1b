"""The seam of attention: all that we do inside a network's attention, said once for every network and host.

At a site pictures read words. A user of the seam changes the projected queries, keys and values before they
meet (after QK-norm, before RoPE), the bias on their logits, or what comes out. Adapters bring users to the
sites: `bases.denoisers` for diffusers' networks, `comfy_bridge.attention` for ComfyUI's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = slice(None)
# whose turn it is: users are filed under these keys, one under each
_KEYS = ("values", "regions", "maps", "text", "identity")


@dataclass(frozen=True)
class AttentionSite:
    """One place in a network where a picture reads words, in one pass of it.

    Cross-attention has the picture among the queries and words among the keys; joint attention has both
    among both, and its keys and values may have fewer heads than its queries.
    """

    name: str  # the layer's path, as diffusers spells it
    heads: int  # of the queries
    text: slice | None  # where the words stand among the keys; None: nowhere
    image: slice  # where the picture stands among the queries
    grid: tuple[int, int] | None  # (h, w) of the picture's queries, row by row; None: on no grid
    # the site's own projections of text states (B, T, D), as keys and values (B, T, heads, d) have them
    to_k: Callable[[Tensor], Tensor]
    to_v: Callable[[Tensor], Tensor]
    # turns queries or keys (B, N, heads, d) as their places among all of them ask for (RoPE); None: not
    rotate: Callable[[Tensor], Tensor] | None = None
    # (B, T) bool: which words each of the pass's samples has; None: all
    there: Tensor | None = None

    @property
    def joint(self) -> bool:
        """Whether words ask too, and the picture is asked."""
        return self.image != WHOLE


@dataclass(frozen=True)
class Bias:
    """What is added to logits, for runs of the batch's samples one after the other.

    Each part is how many samples, and (1 or n, Q, T) or None. Samples without one read the first `plain` keys
    alone, as if there were no more.
    """

    parts: Sequence[tuple[int, Tensor | None]]
    plain: int


class Behind(NamedTuple):
    """Text states that joint attention has behind a pass's own."""

    states: Tensor  # (B, n, D)
    places: Tensor  # that they are read at: (n,), or (B, n) where samples differ
    prompts: Tensor  # (B, n) which prompt each is of, from 1: they read each other alone; 0: of none


class AttentionUser:
    """What is done at the sites of a pass; as it stands here, nothing.

    q, out (B, Q, heads, d); k, v (B, T, heads of the keys, d).
    """

    def behind(self, text: Tensor) -> Behind | None:
        """What joint attention is to have behind a pass's own text states (B, T, D); None: nothing."""
        return None

    def before(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None
    ) -> tuple[Tensor, Tensor, Tensor, Bias | None]:
        """What attention is computed of instead."""
        return q, k, v, bias

    def after(self, site: AttentionSite, q: Tensor, out: Tensor) -> Tensor:
        """What goes on to the output projection instead."""
        return out


@dataclass(frozen=True)
class Pass:
    """The users in one pass of a network, by the keys they are filed under."""

    users: Mapping[str, AttentionUser]
    latents: tuple[int, int] | None = None  # (h, w) of the picture that passes through, where it is one
    text: int = 0  # how many words stand before the picture, in joint attention

    @cached_property
    def in_turn(self) -> tuple[AttentionUser, ...]:
        return tuple(self.users[key] for key in sorted(self.users, key=_KEYS.index))

    def attention(
        self,
        site: AttentionSite,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        compute: Callable[[Tensor, Tensor, Tensor, Bias | None], Tensor],
    ) -> Tensor:
        """Attention (B, Q, heads, d) at a site, as `compute` gives it, with what the users do about it."""
        bias = None
        for user in self.in_turn:
            q, k, v, bias = user.before(site, q, k, v, bias)
        out = compute(q, k, v, bias)
        for user in self.in_turn:
            out = user.after(site, q, out)
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None, there: Tensor | None = None) -> Tensor:
    """Attention (B, Q, heads, d), in one fused call for each part of the bias; `there` (B, T) bool: which
    keys a sample has."""
    if there is not None:
        return _attend(q, k, v, _with_those_there(bias, there, q))
    if bias is None:
        return _attend(q, k, v, None)
    outputs, start = [], 0
    for count, added in bias.parts:
        rows, start = slice(start, start + count), start + count
        seen = WHOLE if added is not None else slice(bias.plain)
        outputs.append(_attend(q[rows], k[rows, seen], v[rows, seen], added))
    return torch.cat(outputs)


def _with_those_there(bias: Bias | None, there: Tensor, like: Tensor) -> Tensor:
    """What is added to logits (B, 1 or Q, T): the bias, and no key that is not there."""
    barred = like.new_zeros(there.shape).masked_fill_(~there, float("-inf"))[:, None]
    if bias is None:
        return barred
    parts, start = [], 0
    for count, added in bias.parts:
        rows, start = barred[start : start + count], start + count
        if added is None:
            rows = rows.clone()
            rows[..., bias.plain :] = float("-inf")
        parts.append((rows if added is None else rows + added.to(like)).expand(-1, like.shape[1], -1))
    return torch.cat(parts)


def _attend(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None) -> Tensor:
    mask = None if added is None else added[:, None].to(q.dtype)
    grouped = q.shape[2] != k.shape[2]
    if grouped and mask is not None:  # few of the fused kernels take both
        k, v = (part.repeat_interleave(q.shape[2] // part.shape[2], 2) for part in (k, v))
        grouped = False
    parts = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)


def text_probabilities(site: AttentionSite, q: Tensor, k: Tensor) -> Tensor:
    """What the picture reads of each word, the softmax over the words' keys: (B, heads, Q, T) in fp32."""
    if site.rotate is not None:
        q, k = site.rotate(q), site.rotate(k)
    q, k = (x.float().transpose(1, 2) for x in (q[:, site.image], k[:, site.text or WHOLE]))
    if q.shape[1] != k.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    with torch.autocast("cpu" if q.is_meta else q.device.type, enabled=False):
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if site.there is not None:
            logits = logits.masked_fill(~site.there[:, None, None], float("-inf"))
        return torch.softmax(logits, dim=-1)
