"""Refocusing in the graph: regions ride on CONDITIONING, the MODEL's wrappers only carry them out.

A prompt without regions is drawn as ever, by the same MODEL and in the same batch; what a run finds out lives
as long as the run. What acts in attention is `inference.regions`, brought in at each step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import comfy.patcher_extension
import numpy as np
import torch

from ..bases.families import FAMILIES
from ..config import TOKEN
from ..data.segment import load_segmenter
from ..errors import LikenessError
from ..inference.refocus import (
    Area,
    AttentionLook,
    Focus,
    LogMasks,
    Maps,
    Spot,
    absent,
    box_region,
    find_sequence,
    fitted,
    heat_maps,
    look_for,
    mean_maps,
    own_prompt_of,
)
from ..inference.refocus_options import marked
from ..inference.regions import FocusedPrompt, Regions, RegionsFound
from ..staged.text import TextStates
from .areas import area_of
from .model_sites import model_sites
from .pictures import decoded_image, pictures_of
from .sampling import Sampling
from .staged import PLACES, SPOKEN, staged_values
from .weights import check_attention, kind_of
from .words import check_placeholders_differ, defined_in, text_pieces, word_pieces

_KEY = "likeness.refocus"  # of our wrappers, and of a run in transformer_options
AIMS = "likeness_refocus"  # in a CONDITIONING entry: its aims, and where their words stand in it

ComfyConditioning = list[list[Any]]


@dataclass(frozen=True, eq=False)
class Aim:
    """One word and its region, as one of our nodes was told; an object of its own for each."""

    focus: Focus
    own: ComfyConditioning = field(default_factory=list)  # what its region reads, for words kept apart
    look: AttentionLook | None = None

    def own_at(self, progress: float) -> tuple[TextStates, Mapping[str, Any]] | None:
        """The text states (1, T, D) of the prompt of its own that is due, and what its entry says besides."""
        for context, about in self.own:
            start, end = about.get("clip_start_percent", 0.0), about.get("clip_end_percent", 1.0)
            if start <= progress <= end:
                return TextStates(context, staged_values(context, about)), about
        return None


def refocused_prompt(
    model: Any,
    clip: Any,
    text: str,
    focus: Focus,
    *,
    conditioning: ComfyConditioning | None = None,
    alone: ComfyConditioning | None = None,
    vae: Any = None,
) -> tuple[Any, ComfyConditioning]:
    """A clone of MODEL that heeds regions, and the prompt as CONDITIONING with one region more."""
    check_attention(model, "refocusing")
    if focus.region is None and vae is None:
        raise LikenessError("finding faces needs a VAE; connect one, or choose mask or box")
    if conditioning is None and TOKEN.fullmatch(focus.token) and focus.token not in defined_in(clip):
        raise _missing(focus.token, text)
    written = _encoded(clip, text) if conditioning is None else conditioning
    stands = [
        about.get(PLACES, {}).get(focus.token) or _places(clip, about.get(SPOKEN, text), focus.token)
        for _, about in written
    ]
    if not all(stands):
        raise _missing(focus.token, text)
    own_text = own_prompt_of(text, focus)
    if alone is None and own_text is not None:
        alone = _own_prompt(clip, own_text, focus)
    aim = Aim(focus, alone if alone and focus.scope == "apart" else [], _looking(model, vae))
    entries = [
        [context, {**about, AIMS: (*about.get(AIMS, ()), (aim, where))}]
        for (context, about), where in zip(written, stands)
    ]
    return with_refocus(model), entries


def _own_prompt(clip: Any, text: str, focus: Focus) -> ComfyConditioning:
    """What a region reads by itself, encoded."""
    token = focus.inside or focus.token
    defined = not TOKEN.fullmatch(token) or token in defined_in(clip)
    places = _places(clip, text, token) if defined else ()
    if not places:
        raise LikenessError(
            f"this CLIP does not know {token} and cannot encode its own prompt; connect '{text}' from "
            "Staged Prompt to own prompt, or choose the scope word"
        )
    return [[context, {**about, PLACES: {focus.token: places}}] for context, about in _encoded(clip, text)]


def _missing(token: str, text: str) -> LikenessError:
    if TOKEN.fullmatch(token) and token in text:
        return LikenessError(
            f"the prompt has {token}, but no likeness connected here defines it; connect the CLIP of Apply "
            "Likeness, or the CONDITIONING of Staged Prompt"
        )
    return absent(token, text)


def _encoded(clip: Any, text: str) -> ComfyConditioning:
    check_placeholders_differ(text, defined_in(clip))
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _places(clip: Any, text: str, token: str) -> tuple[int, ...]:
    """Where a word stands among the prompt's text states, chunk after chunk; none where it does not."""
    if TOKEN.fullmatch(token) and token not in defined_in(clip):
        return ()  # it is only letters here
    pieces = text_pieces(clip, text)
    # to language models, a word within a text begins with its space
    spelled = (word_pieces(clip, words) for words in (token, f" {token}"))
    return next((places for one in spelled if (places := find_sequence(pieces, one))), ())


