"""The seam of attention where ComfyUI lets nobody in but around attention itself: Z-Image.

There queries and keys are normed and turned by their places (RoPE) before `optimized_attention_override` sees
them: users see them turned back. As elsewhere, users are brought in at each step, around what others put
there, and nothing stays on a MODEL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.flux.math import apply_rope
from torch import Tensor

from ..bases.attention import AttentionSite, Behind, Pass
from ..bases.denoisers.z_image import refined_among, rounded_up
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

    def words_read(self, states: int) -> int:
        return rounded_up(states)

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


@dataclass(frozen=True, eq=False)
class _Behind:
    """Where other prompts' words stand among a pass's, for which ComfyUI has no places of their own.

    The network reads prompt, filling, others, what fills the prompt up; users see the prompt filled up first.
    Its turns count on behind the prompt; each of the others is to be read from its beginning.
    """

    order: Tensor  # (T,) for users, of words as the network has them
    turns: Tensor  # (1 or B, N, 1, d / 2, 2, 2) as users have words, then the picture
    there: Tensor  # (B, T) bool: which words there are, for users
    among: Tensor  # (B, 1, T, T) added to logits before words and picture meet, as the network has words


def _passing(executor: Any, x: Tensor, timesteps: Any, context: Tensor, *rest: Any, **more: Any) -> Any:
    """Around a pass of the network: who is in it, and how its words and picture are turned."""
    options = more.get("transformer_options", {})
    users: Present = options[USERS_KEY]
    side = users.network.patch_size
    grid = (-(-x.shape[-2] // side), -(-x.shape[-1] // side))
    words = rounded_up(context.shape[1])
    present = users.present(tuple(options.get("uuids") or ()), len(x), grid, words)
    for user in present.in_turn:
        behind = user.behind(context)
        if behind is not None:
            length, context = context.shape[1], _lengthened(context, behind.states)
            users.now["behind"] = _placed(users.network, length, behind, grid, options)
            words += context.shape[1] - length
    users.now["pass"] = replace(present, text=words)
    users.now["turns"] = _turns(users.network, words, grid, x.device, options)
    users.now.update({"seen": set(), "refined": 0})
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
    network: Any, words: int | Tensor, grid: tuple[int, int], device: torch.device,
    options: Mapping[str, Any], before: int | None = None,
) -> Tensor:  # fmt: skip
    """How what stands at each place is turned (1 or B, N, 1, d / 2, 2, 2), words before the picture.

    `words`: how many, or where each is read (B, T); `before`: how many the picture follows, if not all.
    """
    from comfy.ldm.lumina.model import pos_ids_x

    numbers = torch.arange(words, device=device)[None] if isinstance(words, int) else words
    rows, many = numbers.shape
    text = torch.zeros(rows, many, 3, dtype=torch.float32, device=device)
    text[..., 0] = numbers + 1
    image = pos_ids_x((before or many) + 1, *grid, rows, device, transformer_options=options)
    size = image.shape[1]
    image = torch.nn.functional.pad(image, (0, 0, 0, rounded_up(size) - size))
    return network.rope_embedder(torch.cat([text, image], 1)).movedim(1, 2)


def _lengthened(context: Tensor, states: Tensor) -> Tensor:
    """A prompt with other prompts' states behind filling, so many that what fills up the prompt stays."""
    filling = states.new_zeros(len(states), rounded_up(states.shape[1]) - states.shape[1], states.shape[2])
    return torch.cat([context, filling, states], 1)


def _placed(
    network: Any, length: int, behind: Behind, grid: tuple[int, int],
    options: Mapping[str, Any],
) -> _Behind:  # fmt: skip
    states, places, prompts = behind
    device, count, front = states.device, states.shape[1], rounded_up(length)
    more = rounded_up(count)
    places = places.view(-1, count)
    beginning, filled = torch.arange(length), torch.arange(length + more, front + more)
    order = torch.cat([beginning, filled, torch.arange(length, length + more)]).to(device)
    back = order.argsort()
    there = torch.ones(len(states), front + more, dtype=torch.bool, device=device)
    there[:, front : front + more - count] = False
    there[:, front + more - count :] = prompts > 0
    places = torch.cat([places.new_zeros(len(places), more - count), places], 1)
    # filling is of a prompt of which nothing is there
    prompts = torch.cat([prompts.new_full((len(states), more - count), -1), prompts], 1)
    among = refined_among(there, prompts)[..., back, :][..., back]
    barred = states.new_zeros(among.shape).masked_fill_(~among, float("-inf"))
    numbers = torch.arange(front, device=device).expand(len(places), -1)
    turns = _turns(network, torch.cat([numbers, places], 1), grid, device, options, front)
    return _Behind(order, turns, there, barred)


