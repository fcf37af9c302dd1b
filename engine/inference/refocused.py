"""Drawing with refocused attention without ComfyUI: prompts and regions of a run, step by step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bases.base import BaseModel
from ..bases.conditioning import Conditioning
from ..bases.denoisers.seam import Seam
from ..bases.sampling import DiffusionModel
from ..bases.text.protocol import Rows
from ..errors import LikenessError
from ..staged.stages import LAST_TIMESTEP
from ..staged.text import TextStates
from ..staged.words import StagedModel
from .refocus import (
    AttentionLook,
    Focus,
    LogMasks,
    Maps,
    Spot,
    absent,
    find_sequence,
    fitted,
    look_for,
    mean_maps,
    own_prompt_of,
)
from .regions import FocusedPrompt, Regions, RegionsFound
from .restore import Known


class RefocusedModel:
    """A model for sampling whose words act in their regions; the last rows of a context are its prompts.

    `record` keeps the words' attention maps of all steps. With `restart`, the drawing ends in
    RegionsFound once regions that were looked for are known; draw again with the same object then.
    """

    def __init__(
        self,
        base: BaseModel,
        painter: "RegionDenoiser",
        prompts: Sequence[str],
        rows: Rows,
        focuses: Sequence[Focus],
        *,
        latents: tuple[int, int],
        steps: int,
        look: AttentionLook | None = None,
        restart: bool = False,
        record: bool = False,
    ) -> None:
        inner, self.context = painter(prompts)
        self.process = inner.process
        self._base, self._inner, self._seam = base, inner, Seam(base.network)
        self._prompts, self._rows = tuple(prompts), rows
        self.focuses = list(focuses)
        self._latents, self._look, self._restart, self._record = latents, look, restart, record
        self._maps_at = base.traits.best_of(base.denoiser.attention_layers())
        self._look_after = _steps_before_looking(focuses, steps)
        own_texts = {
            number: [own_prompt_of(text, focus) for text in prompts] for number, focus in enumerate(focuses)
        }
        self._apart = {
            number: [text or prompt for text, prompt in zip(texts, prompts)]
            for number, texts in own_texts.items()
            if any(texts)
        }
        self._painted = {number: painter(own_texts) for number, own_texts in self._apart.items()}
        self._forget()
        for focus in focuses:
            if focus.region is not None:
                fitted(focus.region, latents, len(prompts), focus.token)
        self._spots(LAST_TIMESTEP)  # a word that is not in the prompt is told before drawing

    def _forget(self) -> None:
        """Begins anew: with other regions nothing holds that was made before."""
        self._done = 0
        self._maps = [[Maps(self._latents) for _ in self.focuses] for _ in self._prompts]
        self._masks: dict[tuple, list[LogMasks]] = {}
        self._biases: dict[Any, Any] = {}
        self._standing: dict[tuple, list[list[Spot]]] = {}  # by how many text states each placeholder takes
        self._focused: tuple[Any, list[FocusedPrompt]] = (None, [])

    def maps(self) -> Tensor | None:
        """Where the words looked so far, (B, K, h, w)."""
        return mean_maps(self._maps)

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """As the inner model's, with masks on what its prompts' words may reach."""
        first = t[:1].cpu()
        timestep = int(self.process.published_timestep(first))
        progress = self.process.progress(float(first))
        looking = self._look_after is not None
        prompts = self._focused_at(timestep)
        regions = Regions(
            [(len(noisy) - len(prompts), None), *((1, prompt) for prompt in prompts)], progress, self._biases,
            record=self._record or looking, maps_at=self._maps_at,
        )  # fmt: skip
        with self._seam.using("regions", regions) if regions.needed else nullcontext():
            output = self._inner.predict(noisy, t, conditioning)
        self._done += 1
        if looking and self._done >= (self._look_after or 0):
            self._find(noisy, output, t, self._spots(timestep))
        return output

    def _find(self, noisy: Tensor, output: Tensor, t: Tensor, spots: Sequence[Sequence[Spot]]) -> None:
        count, maps = len(self._prompts), self.maps()
        assert maps is not None  # looked for after a pass only
        clean = self.process.predict_x0(noisy[-count:], output[-count:].float(), t[-count:])
        located = look_for(spots[0], maps, clean, self._look)
        self.focuses = [spot.focus for spot in located]
        self._look_after = None
        done, before = self._done, self._maps
        self._forget()
        if self._restart:
            raise RegionsFound
        self._done, self._maps = done, before

    def _focused_at(self, timestep: int) -> list[FocusedPrompt]:
        """The prompts at a timestep: the same objects until another stage begins."""
        stages = [
            model.states(timestep) if isinstance(model, StagedModel) else context
            for model, context in self._painted.values()
        ]
        spots = self._spots(timestep)
        key = [spots, *(side for states in stages for side in (states.states, states.values))]
        before, prompts = self._focused
        if before is None or len(before) != len(key) or any(a is not b for a, b in zip(before, key)):
            masks, length = self._masks_at(spots), self.context.length
            prompts = [
                FocusedPrompt(masks[row], length, self._own(stages, row), self._maps[row])
                for row in range(len(self._prompts))
            ]
            self._focused = key, prompts
        return prompts

    @staticmethod
    def _own(stages: Sequence[Conditioning], row: int) -> list[TextStates]:
        """What one picture's regions read."""
        picked = [stage.rows(slice(row, row + 1)) for stage in stages]
        return [
            TextStates(one.states, one.states if one.values is None else one.values, there=one.mask)
            for one in picked
        ]

    def _masks_at(self, spots: Sequence[Sequence[Spot]]) -> list[LogMasks]:
        places = tuple(tuple(spot.positions for spot in line) for line in spots)
        if places not in self._masks:
            self._masks[places] = [self._masks_of(line, number) for number, line in enumerate(spots)]
        return self._masks[places]

    def _masks_of(self, line: Sequence[Spot], number: int) -> LogMasks:
        """One picture's log-masks; each picture has its own region where a focus has one for each."""
        regions = []
        for spot in line:
            whole = torch.ones(1, *self._latents) if spot.focus.region is None else spot.focus.region
            fields = fitted(whole, self._latents, len(self._prompts), spot.focus.token)
            regions.append(fields[number % len(fields)][None].to(self._base.device))
        return LogMasks(line, regions)

    def _spots(self, timestep: int) -> list[list[Spot]]:
        """Where each prompt's words stand at a timestep; looked up once for each stage."""
        staged = self._inner.places_taken(timestep) if isinstance(self._inner, StagedModel) else {}
        taken = tuple(
            (token, name, len(rows)) for token, words in staged.items() for name, rows in words.items()
        )
        if taken not in self._standing:
            laid = {**self._rows, **staged}
            self._standing[taken] = [self._line(index, laid) for index in range(len(self._prompts))]
        return self._standing[taken]

    def _line(self, index: int, rows: Mapping[str, Mapping[str, Tensor]]) -> list[Spot]:
        line = []
        for number, focus in enumerate(self.focuses):
            tokens = self.context.length
            spot = Spot(focus, word_places(self._base, self._prompts[index], focus.token, rows, tokens))
            if number in self._apart:
                name = focus.inside or focus.token
                length = self._painted[number][1].length
                places = word_places(self._base, self._apart[number][index], name, rows, length)
                spot = replace(spot, alone=places, length=length)
            line.append(spot)
        return line


