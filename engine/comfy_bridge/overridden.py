"""The seam of attention where ComfyUI lets nobody in but around attention itself: Z-Image.

There queries and keys are normed and turned by their places (RoPE) before `optimized_attention_override` sees
them: users see them turned back. As elsewhere, users are brought in at each step, around what others put
there, and nothing stays on a MODEL.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.flux.math import apply_rope
from torch import Tensor

from ..bases.attention import AttentionSite, Pass
from ..bases.denoisers.z_image import rounded_up
from ..errors import LikenessError
from .attention import USERS_KEY, User
from .joint_attention import JointSites, Present, with_bias

_PASS = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
_OVERRIDE = "optimized_attention_override"


class OverriddenSites(JointSites):
    """The attention of a Z-Image's layers, where words stand before the picture."""

    def text_shapes(self, network: Any) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(self.layers(network), (network.dim, network.dim))

    def heads(self, network: Any) -> dict[str, int]:
        return {name: layer.attention.n_local_heads for name, layer in self.layers(network).items()}

    def layers(self, network: Any) -> dict[str, Any]:
        return {_name(number): layer for number, layer in enumerate(network.layers)}

    def with_user(self, options: Mapping[str, Any], network: Any, key: str, user: User) -> dict[str, Any]:
        there: Present | None = options.get(USERS_KEY)
        if there is not None:
            return {**options, USERS_KEY: replace(there, users={**there.users, key: user})}
        wrappers = options.get("wrappers", {})
        around: Mapping[str, Any] = wrappers.get(_PASS, {})
        return {
            **options,
            USERS_KEY: Present({key: user}, network),
            "wrappers": {**wrappers, _PASS: {**around, USERS_KEY: [_passing]}},
            _OVERRIDE: partial(_attended, options.get(_OVERRIDE)),
        }


def _name(number: int) -> str:
    return f"layers.{number}.attention"


def _passing(executor: Any, x: Tensor, timesteps: Any, context: Tensor, *rest: Any, **more: Any) -> Any:
    """Around a pass of the network: who is in it, and how its words and picture are turned."""
    options = more.get("transformer_options", {})
    users: Present = options[USERS_KEY]
    side = users.network.patch_size
    grid = (-(-x.shape[-2] // side), -(-x.shape[-1] // side))
    words = rounded_up(context.shape[1])
    present = users.present(tuple(options.get("uuids") or ()), len(x), grid, words)
    if any(user.behind(context) is not None for user in present.in_turn):
        raise LikenessError(
            "regions with prompts of their own cannot be drawn with Z-Image yet; say it all in one prompt"
        )
    users.now.update({"pass": present, "turns": _turns(users.network, words, grid, x.device, options)})
    users.now["seen"] = set()
    try:
        output = executor(x, timesteps, context, *rest, **more)
        if not users.now["seen"]:
            raise LikenessError(
                "pictures to look at (Z-Image Omni) and Likeness cannot be drawn with together; leave the "
                "reference latents away"
            )
        return output
    finally:
        users.now.clear()


def _turns(
    network: Any, words: int, grid: tuple[int, int], device: torch.device, options: Mapping[str, Any]
) -> Tensor:
    """How the network turns what stands at each place (1, N, 1, d / 2, 2, 2), words before the picture."""
    from comfy.ldm.lumina.model import pos_ids_x

    text = torch.zeros(1, words, 3, dtype=torch.float32, device=device)
    text[..., 0] = torch.arange(1, words + 1, device=device)
    image = pos_ids_x(words + 1, *grid, 1, device, transformer_options=options)
    size = image.shape[1]
    image = torch.nn.functional.pad(image, (0, 0, 0, rounded_up(size) - size))
    return network.rope_embedder(torch.cat([text, image], 1)).movedim(1, 2)


def _site(users: Present, number: int) -> AttentionSite:
    present: Pass = users.now["pass"]
    assert present.latents is not None
    attention, turns = users.network.layers[number].attention, users.now["turns"]
    tokens = present.latents[0] * present.latents[1]

    def projected(text: Tensor, part: int) -> Tensor:
        return attention.qkv(text).chunk(3, -1)[part].unflatten(-1, (-1, attention.head_dim))

    return AttentionSite(
        _name(number), attention.n_local_heads, slice(0, present.text),
        slice(present.text, present.text + tokens), present.latents,
        lambda text: attention.k_norm(projected(text, 1)).to(text), lambda text: projected(text, 2),
        lambda x: _turned(x, turns),
    )  # fmt: skip


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    return apply_rope(x, x, turns.to(x.device))[0]


def _attended(
    theirs: Any, attention: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, *rest: Any,
    **options: Any,
) -> Tensor:  # fmt: skip
    """In the place of attention, with the users where words and picture meet; q, k, v (B, heads, N, d)."""

    def as_usual(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        if theirs is None:
            return attention(q, k, v, heads, mask, *rest, **options)
        return theirs(attention, q, k, v, heads, mask, *rest, **options)

    about: Mapping[str, Any] = options.get("transformer_options") or {}
    users: Present | None = about.get(USERS_KEY)
    number = about.get("block_index")
    # refiners and other networks have other lengths; what a patch does behind a layer comes after its own
    if (
        users is None or "pass" not in users.now or number is None or number in users.now["seen"]
        or q.shape[2] != users.now["turns"].shape[1]
    ):  # fmt: skip
        return as_usual(q, k, v, mask)
    users.now["seen"].add(number)
    return _with_users(users, _site(users, number), q, k, v, mask, as_usual)


def _with_users(
    users: Present, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, mask: Any, as_usual: Any
) -> Tensor:
    """Attention (B, N, heads * d); what users leave alone stays to the last bit."""
    present: Pass = users.now["pass"]
    turns = users.now["turns"]
    back = turns.transpose(-1, -2)
    before = tuple(_turned(part.transpose(1, 2), back) for part in (q, k))
    (asked, keys), values, bias = before, v.transpose(1, 2), None
    for user in present.in_turn:
        asked, keys, values, bias = user.before(site, asked, keys, values, bias)
    if asked is not before[0]:
        q = _turned(asked, turns).transpose(1, 2)
    if keys is not before[1]:
        k = _turned(keys, turns).transpose(1, 2)
    added = mask if bias is None else with_bias(mask, bias, asked, keys)
    out = as_usual(q, k, values.transpose(1, 2), added).unflatten(-1, (site.heads, -1))
    for user in present.in_turn:
        out = user.after(site, asked, out)
    return out.flatten(2)