def _looking(model: Any, vae: Any) -> AttentionLook | None:
    """Marks heads in what a step expects the picture to become; a tiny VAE (taesd) is enough."""
    if vae is None:
        return None
    row = FAMILIES.get(kind_of(model), FAMILIES["sd1"])  # others are photographs too

    def look(clean: torch.Tensor) -> torch.Tensor:
        segmenter = load_segmenter(row.segmenter)
        pictures = pictures_of(decoded_image(vae, model.model.process_latent_out(clean)))
        return torch.from_numpy(np.stack([marked(segmenter, pixels) for pixels in pictures])).to(clean)

    return look


# ------------------------------------------------------------------------------------------------- the model


def with_refocus(model: Any, run: "Run | None" = None) -> Any:
    """A clone of MODEL that heeds the regions of its prompts; a `run` given keeps what one sampling finds."""
    model = model.clone()
    kinds = comfy.patcher_extension.WrappersMP
    for kind in (kinds.SAMPLER_SAMPLE, kinds.CALC_COND_BATCH):
        model.remove_wrappers_with_key(kind, _KEY)
    model.add_wrapper_with_key(kinds.SAMPLER_SAMPLE, _KEY, _starter(run))
    sites, row = model_sites(model), FAMILIES.get(kind_of(model))
    best = () if row is None else row.best_of(sites.layers(model.model.diffusion_model))
    model.add_wrapper_with_key(kinds.CALC_COND_BATCH, _KEY, partial(_step, sites, best))
    return model


def _starter(run: "Run | None") -> Any:
    def start(executor: Any, guider: Any, sigmas: Any, extra_args: Any, *rest: Any, **options: Any) -> Any:
        model_options = extra_args.get("model_options", {})
        inner = {**model_options.get("transformer_options", {}), _KEY: run or Run()}
        extra_args = {**extra_args, "model_options": {**model_options, "transformer_options": inner}}
        inner[_KEY].sigmas = sigmas
        return executor(guider, sigmas, extra_args, *rest, **options)

    return start