def _site(users: Present, number: int) -> AttentionSite:
    present: Pass = users.now["pass"]
    assert present.latents is not None
    attention, turns = users.network.layers[number].attention, _users_turns(users)
    tokens = present.latents[0] * present.latents[1]
    behind: _Behind | None = users.now.get("behind")

    def projected(text: Tensor, part: int) -> Tensor:
        return attention.qkv(text).chunk(3, -1)[part].unflatten(-1, (-1, attention.head_dim))

    return AttentionSite(
        _name(number), attention.n_local_heads, slice(0, present.text),
        slice(present.text, present.text + tokens), present.latents,
        lambda text: attention.k_norm(projected(text, 1)).to(text), lambda text: projected(text, 2),
        lambda x: _turned(x, turns), None if behind is None else behind.there,
    )  # fmt: skip


def _users_turns(users: Present) -> Tensor:
    """How places are turned for users."""
    behind: _Behind | None = users.now.get("behind")
    return users.now["turns"] if behind is None else behind.turns


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    return apply_rope(x, x, turns.to(x.device))[0]


def _back(turns: Tensor) -> Tensor:
    return turns.transpose(-1, -2)


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
    if users is None or "pass" not in users.now:
        return as_usual(q, k, v, mask)
    number = about.get("block_index")
    # refiners and other networks have other lengths; what a patch does behind a layer comes after its own
    many: int = users.now["turns"].shape[1]
    if number is not None and q.shape[2] == many and number not in users.now["seen"]:
        users.now["seen"].add(number)
        return _with_users(users, _site(users, number), q, k, v, mask, as_usual)
    if "behind" in users.now and not users.now["seen"]:
        q, k, mask = _refined(users, q, k, mask)
    return as_usual(q, k, v, mask)


def _refined(users: Present, q: Tensor, k: Tensor, mask: Any) -> tuple[Tensor, Tensor, Any]:
    """What a refiner's attention is of where others' words stand behind a pass's: first come those of words,
    then those of the picture."""
    network, behind, words = users.network, users.now["behind"], users.now["pass"].text
    users.now["refined"] += 1
    if users.now["refined"] > len(network.context_refiner) + len(network.noise_refiner):
        return q, k, mask
    of_words = users.now["refined"] <= len(network.context_refiner)
    part = slice(words) if of_words else slice(words, None)
    turns = behind.turns[:, part]
    if of_words:
        turns, mask = turns[:, behind.order.argsort()], behind.among.to(q.dtype)
    back = _back(users.now["turns"][:, part])
    q, k = (_turned(_turned(one.transpose(1, 2), back), turns).transpose(1, 2) for one in (q, k))
    return q, k, mask


def _with_users(
    users: Present, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, mask: Any, as_usual: Any
) -> Tensor:
    """Attention (B, N, heads * d); what users leave alone stays to the last bit."""
    present: Pass = users.now["pass"]
    behind: _Behind | None = users.now.get("behind")
    before = tuple(_turned(part.transpose(1, 2), _back(users.now["turns"])) for part in (q, k))
    (asked, keys), values, bias = before, v.transpose(1, 2), None
    if behind is not None:
        asked, keys, values = (_in_order(part, behind.order) for part in (asked, keys, values))
    for user in present.in_turn:
        asked, keys, values, bias = user.before(site, asked, keys, values, bias)
    if asked is not before[0]:
        q = _turned(asked, _users_turns(users)).transpose(1, 2)
    if keys is not before[1]:
        k = _turned(keys, _users_turns(users)).transpose(1, 2)
    added = mask if bias is None else with_bias(mask, bias, asked, keys)
    if behind is not None:
        added = _without_absent(added, behind.there, asked)
    out = as_usual(q, k, values.transpose(1, 2), added).unflatten(-1, (site.heads, -1))
    for user in present.in_turn:
        out = user.after(site, asked, out)
    return (out if behind is None else _in_order(out, behind.order.argsort())).flatten(2)


def _in_order(part: Tensor, order: Tensor) -> Tensor:
    """Words (B, N, …) in another order, before the picture as it is."""
    return torch.cat([part[:, order], part[:, len(order) :]], 1)


def _without_absent(added: Tensor | None, there: Tensor, like: Tensor) -> Tensor:
    """What is added to logits (B, 1, N, N), and no word that is not there."""
    whole = torch.nn.functional.pad(there, (0, like.shape[1] - there.shape[1]), value=True)
    barred = like.new_zeros(whole.shape).masked_fill_(~whole, float("-inf"))[:, None, None]
    return (barred if added is None else barred + added).expand(-1, -1, like.shape[1], -1)
