"""MasterWeaver's decoupled cross-attention: beside the text, every cross-attention layer reads ID tokens.

The branch is added by forward hooks between a layer's attention and its output projection, in diffusers'
U-Nets and ComfyUI's alike. Processors, attention patches and LoRAs stay as they are, and a pass that nobody's
tokens are given to is the stock one, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bases.grids import grid_of
from ..errors import LikenessError

# by layer: keys and values (B or 1, n, hidden), or split into heads already, (B or 1, heads, n, d)
KeysValues = Mapping[str, tuple[Tensor, Tensor]]
# diffusers hands what it finds in cross_attention_kwargs to its layers; this name it drops without a warning
# where nobody takes it
_CARRIED = "ip_hidden_states"


class IdAttention(nn.Module):
    """Keys and values of ID tokens for each cross-attention layer, found by the layer's name."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """`shapes`: by layer name, as diffusers spells it, the layer's width and that of the tokens."""
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

    @classmethod
    def beside(cls, unet: nn.Module) -> "IdAttention":
        """For a diffusers U-Net; begins with what the layers themselves make of text (spec 2)."""
        layers = cross_layers(unet)
        weights = {}
        for name, layer in layers.items():
            for part in ("to_k", "to_v"):
                weights[f"{name}.{part}_img.weight"] = getattr(layer, part).weight.detach().float().clone()
        return cls.from_weights(weights)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> "IdAttention":
        """From `<layer name>.to_k_img.weight` and `….to_v_img.weight`; KeyError where one is missing."""
        names = list(dict.fromkeys(key.rsplit(".", 2)[0] for key in weights))
        shapes = {name: tuple(weights[f"{name}.to_k_img.weight"].shape) for name in names}
        branch = cls(shapes)  # pyright: ignore[reportArgumentType] (two sides)
        branch.load_state_dict({f"layers.{_key(key, 2)}": weight for key, weight in weights.items()})
        return branch

    def layer_weights(self) -> dict[str, Tensor]:
        """What `from_weights` takes."""
        state = self.state_dict()
        return {key.removeprefix("layers.").replace("/", "."): weight for key, weight in state.items()}

    def forward(self, tokens: Tensor) -> KeysValues:
        """By layer, keys and values (B, n, hidden) of tokens (B, n, D)."""
        parts: Any = {name: self.layers[_key(name)] for name in self.names}
        return {name: (part["to_k_img"](tokens), part["to_v_img"](tokens)) for name, part in parts.items()}


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
    # for what queries the keys and values lie ready, split into heads: dtype, device, samples; None: for none
    ready_for: tuple[torch.dtype, torch.device, int] | None = None
    _weights: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def scale_at(self, layer: str) -> float:
        return self.scale.get(layer, 0.0) if isinstance(self.scale, Mapping) else self.scale

    def region_at(self, queries: int, latents: tuple[int, int]) -> Tensor | None:
        """The region as weights (1 or B, N, 1) of a layer's N queries; computed once for each size."""
        if self.region is None:
            return None
        if (queries, latents) not in self._weights:
            self._weights[queries, latents] = region_at(self.region, queries, latents)
        return self._weights[queries, latents]


@dataclass(frozen=True)
class Pass:
    """Everybody in a pass over latents of a (height, width)."""

    people: Sequence[Person]
    latents: tuple[int, int]


def id_branch(query: Tensor, name: str, heads: int, present: Pass) -> Tensor | None:
    """What all people add to layer `name`, (B, N, heads, d), for queries (B, N, hidden); None: nothing."""
    total, like = None, (query.dtype, query.device, len(query))
    apart = query.view(*query.shape[:2], heads, -1).transpose(1, 2)
    for person in present.people:
        scale = person.scale_at(name)
        if scale == 0 or name not in person.keys_values:
            continue
        keys, values = person.keys_values[name]
        if person.ready_for != like:
            keys, values = split_heads(keys, heads, query), split_heads(values, heads, query)
        branch = F.scaled_dot_product_attention(apart, keys, values, attn_mask=person.counts).transpose(1, 2)
        weights = person.region_at(query.shape[1], present.latents)
        branch = branch if weights is None else branch * weights.to(branch)[..., None]
        branch = branch if scale == 1 else scale * branch
        total = branch if total is None else total + branch
    return total


def split_heads(rows: Tensor, heads: int, like: Tensor) -> Tensor:
    """Keys or values (B or 1, n, hidden) as (B, heads, n, d) for `like` (B, …); what is split stays."""
    if rows.dtype != like.dtype or rows.device != like.device:
        rows = rows.to(like)
    if rows.ndim == 3:
        rows = rows.unflatten(-1, (heads, -1)).transpose(1, 2)
    return rows if len(rows) == len(like) else rows.expand(len(like), -1, -1, -1)