class Run:
    """One sampling: regions found on the way, attention maps, and masks that are built once."""

    def __init__(self, *, record: bool = False, only_look: bool = False) -> None:
        self.record, self.only_look = record, only_look
        self.sigmas: torch.Tensor | None = None
        self.found: dict[Aim, torch.Tensor] = {}
        self.maps: dict[Aim, Maps] = {}
        self.biases: dict[Any, Any] = {}
        self._masks: dict[tuple, LogMasks] = {}

    def spot(self, aim: Aim, places: tuple[int, ...], progress: float) -> Spot:
        """The aim with the region found for it meanwhile, and its own prompt of this noise level."""
        spot = Spot(aim.focus, places)
        if aim.focus.region is None and aim in self.found:
            spot = spot.found(self.found[aim])
        own_prompt = aim.own_at(progress)
        if own_prompt is None:
            return spot
        states, about = own_prompt
        stands = about.get(PLACES, {}).get(aim.focus.token, ())
        return Spot(spot.focus, places, stands, states.keys.shape[1])

    def prompt(self, entry: Mapping[str, Any], x: torch.Tensor, progress: float, sites: Any) -> FocusedPrompt:
        """A prompt of a step (an entry of ComfyUI's), at its noise level."""
        aims = [aim for aim, _ in entry[AIMS]]
        spots = [self.spot(aim, places, progress) for aim, places in entry[AIMS]]
        own_states = [at_level[0] for aim in aims if (at_level := aim.own_at(progress)) is not None]
        latents = (x.shape[-2], x.shape[-1])
        area = area_of(entry, latents)
        key = (entry["uuid"], tuple(spot.length for spot in spots), tuple(aim in self.found for aim in aims))
        if key not in self._masks:
            self._masks[key] = LogMasks(spots, [_region(spot, latents, area, x) for spot in spots])
        maps = [self.maps.setdefault(aim, Maps(latents)) for aim in aims]
        words = sites.words_read(entry["cross_attn"].shape[1])
        return FocusedPrompt(self._masks[key], words, own_states, maps, area)

    def looking(self, aim: Aim) -> bool:
        return aim.focus.region is None and aim not in self.found and self.sigmas is not None

    def due(self, aims: Sequence[Aim], sigma: float) -> bool:
        """Whether the step at this noise level is the last before the aims' regions are to be known."""
        shares = [aim.focus.find_at for aim in aims if self.looking(aim)]
        if not shares or self.sigmas is None:
            return False
        after = max(1, round(max(shares) * (len(self.sigmas) - 1)))
        return sigma <= float(self.sigmas[after - 1]) * (1 + 1e-5)


