"""The seam of attention in ComfyUI's U-Nets: users in cross-attention, around what other nodes put there.

Users are brought in at each step, into the transformer_options of that step alone: nothing stays on a MODEL,
and whoever else patches cross-attention, before or after, goes on being heard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.ldm.modules.attention as attention
import comfy.patcher_extension
import comfy.utils
from torch import Tensor

from ..bases.attention import WHOLE, AttentionSite, AttentionUser, Bias, Pass, attend
from ..staged.stages import LAST_TIMESTEP

USERS_KEY = "likeness.attention"  # of our users in transformer_options
# a user, or who it is for the prompts (by their uuids) in a batch of so many samples
User = AttentionUser | Callable[[Sequence[Any], int], AttentionUser]
_ENDING = ".attn2.to_k.weight"


@dataclass(frozen=True)
class Sites:
    """Where the cross-attention layers of a U-Net are."""

    paths: Mapping[str, str]  # ComfyUI's, by diffusers' names
    names: Mapping[tuple[str, int, int], str]  # diffusers', by block, its number, and which of its layers

    @classmethod
    def of(cls, model: Any) -> "Sites":
        """Those of a MODEL."""
        named: Mapping[str, str] = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
        cut = len(".to_k.weight")
        paths = {name[:-cut]: path[:-cut] for name, path in named.items() if name.endswith(_ENDING)}
        return cls(paths, {_place(path): name for name, path in paths.items()})

    # what a wrapper that brings in users is around: the network's pass
    around = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL

    def text_shapes(self, network: Any) -> dict[str, tuple[int, ...]]:
        """By layer, the width of keys and of what they are made of."""
        return {name: tuple(layer.to_k.weight.shape) for name, layer in self.layers(network).items()}

    def heads(self, network: Any) -> dict[str, int]:
        return {name: layer.heads for name, layer in self.layers(network).items()}

    def network_of(self, wrapped: Any) -> Any:
        """The network, of what a wrapper is around."""
        return wrapped

    def words_read(self, states: int) -> int:
        """How many words the picture reads of so many text states."""
        return states

    def queries_like(self, wrapped: Any, x: Tensor) -> Tensor:
        """(B, …) in the precision and on the device of the queries in a pass of x (B, …)."""
        return x

    def progress(self, wrapped: Any, times: Tensor) -> float:
        """How far drawing is, of what a wrapper is told: 0 is pure noise, 1 the picture."""
        return 1 - float(times[0]) / LAST_TIMESTEP

    def layers(self, network: Any) -> dict[str, Any]:
        """The layers of a MODEL's network by name."""
        return {name: network.get_submodule(path) for name, path in self.paths.items()}

    def with_user(self, options: Mapping[str, Any], network: Any, key: str, user: User) -> dict[str, Any]:
        """The transformer_options of a step, with one user more, or another under the same key."""
        there: _Users | None = options.get(USERS_KEY)
        if there is not None:
            return {**options, USERS_KEY: _Users({**there.users, key: user}, self, network)}
        replaced = options.get("patches_replace", {})
        theirs = replaced.get("attn2", {})
        blocks: list[Any] = [("input", number) for number in range(len(network.input_blocks))]
        blocks += [("middle", 0), *(("output", number) for number in range(len(network.output_blocks)))]
        around = {block: partial(_attend, theirs.get(block)) for block in [*blocks, *theirs]}
        return {
            **options,
            USERS_KEY: _Users({key: user}, self, network),
            "patches_replace": {**replaced, "attn2": around},
        }


def user_in(options: Mapping[str, Any], key: str) -> User | None:
    """The user that a step has under a key already."""
    there: _Users | None = options.get(USERS_KEY)
    return None if there is None else there.users.get(key)


def _place(path: str) -> tuple[str, int, int]:
    """`input_blocks.1.1.transformer_blocks.0.attn2` as ComfyUI tells its patches of it."""
    block, *numbers = path.split(".")
    return block.partition("_")[0], 0 if block == "middle_block" else int(numbers[0]), int(numbers[-2])


@dataclass(frozen=True)
class _Users:
    """Who is there in one step, and in which network."""

    users: Mapping[str, User]
    sites: Sites
    network: Any
    _passes: dict[Any, Pass] = field(default_factory=dict)

    def present(self, options: Mapping[str, Any], rows: int) -> Pass:
        """Who is there for the prompts of a batch."""
        uuids = tuple(options.get("uuids") or ())
        if (uuids, rows) not in self._passes:
            self._passes[uuids, rows] = Pass(
                {
                    key: user if isinstance(user, AttentionUser) else user(uuids, rows)
                    for key, user in self.users.items()
                }
            )
        return self._passes[uuids, rows]

    def site(self, options: Mapping[str, Any]) -> AttentionSite:
        name, heads = self.sites.names[(*options["block"], options["block_index"])], options["n_heads"]

        def layer() -> Any:
            return self.network.get_submodule(self.sites.paths[name])

        height, width = options["activations_shape"][-2:]
        return AttentionSite(
            name, heads, WHOLE, WHOLE, (height, width),
            lambda states: _in_heads(layer().to_k(states), heads),
            lambda states: _in_heads(layer().to_v(states), heads),
        )  # fmt: skip


def _attend(theirs: Any, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
    """In the place of a layer's attention, or around another node's there; q, k, v (B, N, heads * d)."""
    users: _Users = options[USERS_KEY]
    heads, front = options["n_heads"], k.shape[1]

    def compute(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
        masked = None if bias is None else attend(q, k, v, bias)
        if masked is not None and theirs is None:
            return masked
        # what is behind the words is not theirs to see
        q, k, v = (part.flatten(2) for part in (q, k[:, :front], v[:, :front]))
        if theirs is None:
            return _in_heads(
                attention.optimized_attention(
                    q, k, v, heads, attn_precision=options.get("attn_precision"), transformer_options=options
                ),
                heads,
            )
        out = theirs(q, k, v, options)
        if masked is None:
            return _in_heads(out, heads)
        # what they add to plain attention is added to ours
        return masked + _in_heads(out - attention.attention_pytorch(q, k, v, heads), heads)

    present = users.present(options, len(q))
    q, k, v = (_in_heads(part, heads) for part in (q, k, v))
    return present.attention(users.site(options), q, k, v, compute).flatten(2)


def _in_heads(states: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) as (B, N, heads, d)."""
    return states.unflatten(-1, (heads, -1))
