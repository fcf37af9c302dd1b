"""The seam of attention in ComfyUI's FLUX and Krea 2: users among words and picture, around what other nodes
put there.

Users are brought in at each step through `attn1_patch` and `attn1_output_patch`, after the patches that a
MODEL has before it: nothing stays on a MODEL, and whoever else patches attention goes on being heard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import comfy.patcher_extension
import torch
from comfy.ldm.flux.math import apply_rope
from torch import Tensor

from ..bases.attention import AttentionSite, AttentionUser, Bias, Pass
from .attention import USERS_KEY, User
from .staged_joint import percent_at

_PASS = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
_OVERRIDE = "optimized_attention_override"
_BLOCKS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}  # as diffusers has them


@dataclass(frozen=True)
class JointSites:
    """The attention of a FLUX's blocks, where words stand before the picture."""

    # what a wrapper that brings in users is around: where the network's own pass begins, it is too late
    around = comfy.patcher_extension.WrappersMP.APPLY_MODEL

    def text_shapes(self, network: Any) -> dict[str, tuple[int, int]]:
        """By layer, the width of keys and of what they are made of."""
        width = network.hidden_size
        return dict.fromkeys(self.layers(network), (width, width))

    def heads(self, network: Any) -> dict[str, int]:
        """By layer, how many keys have."""
        return {name: block.num_heads for name, block in self.layers(network).items()}

    def patch(self, network: Any) -> int:
        """Latents a side that are one token."""
        return int(network.patch_size)

    def text_axes(self, network: Any) -> Sequence[int]:
        """Of a token's place, those along which words stand one after the other."""
        return network.params.txt_ids_dims

    def block(self, network: Any, options: Mapping[str, Any]) -> "SiteBlock":
        """The block that tells its options."""
        kind, number = options["block_type"], options["block_index"]
        whole = getattr(network, f"{kind}_blocks")[number]
        heads, inner = whole.num_heads, whole.txt_attn if kind == "double" else whole

        def projected(text: Tensor, part: int) -> Tensor:
            """One third of the block's own projection of text to queries, keys and values."""
            both = inner.qkv(text) if kind == "double" else inner.linear1(text)[..., : 3 * text.shape[-1]]
            return both.chunk(3, -1)[part].unflatten(-1, (heads, -1))

        def to_k(text: Tensor) -> Tensor:
            return inner.norm.key_norm(projected(text, 1)).to(text)

        return SiteBlock(_name(kind, number), to_k, lambda text: projected(text, 2))

    def network_of(self, wrapped: Any) -> Any:
        """The network, of what a wrapper is around."""
        return wrapped.diffusion_model

    def words_read(self, states: int) -> int:
        """How many words the picture reads of so many text states."""
        return states

    def queries_like(self, wrapped: Any, x: Tensor) -> Tensor:
        """(B,) in the precision and on the device of the queries in a pass of x (B, …)."""
        return torch.empty(len(x), dtype=wrapped.get_dtype_inference(), device=x.device)

    def progress(self, wrapped: Any, times: Tensor) -> float:
        """How far drawing is, of what a wrapper is told, as the MODEL counts it: 0 is pure noise, 1 the
        picture."""
        return percent_at(wrapped.model_sampling, float(times[0]))

    def layers(self, network: Any) -> dict[str, Any]:
        """The blocks of a MODEL's network by their attention's name in diffusers."""
        blocks = {"double": network.double_blocks, "single": network.single_blocks}
        return {_name(kind, number): block for kind in _BLOCKS for number, block in enumerate(blocks[kind])}

    def with_user(self, options: Mapping[str, Any], network: Any, key: str, user: User) -> dict[str, Any]:
        """The transformer_options of a step, with one user more, or another under the same key."""
        there: Present | None = options.get(USERS_KEY)
        if there is not None:
            return {**options, USERS_KEY: replace(there, users={**there.users, key: user})}
        patches, wrappers = options.get("patches", {}), options.get("wrappers", {})
        around: Mapping[str, Any] = wrappers.get(_PASS, {})
        return {
            **options,
            USERS_KEY: Present({key: user}, network, sites=self),
            "wrappers": {**wrappers, _PASS: {**around, USERS_KEY: [_passing]}},
            "patches": {
                **patches,
                "post_input": [_placed, *patches.get("post_input", ())],
                "attn1_patch": [*patches.get("attn1_patch", ()), _before],
                "attn1_output_patch": [_after, *patches.get("attn1_output_patch", ())],
            },
        }