def _step(
    sites: Any, maps_at: Sequence[str], executor: Any, model: Any, conds: Any, x: Any, timestep: Any,
    model_options: Any,
) -> Any:  # fmt: skip
    """Around ComfyUI's batching of prompts: brings in regions where one acts, or is looked for."""
    bearing = [
        (number, entry) for number, group in enumerate(conds) for entry in group or () if AIMS in entry
    ]
    if not bearing:
        return executor(model, conds, x, timestep, model_options)
    options = model_options.get("transformer_options", {})
    run: Run = options.get(_KEY) or Run()
    sigma = float(timestep[0])
    progress = _progress(model.model_sampling, sigma)
    aims = {entry["uuid"]: [aim for aim, _ in entry[AIMS]] for _, entry in bearing}
    record = run.record or any(run.looking(aim) for here in aims.values() for aim in here)
    prompts = {entry["uuid"]: run.prompt(entry, x, progress, sites) for _, entry in bearing}
    if not record and not any(prompt.masks.acts(progress) for prompt in prompts.values()):
        return executor(model, conds, x, timestep, model_options)
    lengths = {
        e["uuid"]: e["cross_attn"].shape[1] for group in conds for e in group or () if "cross_attn" in e
    }

    def regions(uuids: Sequence[Any], rows: int) -> Regions:
        even = math.lcm(*(lengths.get(uuid, 1) for uuid in uuids))
        here = [(rows // len(uuids), prompts.get(uuid)) for uuid in uuids]
        return Regions(here, progress, run.biases, even=even, record=record, maps_at=maps_at)

    users = sites.with_user(options, model.diffusion_model, "regions", regions)
    out = executor(model, conds, x, timestep, {**model_options, "transformer_options": users})
    for number, entry in bearing:
        _look(run, aims[entry["uuid"]], prompts[entry["uuid"]].masks.spots, sigma, out[number])
    return out


def _progress(sampling: Any, sigma: float) -> float:
    """The noise level as a share of the model's own, 0 the highest: what ComfyUI calls percent."""
    levels = sampling.sigmas
    nearest = (levels.log() - math.log(max(sigma, 1e-12))).abs().argmin()
    return 1 - int(nearest) / (len(levels) - 1)


def _region(spot: Spot, latents: tuple[int, int], area: Area, x: torch.Tensor) -> torch.Tensor:
    """The spot's region within what the prompt looks at, on the device; ones where none is known."""
    region = spot.focus.region
    if region is None:
        region = torch.ones(1, *latents)
    height, width, top, left = area
    whole = fitted(region, latents, len(x), spot.focus.token).to(x.device)
    return whole[:, top : top + height, left : left + width]


def _look(run: Run, aims: Sequence[Aim], spots: Sequence[Spot], sigma: float, clean: torch.Tensor) -> None:
    """Finds the regions that are due, from the maps so far and what the step expects of the picture."""
    if not run.due(aims, sigma):
        return
    maps = mean_maps([[run.maps[aim] for aim in aims]])
    assert maps is not None  # looked for after a pass only
    look = next((aim.look for aim in aims if aim.look is not None), None)
    for aim, spot in zip(aims, look_for(spots, maps, clean, look)):
        if run.looking(aim) and isinstance(spot.focus.region, torch.Tensor):
            run.found[aim] = spot.focus.region
    if run.only_look:
        raise RegionsFound


# ---------------------------------------------------------------------------------------------- the sampler


class Sampled(NamedTuple):
    """LATENT as a KSampler makes it; heat maps (IMAGE) and regions (MASK), one per picture and word; the
    pictures as IMAGE; regions (B, h, w) that were found while drawing."""

    latent: dict[str, Any]
    heat: torch.Tensor
    regions: torch.Tensor
    images: torch.Tensor
    found: dict[Aim, torch.Tensor]


def refocused_sample(
    model: Any,
    positive: ComfyConditioning,
    negative: ComfyConditioning,
    latent: Mapping[str, Any],
    *,
    vae: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    scheduler: str,
    denoise: float = 1.0,
    restart: bool = True,
) -> Sampled:
    """The latents drawn with their regions.

    With `restart`, regions that have to be found are found in a first run, which ends there; the picture is
    then drawn with them from its first step.
    """
    aims = list(dict.fromkeys(aim for _, about in positive for aim, _ in about.get(AIMS, ())))
    if not aims:
        raise LikenessError(
            "no region is connected; put Regional Word before this node, on its positive input"
        )
    run = Run(record=True)
    sampled = Sampling(latent, seed, steps, cfg, sampler, scheduler, denoise, positive, negative)
    if restart and any(aim.focus.region is None for aim in aims):
        first = Run(only_look=True)
        try:
            sampled.draw(with_refocus(model, first))
        except RegionsFound:
            run.found = first.found
    out = sampled.draw(with_refocus(model, run))
    pictures = decoded_image(vae, out["samples"])
    maps = mean_maps([[run.maps[aim] for aim in aims if aim in run.maps]])
    assert maps is not None  # every step was recorded
    heat = heat_maps(pictures.cpu(), maps.cpu())
    return Sampled(out, heat, _as_masks(run, aims, out["samples"], pictures.shape[1:3]), pictures, run.found)


def _as_masks(run: Run, aims: Sequence[Aim], latents: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The regions (B * K, H, W) in pixels, words innermost as among the heat maps."""
    regions = []
    for aim in aims:
        region = run.found.get(aim) if aim.focus.region is None else aim.focus.region
        region = (0.0, 0.0, 1.0, 1.0) if region is None else region
        whole = (size[0], size[1])
        mask = box_region(region, whole) if isinstance(region, tuple) else region.float().cpu()
        sized = torch.nn.functional.interpolate(mask[:, None], size=tuple(size), mode="nearest")
        regions.append(sized[:, 0].expand(len(latents), -1, -1))
    return torch.stack(regions, 1).flatten(0, 1)
