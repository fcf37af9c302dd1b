"""Somebody in a picture: what an identity adapter knows of them, how strongly, at which noise levels and in
which region they are shown. Several can be shown at once, each with own tokens.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..bases.conditioning import Conditioning
from ..bases.denoisers.seam import Seam
from ..bases.process.protocol import Process
from ..bases.sampling import DiffusionModel, ModelWrapper, unwrapped
from ..config import finite
from ..errors import LikenessError, nearest
from ..staged.stages import LAST_TIMESTEP
from .attention import IdAttention, IdentityAttention, KeysValues, Person, split_heads
from .encoder import SLOTS, IdEncoder


@dataclass(frozen=True, kw_only=True)
class IdAdapter:
    """An adapter's networks, frozen, and what they were made for."""

    encoder: IdEncoder
    attention: IdAttention
    family: str
    image_encoder: str  # "miniature", or the name of a CLIP image tower
    slots: int = SLOTS


@dataclass(frozen=True, kw_only=True)
class IdentityTokens:
    """Somebody as an adapter knows them: tokens (1, n, D), and those of nobody for the unconditional pass."""

    adapter: IdAdapter
    tokens: Tensor
    nobody: Tensor

    def __str__(self) -> str:
        """As nodes show it: not the whole network."""
        return f"an identity in {self.tokens.shape[1]} tokens, for {self.adapter.family}"


def check_fit(adapter: IdAdapter, family: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises unless the adapter is for this base; `shapes`: by layer name, those of its `to_k`."""
    if adapter.family != family:
        raise LikenessError(
            f"this identity adapter was trained for {adapter.family}, but the model is {family}; "
            "use an adapter or a model of the same kind"
        )
    needed = {
        key.removesuffix(".to_k_img.weight"): tuple(weight.shape)
        for key, weight in adapter.attention.layer_weights().items()
        if key.endswith("to_k_img.weight")
    }
    wrong = [name for name in needed if needed[name] != tuple(shapes.get(name, ()))]
    if wrong or not needed:
        raise LikenessError(
            f"this identity adapter was trained for another network: its layer {(wrong or ['?'])[0]} does "
            "not fit this model; use the base it was trained on"
        )


@dataclass(frozen=True, kw_only=True)
class IdentityConditioning:
    """An identity in a picture; `start` and `end` as ComfyUI counts them: 0 is pure noise, 1 the picture."""

    identity: IdentityTokens
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    layers: Mapping[str, float] = field(default_factory=dict)  # factors by the beginnings of layers' names
    region: Tensor | None = None  # (h, w) in [0, 1]: where they are; None: anywhere
    among: tuple[bool, ...] | None = None  # in which of a run's pictures; None: in all
    _known: dict[Any, Person] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        factors = {f"the factor of {beginning}": factor for beginning, factor in self.layers.items()}
        finite({"the identity's weight": self.weight, **factors})
        if not 0 <= self.start <= self.end <= 1:
            raise LikenessError(
                f"the identity cannot last from {self.start:g} to {self.end:g}; give 0 to 1, the start first"
            )
        if self.region is not None and not self.region.any():
            raise LikenessError("the identity's region marks nothing; paint where the person should be white")
        names = self.identity.adapter.attention.names
        for beginning in self.layers:
            if not any(_begins(name, beginning) for name in names):
                parts = {name.split(".attentions")[0] for name in names}
                hint = nearest(beginning, parts) or f"; there are {sorted(parts)}"
                raise LikenessError(f"the model has no layer '{beginning}'{hint}")

    def at(self, progress: float) -> bool:
        """Whether they are there so far on the way from noise (0) to picture (1); steps exactly on a
        boundary are."""
        half = 0.5 / LAST_TIMESTEP
        return self.weight != 0 and self.start - half <= progress <= self.end + half

    def in_pass(self, progress: Callable[[], float]) -> bool:
        """Whether they are there in a pass whose samples are equally far; asked only where that is in
        question, for the answer lies on the device."""
        if self.weight == 0 or (self.start == 0 and self.end == 1):
            return self.weight != 0
        return self.at(progress())

    def among_rows(self, pictures: Sequence[int], rows: int) -> tuple[bool | None, ...]:
        """For each sample of a pass, a run's pictures last: them (True), nobody, or as it was (None)."""
        there = [self.among is None or self.among[number] for number in pictures]
        before = rows - len(there)  # without guidance none: nothing is ever folded into other rows
        beside = there if before == len(there) else [True] * before
        return (
            *(False if shown else None for shown in beside),
            *(True if shown else None for shown in there),
        )

    def who_at(self, t: Tensor, process: Process) -> tuple[bool | None, ...]:
        """For each sample of a training pass, at its own time (B,): them (True), or as it was (None)."""
        if self.start == 0 and self.end == 1:
            return (True,) * len(t)  # without asking the device
        return tuple(True if self.at(process.progress(one)) else None for one in t.tolist())

    def person(self, who: tuple[bool | None, ...], heads: Mapping[str, int], like: Tensor) -> Person:
        """For a pass whose samples show them (True), nobody, or are as they were (None), like `like`.

        `heads` of each layer; what was made is kept for the following steps.
        """
        key = (who, like.device, like.dtype)
        if key not in self._known:
            region = None if self.region is None else self.region.to(like.device)[None, None]
            keys_values, counts = self._keys_values(who, heads, like)
            self._known[key] = Person(keys_values, region=region, counts=counts)
        return self._known[key]

    @torch.no_grad()
    def _keys_values(
        self, who: Sequence[bool | None], heads: Mapping[str, int], like: Tensor
    ) -> tuple[KeysValues, Tensor | None]:
        """The samples' keys, and values times the weight, split into heads, of layers that have a weight;
        and what `Person` calls counts."""
        identity, keys_values = self.identity, {}
        both = torch.cat([identity.nobody, identity.tokens])
        tokens, often = each_once(both, identity.adapter.encoder.queries)
        rows = torch.tensor([int(bool(state)) for state in who])
        there = torch.tensor([float(state is not None) for state in who])[:, None, None]
        for name, (keys, values) in identity.adapter.attention(tokens).items():
            weight = self.weight * self._factor(name)
            if weight != 0:
                pair = (keys[rows].to(like), (weight * there * values[rows]).to(like))
                keys_values[name] = tuple(split_heads(part, heads[name], like).contiguous() for part in pair)
        return keys_values, None if often is None else often[rows, None, None].to(like)

    def _factor(self, name: str) -> float:
        """The factor of the longest beginning that fits."""
        fitting = [beginning for beginning in self.layers if _begins(name, beginning)]
        return self.layers[max(fitting, key=len)] if fitting else 1.0


def each_once(tokens: Tensor, queries: int) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, S * queries, D) of slots, some of which may hold the same, with every slot that any of them
    holds once, (B, n, D), and the logarithm of how often it holds it, (B, n).

    Attention to them, with that added to its scores, is attention to all. Unchanged, with None, where it
    would save nothing.
    """
    places = tokens.unflatten(1, (-1, queries))  # (B, S, queries, D)
    kept: list[Tensor] = []
    times = torch.zeros(len(tokens), 0)
    for row, slots in enumerate(places):
        for slot in slots:
            same = [number for number, other in enumerate(kept) if torch.allclose(slot, other, atol=1e-6)]
            if not same:
                kept.append(slot)
                times = torch.nn.functional.pad(times, (0, 1))
            times[row, same[0] if same else -1] += 1
    if len(kept) >= places.shape[1]:
        return tokens, None
    once = torch.cat(kept)[None].expand(len(tokens), -1, -1)
    return once, times.log().repeat_interleave(queries, 1)


def _begins(name: str, beginning: str) -> bool:
    return f"{name}.".startswith(f"{beginning.rstrip('.')}.")


class IdentityDenoiser:
    """A base model for sampling that shows people in the last samples of a pass, one for each of a run's
    `pictures`, and nobody in those before."""

    def __init__(
        self,
        inner: DiffusionModel,
        seam: Seam,  # of its network
        heads: Mapping[str, int],
        shown: Sequence[IdentityConditioning],
        pictures: Sequence[int],
    ) -> None:
        self.process = inner.process
        self._inner, self._seam, self._heads = inner, seam, heads
        self._shown, self._pictures = tuple(shown), pictures

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """As the inner model's."""
        rows = len(noisy)
        people = [
            shown.person(shown.among_rows(self._pictures, rows), self._heads, noisy)
            for shown in self._shown
            if shown.in_pass(lambda: self.process.progress(float(t[0])))
        ]
        with self._seam.using("identity", IdentityAttention(people)):
            return self._inner.predict(noisy, t, conditioning)