def _steps_before_looking(focuses: Sequence[Focus], steps: int) -> int | None:
    """After how many steps regions are looked for; None where all are known."""
    shares = [focus.find_at for focus in focuses if focus.region is None]
    return max(1, round(max(shares) * steps)) if shares else None


def word_places(
    base: BaseModel, prompt: str, token: str, rows: Mapping[str, Mapping[str, Tensor]], length: int = 0
) -> tuple[int, ...]:
    """Where a placeholder's vectors, or any words, stand among the prompt's text states.

    `length`: how many there are where the prompt is repeated beside longer ones.
    """
    encoder = next(iter(base.text_encoders))
    tokens = base.tokenize([prompt], rows, encoder, weights=True)
    if token in rows:
        places = tuple(position for _, position, name, _ in tokens.places if name == token)
    else:
        tokenizer = base.tokenizers[encoder]
        taken = {position for _, position, _, _ in tokens.places}
        ids = [None if at in taken else int(piece) for at, piece in enumerate(tokens.ids[0])]
        # to language models, a word within a text begins with its space
        spelled = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in (token, f" {token}"))
        places = next((at for one in spelled if (at := find_sequence(ids, one))), ())
    if not places:
        raise absent(token, prompt)
    read = tokens.ids.shape[1]
    return tuple(start + place for start in range(0, max(read, length), read) for place in places)


RegionDenoiser = Callable[
    [Sequence[str]], tuple[DiffusionModel, Conditioning]
]  # prompts -> what predicts the noise, and what it is told

# which pictures of a run, their maps (B, K, h, w), focuses with their regions, the pictures themselves
OnMaps = Callable[[range, Tensor, Sequence[Focus], np.ndarray], None]
Heads = Callable[[np.ndarray], np.ndarray]  # pictures (N, H, W, 3) uint8 -> where heads are, (N, H, W)
OnRegions = Callable[[range, Sequence[Focus]], None]  # which pictures of a run, focuses with their regions


@dataclass(frozen=True, kw_only=True)
class Refocusing:
    """What `generate` is to keep where, and what it is to report."""

    focuses: Sequence[Focus]
    restart: bool = False  # draw again from the start once regions that were looked for are known
    look: AttentionLook | None = None  # for regions found by face
    heads: Heads | None = None  # for regions that are found in the finished picture
    known: Mapping[str, Known] = field(default_factory=dict)  # by a focus's word: who it is to be like
    on_maps: "OnMaps | None" = None
    on_regions: "OnRegions | None" = None

    def model(
        self, base: BaseModel, painter: RegionDenoiser, prompts: Sequence[str], rows: Rows,
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
        maps = model.maps()
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