def _name(kind: str, number: int) -> str:
    return f"{_BLOCKS[kind]}.{number}.attn"


class SiteBlock(NamedTuple):
    """A block's attention: its name in diffusers, and its own projections of text."""

    name: str
    to_k: Callable[[Tensor], Tensor]
    to_v: Callable[[Tensor], Tensor]


class Krea2JointSites(JointSites):
    """The attention of a Krea 2's blocks, whose keys have fewer heads than queries, before its gate."""

    def text_shapes(self, network: Any) -> dict[str, tuple[int, int]]:
        return {
            name: (layer.kvheads * layer.headdim, layer.heads * layer.headdim)
            for name, layer in self.layers(network).items()
        }

    def heads(self, network: Any) -> dict[str, int]:
        return {name: layer.kvheads for name, layer in self.layers(network).items()}

    def layers(self, network: Any) -> dict[str, Any]:
        return {
            f"transformer_blocks.{number}.attn": block.attn for number, block in enumerate(network.blocks)
        }

    def patch(self, network: Any) -> int:
        return int(network.patch)

    def text_axes(self, network: Any) -> Sequence[int]:
        return ()

    def block(self, network: Any, options: Mapping[str, Any]) -> SiteBlock:
        name = f"transformer_blocks.{options['block_index']}.attn"
        layer = self.layers(network)[name]

        def in_heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (layer.kvheads, -1))

        return SiteBlock(
            name, lambda text: layer.qknorm.knorm(in_heads(layer.wk(text))),
            lambda text: in_heads(layer.wv(text)),
        )  # fmt: skip

    def with_user(self, options: Mapping[str, Any], network: Any, key: str, user: User) -> dict[str, Any]:
        before = options.get(_OVERRIDE)
        with_it = super().with_user(options, network, key, user)
        if USERS_KEY not in options:
            with_it[_OVERRIDE] = partial(_fused_apart, before)
        return with_it