@contextmanager
def with_identities(base: Any, shown: Sequence[IdentityConditioning]) -> Iterator[ModelWrapper]:
    """Within, the base's U-Net can show these people; gives what makes a model of some pictures do so."""
    if not shown:
        yield unwrapped
        return
    heads = _heads(base, shown)
    seam = Seam(base.network)
    yield lambda model, pictures: IdentityDenoiser(model, seam, heads, shown, pictures)


@contextmanager
def attach_identities(base: Any, shown: Sequence[IdentityConditioning]) -> Iterator[ModelWrapper]:
    """Within, every pass of the base's U-Net shows these people, as something learned on them needs it; and
    the same as `showing`, for models that draw meanwhile."""
    if not shown:
        yield unwrapped
        return
    heads = _heads(base, shown)

    def everybody(noisy: Tensor, timesteps: Tensor) -> IdentityAttention:
        t = base.process.from_network_time(timesteps)
        return IdentityAttention([one.person(one.who_at(t, base.process), heads, noisy) for one in shown])

    seam = Seam(base.network)
    with seam.using("identity", everybody):
        yield lambda model, pictures: IdentityDenoiser(model, seam, heads, shown, pictures)


def _heads(base: Any, shown: Sequence[IdentityConditioning]) -> dict[str, int]:
    """Attention heads of the base's layers by name, once it is known that the people's adapters fit it."""
    layers = base.denoiser.identity_layers()
    shapes = {name: tuple(layer.text.to_k.shape) for name, layer in layers.items()}
    for adapter in {id(one.identity.adapter): one.identity.adapter for one in shown}.values():
        check_fit(adapter, base.family, shapes)
    return {name: layer.key_heads for name, layer in layers.items()}


def digest_of(people: Sequence[IdentityConditioning]) -> str:
    """A name for these people as they are shown, the same in every session."""
    total = hashlib.sha256()
    for one in people:
        settings = [one.weight, one.start, one.end, sorted(one.layers.items())]
        total.update(repr(settings).encode())
        weights = one.identity.adapter.attention.layer_weights()
        for tensor in (one.identity.tokens, one.identity.nobody, *weights.values()):
            total.update(tensor.detach().cpu().float().numpy().tobytes())
    return total.hexdigest()