def region_at(region: Tensor, queries: int, latents: tuple[int, int]) -> Tensor:
    """A region (B, 1, h, w) as weights (B, N, 1) of a layer's N queries, row by row."""
    height, width = queries_side(queries, latents)
    return F.adaptive_avg_pool2d(region.float(), (height, width)).flatten(2).transpose(1, 2)


def queries_side(queries: int, latents: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a layer with so many queries; an error where it is none of the network's."""
    grid = grid_of(queries, latents)
    if grid is None:
        raise LikenessError(
            f"a layer of {queries} places does not fit latents of {latents[1]} x {latents[0]}; "
            "leave the region's mask away"
        )
    return grid


class LayerHook:
    """The ID branch of one layer. `present` is who the current pass shows; None: nobody."""

    def __init__(self, name: str, layer: Any) -> None:
        self.name, self.heads = name, layer.heads
        self.present: Pass | None = None
        self._query: Tensor | None = None
        self.handles = [
            layer.to_q.register_forward_hook(self._keep),
            layer.to_out[0].register_forward_pre_hook(self._add),
        ]

    def take_from_call(self, layer: nn.Module) -> None:
        """From now on each call says who is present, as diffusers' layers are called by their blocks."""
        self.handles.append(layer.register_forward_pre_hook(self._present, with_kwargs=True, prepend=True))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _present(self, _layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self.present = options.pop(_CARRIED, None)
        return inputs, options

    def _keep(self, _layer: nn.Module, _inputs: Any, query: Tensor) -> None:
        self._query = None if self.present is None else query

    def _add(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        query, self._query = self._query, None
        if query is None or self.present is None:
            return None
        branch = id_branch(query, self.name, self.heads, self.present)
        if branch is None:
            return None
        text, branch = inputs[0], branch.flatten(2)
        if branch.requires_grad or text.requires_grad or branch.dtype != text.dtype:
            return (text + branch.to(text.dtype), *inputs[1:])
        return (branch.add_(text), *inputs[1:])  # into what is ours: a new tensor costs more than the sum


class IdHooks:
    """The ID branches of a diffusers U-Net, there until `remove`.

    Who is present travels with each call of a layer: gradient checkpointing computes a pass again with the
    people it had, also after other passes. The hooks must stay until the backward pass is over.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._unet = unet
        self._hooks = []
        for name, layer in cross_layers(unet).items():
            hook = LayerHook(name, layer)
            hook.take_from_call(layer)
            self._hooks.append(hook)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def reading(self, *people: Person) -> AbstractContextManager[None]:
        """Within, passes of the U-Net show these people."""
        return self.telling(lambda _noisy, _timesteps: people)

    @contextmanager
    def telling(self, who: Callable[[Tensor, Any], Sequence[Person]]) -> Iterator[None]:
        """Within, passes of the U-Net show the people that `who` names for their noisy latents (B, C, h, w)
        and timesteps (B,); the innermost of several such blocks is heard."""

        def tell(_unet: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
            size = inputs[0].shape[-2:]
            people = who(inputs[0], inputs[1] if len(inputs) > 1 else options.get("timestep"))
            carried = {_CARRIED: Pass(people, (int(size[0]), int(size[1])))}
            known = options.get("cross_attention_kwargs") or {}
            return inputs, {**options, "cross_attention_kwargs": {**known, **carried}}

        handle = self._unet.register_forward_pre_hook(tell, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def present_in(
    layers: Mapping[str, nn.Module], people: Sequence[Person], latents: tuple[int, int]
) -> Iterator[None]:
    """Within, these layers, diffusers' or ComfyUI's, show the people over latents of a (height, width)."""
    hooks = [LayerHook(name, layer) for name, layer in layers.items()]
    try:
        for hook in hooks:
            hook.present = Pass(people, latents)
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def hooked(unet: nn.Module) -> Iterator[IdHooks]:
    """Hooks for the time of a with-block: for drawing, where nothing is computed twice."""
    hooks = IdHooks(unet)
    try:
        yield hooks
    finally:
        hooks.remove()


def cross_layers(unet: nn.Module) -> dict[str, Any]:
    """The cross-attention layers of a diffusers U-Net by name, in running order."""
    found = [(name, part) for name, part in unet.named_modules() if name.endswith("attn2")]
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    return dict(sorted(found, key=lambda entry: order[entry[0].split(".")[0]]))


# ------------------------------------------------------------------------------------ what text alone says


class _Enough(Exception):
    """The last layer that was asked for has run."""


@contextmanager
def text_features(
    unet: nn.Module, names: Sequence[str], *, stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Within, a pass leaves each layer's text branch here, (B, N, hidden): before the ID branch is added and
    before the output projection. `stop`: the pass, and the with-block, end after the last of the layers.
    """
    found: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in cross_layers(unet).items() if name in names}

    def keep(name: str) -> Any:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name] = inputs[0]
            if stop and len(found) == len(layers):
                raise _Enough

        return hook

    handles = [
        layer.to_out[0].register_forward_pre_hook(keep(name), prepend=True) for name, layer in layers.items()
    ]
    try:
        yield found
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