def _fused_apart(theirs: Any, usual: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Any:
    """Around attention: where text states are fused, those that users put behind the prompt do not read it,
    nor it them. `theirs`: who was around it before."""
    about = options.get("transformer_options") or {}
    users: Present | None = about.get(USERS_KEY)
    of = None if users is None or "block_index" in about else users.now.get("of")
    if of is not None and (q.shape[0], q.shape[-2]) == tuple(of.shape):
        apart = of.clamp(min=1)[:, None, :, None] != of[:, None, None, :]  # (B, 1, T, T)
        options = {
            **options,
            "mask": torch.zeros_like(apart, dtype=q.dtype).masked_fill_(apart, float("-inf")),
        }
    return usual(q, k, v, *rest, **options) if theirs is None else theirs(usual, q, k, v, *rest, **options)


@dataclass(frozen=True)
class Present:
    """Who is there in one step, in which network, and what is known of the pass at the moment."""

    users: Mapping[str, User]
    network: Any
    now: dict[str, Any] = field(default_factory=dict)
    sites: Any = None  # whose they are, where these functions bring them in

    def present(self, uuids: Sequence[Any], rows: int, grid: tuple[int, int], text: int) -> Pass:
        """Who is there for the prompts of a batch."""
        here = {
            key: user if isinstance(user, AttentionUser) else user(uuids, rows)
            for key, user in self.users.items()
        }
        return Pass(here, grid, text)


def _passing(executor: Any, x: Tensor, timestep: Any, context: Tensor, *rest: Any, **more: Any) -> Any:
    """Around a pass of the network: who is in it, for prompts that lie in its batch one after the other."""
    by_place = (part for part in rest if isinstance(part, Mapping) and USERS_KEY in part)
    options = next(by_place, None) or more["transformer_options"]
    users: Present = options[USERS_KEY]
    side = users.sites.patch(users.network)
    grid = (-(-x.shape[-2] // side), -(-x.shape[-1] // side))
    present = users.present(tuple(options.get("uuids") or ()), len(x), grid, context.shape[1])
    for user in present.in_turn:
        behind = user.behind(context)
        if behind is not None:
            whole = behind.prompts.new_ones(context.shape[:2])
            prompts = behind.prompts + (behind.prompts > 0)  # 1: the whole prompt; 0: nobody's
            users.now["places"], users.now["of"] = behind.places, torch.cat([whole, prompts], 1)
            context = torch.cat([context, behind.states], 1)
    users.now["pass"] = replace(present, text=context.shape[1])
    try:
        return executor(x, timestep, context, *rest, **more)
    finally:
        users.now.clear()


def _placed(parts: dict[str, Any]) -> dict[str, Any]:
    """Words that users put behind the prompt are read at places of their own."""
    users: Present = parts["transformer_options"][USERS_KEY]
    if "places" in users.now:
        ids, places = parts["txt_ids"].clone(), users.now["places"]
        for axis in users.sites.text_axes(users.network):
            ids[:, -places.shape[-1] :, axis] = places.to(ids)
        parts = {**parts, "txt_ids": ids}
    return parts


def _site(users: Present, options: Mapping[str, Any], heads: int, pe: Any) -> AttentionSite:
    present: Pass = users.now["pass"]
    assert present.latents is not None
    words, tokens = present.text, present.latents[0] * present.latents[1]

    def rotate(x: Tensor) -> Tensor:
        turned = x.transpose(1, 2)
        return x if pe is None else apply_rope(turned, turned, pe)[0].transpose(1, 2)

    block = users.sites.block(users.network, options)
    # pictures to look at (reference latents) stand behind the one that is drawn
    return AttentionSite(
        block.name, heads, slice(0, words), slice(words, words + tokens), present.latents, block.to_k,
        block.to_v, rotate,
    )  # fmt: skip


def _before(
    q: Tensor, k: Tensor, v: Tensor, pe: Any = None, attn_mask: Any = None, extra_options: Any = None
) -> dict[str, Any]:
    """What the users make of queries, keys and values (B, heads, N, d)."""
    users: Present = extra_options[USERS_KEY]
    if "pass" not in users.now:  # another network, of the same blocks, is passed through
        return {}
    present: Pass = users.now["pass"]
    site, bias = _site(users, extra_options, q.shape[1], pe), None
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    for user in present.in_turn:
        q, k, v, bias = user.before(site, q, k, v, bias)
    users.now["block"] = site, q
    added = attn_mask if bias is None else with_bias(attn_mask, bias, q, k)
    return {**dict(zip("qkv", (part.transpose(1, 2) for part in (q, k, v)))), "attn_mask": added}


def with_bias(mask: Tensor | None, bias: Bias, q: Tensor, k: Tensor) -> Tensor:
    """Others' mask, of any shape that ComfyUI takes, and what is added to logits: (B, 1, Q, K)."""
    parts = []
    for count, added in bias.parts:
        if added is None:
            added = q.new_zeros(1, q.shape[1], k.shape[1])
            added[..., bias.plain :] = float("-inf")
        parts.append(added.to(q.dtype).expand(count, -1, -1))
    whole = torch.cat(parts)[:, None]
    if mask is None:
        return whole
    theirs = whole.new_zeros(()).where(mask, float("-inf")) if mask.dtype == torch.bool else mask
    return whole + (theirs[:, None] if theirs.ndim == 3 else theirs)


def _after(out: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
    """What the users make of attention (B, N, heads * d)."""
    users: Present = extra_options[USERS_KEY]
    if "pass" not in users.now:
        return out
    site, q = users.now["block"]
    heads = out.unflatten(-1, (site.heads, -1))
    for user in users.now["pass"].in_turn:
        heads = user.after(site, q, heads)
    return heads.flatten(2)
