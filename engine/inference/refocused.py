"""Drawing with refocused attention on diffusers' U-Nets: what it puts on layers is off after each pass."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bases.grids import grid_of
from ..bases.sampling import Denoiser
from ..errors import LikenessError
from ..staged.text import TextStates
from ..staged.words import StagedModel
from .refocus import (
    Focus,
    LogMasks,
    Look,
    Maps,
    Spot,
    absent,
    everywhere,
    find_sequence,
    fitted,
    look_for,
    own_prompt_of,
    places_in_all,
    word_attention,
)
from .restore import Known

if TYPE_CHECKING:
    from ..bases.base import BaseModel, Rows


class RegionsFound(Exception):
    """Ends a drawing that was only to find regions."""


class RefocusedModel:
    """A model for sampling whose words act in their regions; the last rows of a context are its prompts.

    `record` keeps the words' attention maps of all steps in `maps`. With `restart`, the drawing ends in
    RegionsFound once regions that were looked for are known; draw again with the same object then.
    """

    def __init__(
        self,
        base: "BaseModel",
        painter: "Painter",
        prompts: Sequence[str],
        rows: "Rows",
        focuses: Sequence[Focus],
        *,
        latents: tuple[int, int],
        steps: int,
        look: Look | None = None,
        restart: bool = False,
        record: bool = False,
    ) -> None:
        inner, self.context = painter(prompts)
        self.alphas_cumprod: Tensor = inner.alphas_cumprod
        self.prediction_type: str = inner.prediction_type
        self.tail: int = inner.tail
        self.maps = Maps(latents)
        self._base, self._inner = base, inner
        self._prompts, self._rows = tuple(prompts), rows
        self.focuses = list(focuses)
        self._latents, self._look, self._restart, self._record = latents, look, restart, record
        self._look_after = _steps_before_looking(focuses, steps)
        self._done = 0
        own = {
            number: [own_prompt_of(text, focus) for text in prompts] for number, focus in enumerate(focuses)
        }
        self._apart = {
            number: [text or prompt for text, prompt in zip(texts, prompts)]
            for number, texts in own.items()
            if any(texts)
        }
        self._painted = {number: painter(own) for number, own in self._apart.items()}
        self._own = _OwnPrompts([])
        self._layers = cross_attentions(base.unet)
        self._masks: dict[tuple, list[LogMasks]] = {}
        self._biases: dict[tuple, Tensor | None] = {}
        self._standing: dict[tuple, list[list[Spot]]] = {}  # by how many text states each placeholder takes
        for focus in focuses:
            if focus.region is not None:
                fitted(focus.region, latents, len(prompts), focus.token)
        self._spots(len(self.alphas_cumprod) - 1)  # a word that is not in the prompt is told before drawing

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """As the inner model's, with masks on what its prompts' words may reach."""
        timestep = int(timesteps[0])
        progress = 1 - timestep / (len(self.alphas_cumprod) - 1)
        looking = self._look_after is not None
        spots = self._spots(timestep)
        acts = self._acts(progress)
        own = self._own_prompts(timestep) if acts else self._own
        with ExitStack() as stack:
            for layer in self._layers:
                if acts:
                    self._mask(stack, layer, spots, progress, own)
                if self._record or looking:
                    self._hook_maps(stack, layer, spots, progress, own)
            output = self._inner.predict(noisy, timesteps, context)
        self._done += 1
        if looking and self._done >= (self._look_after or 0):
            self._find(noisy, output, timesteps, spots)
        return output

    def _find(
        self, noisy: Tensor, output: Tensor, timesteps: Tensor, spots: Sequence[Sequence[Spot]]
    ) -> None:
        count, maps = len(self._prompts), self.maps.mean()
        assert maps is not None  # looked for after a pass only
        clean = self._base.clean(noisy[-count:], output[-count:].float(), timesteps[-count:])
        found = look_for(spots[0], maps, clean, self._look)
        self.focuses = [spot.focus for spot in found]
        self._look_after = None
        for known in (self._masks, self._biases, self._standing):
            known.clear()
        if self._restart:
            self.maps, self._done = Maps(self._latents), 0
            raise RegionsFound

    def _acts(self, progress: float) -> bool:
        return any(
            focus.strength_at(progress) and (number in self._apart or not everywhere(focus.region))
            for number, focus in enumerate(self.focuses)
        )

    def _own_prompts(self, timestep: int) -> "_OwnPrompts":
        """What concepts kept apart read at a timestep: the same object until another stage begins."""
        stages = [
            model.states(timestep) if isinstance(model, StagedModel) else TextStates(context, context)
            for model, context in self._painted.values()
        ]
        if not self._own.made_of(stages):
            self._own = _OwnPrompts(stages, pooled=self._base.pooled_width > 0)
        return self._own

    def _attended(self, context: Tensor) -> Tensor:
        """The text states that cross-attention reads: all but the pooled vector's row, where there is one."""
        return context[:, : context.shape[1] - (1 if self._base.pooled_width else 0)]

    def _mask(
        self, stack: ExitStack, layer: Any, spots: Sequence[Sequence[Spot]], progress: float,
        own: "_OwnPrompts",
    ) -> None:  # fmt: skip
        def bias_of(queries: int, length: int) -> Tensor | None:
            return self._bias(spots, queries, length, progress)

        usual = layer.processor
        layer.processor = _Masked(usual, bias_of, own, len(self._prompts))
        stack.callback(setattr, layer, "processor", usual)

    def _hook_maps(
        self, stack: ExitStack, layer: Any, spots: Sequence[Sequence[Spot]], progress: float,
        own: "_OwnPrompts",
    ) -> None:  # fmt: skip
        seen: dict[str, Tensor] = {}

        def keep(_module: nn.Module, _arguments: tuple, _options: dict, _output: Tensor) -> None:
            count, (queries, keys) = len(self._prompts), (seen["q"], seen["k"])
            grid = grid_of(queries.shape[1], self._latents)
            tokens = keys.shape[1]
            bias = self._bias(spots, queries.shape[1], tokens, progress)
            queries, keys = queries[-count:], keys[-count:]
            if bias is not None:
                keys = own.behind(layer, keys, keys)[0]
            shares = []
            for row, line in zip(range(-count, 0), spots):
                words = [places_in_all(line, number, tokens, bias is not None) for number in range(len(line))]
                added = None if bias is None else bias[row][None]
                shares.append(word_attention(queries[row][None], keys[row][None], layer.heads, words, added))
            if grid is not None:
                self.maps.add(torch.cat(shares), grid)

        for name, part in (("q", layer.to_q), ("k", layer.to_k)):
            stack.callback(
                part.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out})).remove
            )
        stack.callback(layer.register_forward_hook(keep, with_kwargs=True).remove)

    def _bias(
        self, spots: Sequence[Sequence[Spot]], queries: int, length: int, progress: float
    ) -> Tensor | None:
        """(N, Q, T) for the prompts' rows where others have `length` text states; None where nothing acts."""
        places = tuple(tuple(spot.positions for spot in line) for line in spots)
        strengths = tuple(focus.strength_at(progress) for focus in self.focuses)
        key = (places, queries, length, strengths)
        if key not in self._biases:
            if len(self._biases) > 16:  # a strength that changes at every step
                self._biases.clear()
            self._biases[key] = self._build(spots, places, queries, length, progress)
        return self._biases[key]

    def _build(
        self, spots: Sequence[Sequence[Spot]], places: tuple, queries: int, length: int, progress: float
    ) -> Tensor | None:
        grid = grid_of(queries, self._latents)
        if places not in self._masks:
            self._masks[places] = [self._masks_of(line, number) for number, line in enumerate(spots)]
        masks = self._masks[places]
        if grid is None or not any(mask.acts(progress) for mask in masks):
            return None
        tokens = self._attended(self.context).shape[1]  # fewer where a longer prompt goes beside this one
        found = [mask.at(grid, tokens, progress) for mask in masks]
        if all(row is None for row in found):
            return None
        if tokens == length and all(row is not None for row in found):
            return torch.cat([row for row in found if row is not None])
        extra = sum(spot.length for spot in spots[0])
        whole = torch.zeros(len(masks), queries, length + extra, device=self._base.device)
        whole[..., length:] = float("-inf")
        for number, row in enumerate(found):
            if row is not None:
                whole[number, :, :length] = row[0, :, :tokens].repeat(1, length // tokens)
                whole[number, :, length:] = row[0, :, tokens:]
        return whole

    def _masks_of(self, line: Sequence[Spot], number: int) -> LogMasks:
        """One picture's log-masks; each picture has its own region where a focus has one for each."""
        regions = []
        for spot in line:
            whole = torch.ones(1, *self._latents) if spot.focus.region is None else spot.focus.region
            own = fitted(whole, self._latents, len(self._prompts), spot.focus.token)
            regions.append(own[number % len(own)][None].to(self._base.device))
        return LogMasks(line, regions)

    def _spots(self, timestep: int) -> list[list[Spot]]:
        """Where each prompt's words stand at a timestep; looked up once for each stage."""
        staged = self._inner.places_taken(timestep) if isinstance(self._inner, StagedModel) else {}
        taken = tuple((token, name, len(rows)) for token, own in staged.items() for name, rows in own.items())
        if taken not in self._standing:
            laid = {**self._rows, **staged}
            self._standing[taken] = [self._line(index, laid) for index in range(len(self._prompts))]
        return self._standing[taken]

    def _line(self, index: int, rows: Mapping[str, Mapping[str, Tensor]]) -> list[Spot]:
        line = []
        for number, focus in enumerate(self.focuses):
            tokens = self._attended(self.context).shape[1]
            spot = Spot(focus, word_places(self._base, self._prompts[index], focus.token, rows, tokens))
            if number in self._apart:
                name = focus.inside or focus.token
                length = self._attended(self._painted[number][1]).shape[1]
                own = word_places(self._base, self._apart[number][index], name, rows, length)
                spot = replace(spot, alone=own, length=length)
            line.append(spot)
        return line


class _Masked:
    """A layer's attention in a pass whose last `count` rows are masked, and read own prompts besides.

    Theirs is one fused call with the log-mask; the other rows, of a negative prompt, see nothing of it.
    """

    def __init__(
        self, usual: Any, bias_of: Callable[[int, int], Tensor | None], own: "_OwnPrompts", count: int
    ) -> None:
        self._usual, self._bias_of, self._own, self._count = usual, bias_of, own, count

    def __call__(
        self, layer: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *more: Any, **options: Any
    ) -> Tensor:
        length = encoder_hidden_states.shape[1]
        bias = self._bias_of(hidden_states.shape[1], length)
        if bias is None:
            return self._usual(layer, hidden_states, encoder_hidden_states, *more, **options)
        self._own.project(layer, encoder_hidden_states.dtype)
        q, k, v = (
            part.split([len(hidden_states) - self._count, self._count])
            for part in (
                layer.to_q(hidden_states),
                layer.to_k(encoder_hidden_states),
                layer.to_v(encoder_hidden_states),
            )
        )
        masked = self._attend(layer, q[1], *self._own.behind(layer, k[1], v[1]), bias[:, None])
        plain = self._attend(layer, q[0], k[0], v[0], None)
        return layer.to_out[1](layer.to_out[0](torch.cat([plain, masked])))

    @staticmethod
    def _attend(layer: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (q, k, v))
        bias = None if bias is None else bias.to(q.dtype)
        found = F.scaled_dot_product_attention(q, k, v, bias, scale=layer.scale)
        return found.transpose(1, 2).flatten(2)


class _OwnPrompts:
    """What concepts kept apart read instead of the whole prompt, and what each layer makes of it.

    Text states do not change from one step to the next while a stage lasts, so that every layer's keys and
    values of them are made once.
    """

    def __init__(self, stages: Sequence[TextStates], *, pooled: bool = False) -> None:
        self._stages = list(stages)
        self._states: TextStates | None = None
        if stages:
            lengths = [states.keys.shape[1] - pooled for states in stages]  # a pooled vector has its own row
            keys, values = (
                torch.cat([getattr(states, side)[:, :length] for states, length in zip(stages, lengths)], 1)
                for side in ("keys", "values")
            )
            self._states = TextStates(keys, values)
        self._known: dict[Any, tuple[Tensor, Tensor]] = {}

    def made_of(self, stages: Sequence[TextStates]) -> bool:
        """Whether this is what those stages' text states give."""
        return len(stages) == len(self._stages) and all(
            new.keys is old.keys and new.values is old.values for new, old in zip(stages, self._stages)
        )

    def project(self, layer: Any, dtype: torch.dtype) -> None:
        """Makes a layer's keys and values, past the hooks on its parts: those are about the whole prompts."""
        if self._states is not None and layer not in self._known:
            self._known[layer] = (
                layer.to_k.forward(self._states.keys.to(dtype)),
                layer.to_v.forward(self._states.values.to(dtype)),
            )

    def behind(self, layer: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values (N, T, H * D) of the prompts, and those of the own ones behind them."""
        if layer not in self._known:
            return keys, values
        own_keys, own_values = self._known[layer]
        return torch.cat([keys, own_keys], 1), torch.cat([values, own_values], 1)


def _steps_before_looking(focuses: Sequence[Focus], steps: int) -> int | None:
    """After how many steps regions are looked for; None where all are known."""
    shares = [focus.find_at for focus in focuses if focus.region is None]
    return max(1, round(max(shares) * steps)) if shares else None


def word_places(
    base: "BaseModel", prompt: str, token: str, rows: Mapping[str, Mapping[str, Tensor]], length: int = 0
) -> tuple[int, ...]:
    """Where a placeholder's vectors, or any words, stand among the prompt's text states.

    `length`: how many there are where the prompt is repeated beside longer ones.
    """
    encoder = next(iter(base.text_encoders))
    tokens = base.tokenize([prompt], rows, encoder)
    if token in rows:
        places = tuple(position for _, position, name, _ in tokens.places if name == token)
    else:
        wanted = base.tokenizers[encoder](token, add_special_tokens=False)["input_ids"]
        taken = {position for _, position, _, _ in tokens.places}
        ids = [None if at in taken else int(piece) for at, piece in enumerate(tokens.ids[0])]
        places = find_sequence(ids, wanted)
    if not places:
        raise absent(token, prompt)
    own = tokens.ids.shape[1]
    return tuple(start + place for start in range(0, max(own, length), own) for place in places)


def cross_attentions(unet: nn.Module) -> list[Any]:
    """All cross-attention layers of a diffusers U-Net."""
    return [part for name, part in unet.named_modules() if name.endswith("attn2")]


Painter = Callable[
    [Sequence[str]], tuple[Denoiser, Tensor]
]  # prompts -> what predicts the noise, text states

# which pictures of a run, their maps (B, K, h, w), focuses with their regions, the pictures themselves
OnMaps = Callable[[range, Tensor, Sequence[Focus], np.ndarray], None]
Heads = Callable[[np.ndarray], np.ndarray]  # pictures (N, H, W, 3) uint8 -> where heads are, (N, H, W)
OnRegions = Callable[[range, Sequence[Focus]], None]  # which pictures of a run, focuses with their regions


@dataclass(frozen=True, kw_only=True)
class Refocusing:
    """What `generate` is to keep where, and what it is to report."""

    focuses: Sequence[Focus]
    restart: bool = False  # draw again from the start once regions that were looked for are known
    look: Look | None = None  # for regions found by face
    heads: Heads | None = None  # for regions that are found in the finished picture
    known: Mapping[str, Known] = field(default_factory=dict)  # by a focus's word: who it is to be like
    on_maps: "OnMaps | None" = None
    on_regions: "OnRegions | None" = None

    def model(
        self, base: "BaseModel", painter: Painter, prompts: Sequence[str], rows: "Rows",
        latents: tuple[int, int], steps: int, group: range,
    ) -> RefocusedModel:  # fmt: skip
        """What draws these pictures of a run."""
        return RefocusedModel(
            base, painter, prompts, rows, [_of_group(focus, group) for focus in self.focuses],
            latents=latents, steps=steps, look=self.look, restart=self.restart,
            record=self.on_maps is not None,
        )  # fmt: skip

    def draw(self, model: RefocusedModel, paint: Callable[[], Tensor]) -> Tensor:
        """The group's latents, as `paint` makes them with the model."""
        try:
            return paint()
        except RegionsFound:
            return paint()

    def report(self, model: RefocusedModel, group: range, pictures: np.ndarray) -> None:
        """Tells `on_maps` where the words of a drawing looked, and `on_regions` where they were kept."""
        if self.on_regions is not None:
            self.on_regions(group, model.focuses)
        maps = model.maps.mean()
        if self.on_maps is not None and maps is not None:
            self.on_maps(group, maps, model.focuses, pictures)


def _of_group(focus: Focus, group: range) -> Focus:
    """The focus with the regions of these pictures only, where it has one for each."""
    region = focus.region
    if region is None or isinstance(region, tuple) or len(region) == 1:
        return focus
    if len(region) < group.stop:
        raise LikenessError(
            f"there are {len(region)} regions for {focus.token} but more pictures; give one region, or one "
            "for each"
        )
    return replace(focus, region=region[group.start : group.stop])
