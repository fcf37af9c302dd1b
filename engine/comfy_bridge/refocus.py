"""Refocusing in the graph: regions ride on CONDITIONING, the MODEL's wrappers only carry them out.

A prompt without regions is drawn as ever, by the same MODEL and in the same batch; what a run finds out lives
as long as the run. Patches are put in at each step, around those that are there then: whoever else patches
cross-attention, before or after, goes on being heard.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.ldm.modules.attention as attention
import comfy.patcher_extension
import numpy as np
import torch

from ..bases.families import FAMILIES
from ..config import TOKEN
from ..data.segment import load_segmenter
from ..errors import LikenessError
from ..inference.refocus import (
    Area,
    Focus,
    LogMasks,
    Look,
    Maps,
    Spot,
    absent,
    box_region,
    find_sequence,
    fitted,
    heat_maps,
    look_for,
    own_prompt_of,
    places_in_all,
    word_attention,
)
from ..inference.refocus_options import marked
from ..inference.refocused import RegionsFound
from .areas import area_of
from .pictures import pictures_of
from .sampling import Sampling
from .staged import PLACES, SPOKEN, values_of
from .weights import check_unet, kind_of
from .words import check_placeholders, defined_in

KEY = "likeness.refocus"  # of our wrappers, and of a run in transformer_options
AIMS = "likeness_refocus"  # in a CONDITIONING entry: its aims, and where their words stand in it

Conditioning = list[list[Any]]


@dataclass(frozen=True, eq=False)
class Aim:
    """One word and its region, as one of our nodes was told; an object of its own for each."""

    focus: Focus
    own: Conditioning = field(default_factory=list)  # what its region reads, for words kept apart
    look: Look | None = None

    def own_at(self, progress: float) -> Mapping[str, Any] | None:
        """Context and, where they differ, values of the prompt of its own that is due: (1, T, D) each."""
        for context, about in self.own:
            start, end = about.get("clip_start_percent", 0.0), about.get("clip_end_percent", 1.0)
            if start <= progress <= end:
                return {"keys": context, "values": values_of(context, about), "about": about}
        return None


def refocused_prompt(
    model: Any,
    clip: Any,
    text: str,
    focus: Focus,
    *,
    conditioning: Conditioning | None = None,
    own: Conditioning | None = None,
    vae: Any = None,
) -> tuple[Any, Conditioning]:
    """A clone of MODEL that heeds regions, and the prompt as CONDITIONING with one region more."""
    check_unet(model, "refocusing")
    if focus.region is None and focus.find_by == "face" and vae is None:
        raise LikenessError("finding faces needs a VAE; connect one, or find the region by attention")
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
    if own is None and own_text is not None:
        own = _own_prompt(clip, own_text, focus)
    aim = Aim(focus, own if own and focus.scope == "apart" else [], _looking(model, vae))
    entries = [
        [context, {**about, AIMS: (*about.get(AIMS, ()), (aim, where))}]
        for (context, about), where in zip(written, stands)
    ]
    return with_refocus(model), entries


def _own_prompt(clip: Any, text: str, focus: Focus) -> Conditioning:
    """What a region reads by itself, encoded."""
    token = focus.inside or focus.token
    known = not TOKEN.fullmatch(token) or token in defined_in(clip)
    places = _places(clip, text, token) if known else ()
    if not places:
        raise LikenessError(
            f"this CLIP does not know {token} and cannot encode its own prompt; connect '{text}' from "
            "Write a Staged Prompt to own prompt, or choose the scope word"
        )
    return [[context, {**about, PLACES: {focus.token: places}}] for context, about in _encoded(clip, text)]


def _missing(token: str, text: str) -> LikenessError:
    if TOKEN.fullmatch(token) and token in text:
        return LikenessError(
            f"the prompt has {token}, but no likeness connected here defines it; connect the CLIP of Apply a "
            "Likeness, or the CONDITIONING of Write a Staged Prompt"
        )
    return absent(token, text)


def _encoded(clip: Any, text: str) -> Conditioning:
    check_placeholders(text, defined_in(clip))
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _places(clip: Any, text: str, token: str) -> tuple[int, ...]:
    """Where a word stands among the prompt's text states, chunk after chunk; none where it does not."""
    if TOKEN.fullmatch(token) and token not in defined_in(clip):
        return ()  # it is only letters here
    pieces, spelt, empty = (
        [piece for chunk in _first_tower(clip.tokenize(words)) for piece, *_ in chunk]
        for words in (text, token, "")
    )
    end = next(
        at for at, piece in enumerate(spelt) if at and not torch.is_tensor(piece) and piece == empty[1]
    )
    return find_sequence(pieces, spelt[1:end])


def _first_tower(tokens: Mapping[str, Any]) -> Any:
    return next(iter(tokens.values()))  # SDXL's two stand at the same places


def _looking(model: Any, vae: Any) -> Look | None:
    """Marks heads in what a step expects the picture to become; a tiny VAE (taesd) is enough."""
    if vae is None:
        return None
    row = FAMILIES.get(kind_of(model), FAMILIES["sd1"])  # others are photographs too

    def look(clean: torch.Tensor) -> torch.Tensor:
        segmenter = load_segmenter(row.segmenter)
        pictures = pictures_of(vae.decode(model.model.process_latent_out(clean)))
        return torch.from_numpy(np.stack([marked(segmenter, pixels) for pixels in pictures])).to(clean)

    return look


# ------------------------------------------------------------------------------------------------- the model


def with_refocus(model: Any, run: "Run | None" = None) -> Any:
    """A clone of MODEL that heeds the regions of its prompts; a `run` given keeps what one sampling finds."""
    model = model.clone()
    kinds = comfy.patcher_extension.WrappersMP
    for kind in (kinds.SAMPLER_SAMPLE, kinds.CALC_COND_BATCH):
        model.remove_wrappers_with_key(kind, KEY)
    model.add_wrapper_with_key(kinds.SAMPLER_SAMPLE, KEY, _starter(run))
    model.add_wrapper_with_key(kinds.CALC_COND_BATCH, KEY, _step)
    return model


def _starter(run: "Run | None") -> Any:
    def start(executor: Any, guider: Any, sigmas: Any, extra_args: Any, *rest: Any, **options: Any) -> Any:
        known = extra_args.get("model_options", {})
        inner = {**known.get("transformer_options", {}), KEY: run or Run()}
        extra_args = {**extra_args, "model_options": {**known, "transformer_options": inner}}
        inner[KEY].sigmas = sigmas
        return executor(guider, sigmas, extra_args, *rest, **options)

    return start


class Run:
    """One sampling: regions found on the way, attention maps, and masks that are built once."""

    def __init__(self, *, record: bool = False, only_look: bool = False) -> None:
        self.record, self.only_look = record, only_look
        self.sigmas: torch.Tensor | None = None
        self.found: dict[Aim, torch.Tensor] = {}
        self.maps: dict[Aim, Maps] = {}
        self.cache: dict[tuple, Any] = {}

    def spot(self, aim: Aim, places: tuple[int, ...], progress: float) -> Spot:
        """The aim with the region found for it meanwhile, and its own prompt of this noise level."""
        spot = Spot(aim.focus, places)
        if aim.focus.region is None and aim in self.found:
            spot = spot.found(self.found[aim])
        own = aim.own_at(progress)
        if own is None:
            return spot
        stands = own["about"].get(PLACES, {}).get(aim.focus.token, ())
        return Spot(spot.focus, places, stands, own["keys"].shape[1])

    def looking(self, aim: Aim) -> bool:
        return aim.focus.region is None and aim not in self.found and self.sigmas is not None

    def due(self, aims: Sequence[Aim], sigma: float) -> bool:
        """Whether the step at this noise level is the last before the aims' regions are to be known."""
        shares = [aim.focus.find_at for aim in aims if self.looking(aim)]
        if not shares or self.sigmas is None:
            return False
        after = max(1, round(max(shares) * (len(self.sigmas) - 1)))
        return sigma <= float(self.sigmas[after - 1]) * (1 + 1e-5)


@dataclass
class Entry:
    """One prompt of a step: its aims, what masks them, and where in the latents it looks."""

    aims: Sequence[Aim]
    spots: Sequence[Spot]
    masks: LogMasks
    length: int  # of its text states, before ComfyUI evens out lengths
    area: Area
    own: Sequence[Mapping[str, Any]]

    def acts(self, progress: float) -> bool:
        return self.masks.acts(progress)


def _step(executor: Any, model: Any, conds: Any, x: Any, timestep: Any, model_options: Any) -> Any:
    """Around ComfyUI's batching of prompts: puts the patches in where a region acts, or is looked for."""
    bearing = [
        (number, entry) for number, group in enumerate(conds) for entry in group or () if AIMS in entry
    ]
    if not bearing:
        return executor(model, conds, x, timestep, model_options)
    known = model_options.get("transformer_options", {})
    run: Run = known.get(KEY) or Run()
    sigma = float(timestep[0])
    progress = _progress(model.model_sampling, sigma)
    entries = {entry["uuid"]: _entry(run, entry, x, progress) for _, entry in bearing}
    record = run.record or any(run.looking(aim) for entry in entries.values() for aim in entry.aims)
    if not record and not any(entry.acts(progress) for entry in entries.values()):
        return executor(model, conds, x, timestep, model_options)
    lengths = {
        e["uuid"]: e["cross_attn"].shape[1] for group in conds for e in group or () if "cross_attn" in e
    }
    step = Step(run, entries, lengths, progress, record, tuple(x.shape[-2:]))
    patched = step.patched(known, model.diffusion_model)
    out = executor(model, conds, x, timestep, {**model_options, "transformer_options": patched})
    for number, entry in bearing:
        _look(run, entries[entry["uuid"]], sigma, out[number])
    return out


def _progress(sampling: Any, sigma: float) -> float:
    """The noise level as a share of the model's own, 0 the highest: what ComfyUI calls percent."""
    levels = sampling.sigmas
    nearest = (levels.log() - math.log(max(sigma, 1e-12))).abs().argmin()
    return 1 - int(nearest) / (len(levels) - 1)


def _entry(run: Run, entry: Mapping[str, Any], x: torch.Tensor, progress: float) -> Entry:
    aims = [aim for aim, _ in entry[AIMS]]
    spots = [run.spot(aim, places, progress) for aim, places in entry[AIMS]]
    own = [found for aim in aims if (found := aim.own_at(progress)) is not None]
    latents = tuple(x.shape[-2:])
    area = area_of(entry, latents)
    key = (entry["uuid"], tuple(spot.length for spot in spots), tuple(aim in run.found for aim in aims))
    if key not in run.cache:
        run.cache[key] = LogMasks(spots, [_region(spot, latents, area, x) for spot in spots])
    return Entry(aims, spots, run.cache[key], entry["cross_attn"].shape[1], area, own)


def _region(spot: Spot, latents: tuple[int, int], area: Area, x: torch.Tensor) -> torch.Tensor:
    """The spot's region within what the prompt looks at, on the device; ones where none is known."""
    region = spot.focus.region
    if region is None:
        region = torch.ones(1, *latents)
    height, width, top, left = area
    whole = fitted(region, latents, len(x), spot.focus.token).to(x.device)
    return whole[:, top : top + height, left : left + width]


def _look(run: Run, entry: Entry, sigma: float, clean: torch.Tensor) -> None:
    """Finds the regions that are due, from the maps so far and what the step expects of the picture."""
    if not run.due(entry.aims, sigma):
        return
    maps = torch.cat([run.maps[aim].mean() for aim in entry.aims], 1)  # type: ignore[misc]
    look = next((aim.look for aim in entry.aims if aim.look is not None), None)
    for aim, spot in zip(entry.aims, look_for(entry.spots, maps, clean, look)):
        if run.looking(aim) and spot.focus.region is not None:
            run.found[aim] = spot.focus.region
    if run.only_look:
        raise RegionsFound


# ------------------------------------------------------------------------------------------------ the patches


class Step:
    """One call of the network: masks and own prompts for its entries, maps of their words."""

    def __init__(
        self, run: Run, entries: Mapping[Any, Entry], lengths: Mapping[Any, int], progress: float,
        record: bool, latents: tuple[int, int],
    ) -> None:  # fmt: skip
        self.run, self.entries, self.lengths = run, entries, lengths
        self.progress, self.record, self.latents = progress, record, latents
        self._appended: dict[tuple, list[torch.Tensor]] = {}
        self.acting = {uuid for uuid, entry in entries.items() if entry.acts(progress)}

    def patched(self, known: Mapping[str, Any], network: Any) -> dict[str, Any]:
        """transformer_options with our patches behind and around those that are there."""
        patches = known.get("patches", {})
        replaced = known.get("patches_replace", {})
        theirs = replaced.get("attn2", {})
        layers = [("input", n) for n in range(len(network.input_blocks))]
        layers += [("middle", 0), *(("output", n) for n in range(len(network.output_blocks)))]
        around = {block: self._around(theirs.get(block)) for block in [*layers, *theirs]}
        own = any(self.entries[uuid].own for uuid in self.acting)
        attn2 = [*patches.get("attn2_patch", ()), *([self._lengthen] if own else ())]
        return {
            **known,
            "patches": {**patches, **({"attn2_patch": attn2} if attn2 else {})},
            "patches_replace": {**replaced, "attn2": around},
        }

    def _behind(self, uuids: Sequence[Any]) -> int:
        """How many text states are put behind the prompts of this batch."""
        own = [sum(o["keys"].shape[1] for o in self.entries[u].own) for u in uuids if u in self.acting]
        return max(own, default=0)

    def _lengthen(
        self, n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, options: Mapping[str, Any]
    ) -> tuple:
        """An attn2 patch: the concepts' own prompts behind all else; other prompts get what is masked."""
        uuids = tuple(options["uuids"])
        if not self._behind(uuids):
            return n, context, value
        if uuids not in self._appended:  # the same for every layer of a step
            self._appended[uuids] = [self._own_states(uuids, context, name) for name in ("keys", "values")]
        keys, values = self._appended[uuids]
        return n, torch.cat([context, keys], 1), torch.cat([value, values], 1)

    def _own_states(self, uuids: Sequence[Any], like: torch.Tensor, name: str) -> torch.Tensor:
        """(rows, T, D): each entry's own prompts one after the other, zeros where it has fewer."""
        each = len(like) // len(uuids)
        states = like.new_zeros(len(like), self._behind(uuids), like.shape[-1])
        for number, uuid in enumerate(uuids):
            start = 0
            for prompt in self.entries[uuid].own if uuid in self.acting else ():
                own = prompt[name].to(like)
                states[number * each : (number + 1) * each, start : start + own.shape[1]] = own
                start += own.shape[1]
        return states

    def _around(self, theirs: Any) -> Any:
        def attend(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Mapping[str, Any]
        ) -> torch.Tensor:
            heads, grid = options["n_heads"], tuple(options["activations_shape"][-2:])
            bias = self._bias(options["uuids"], len(q), grid, k.shape[1], q)
            if self.record:
                self._remember(q, k, heads, grid, bias, options["uuids"])
            if bias is None:
                if theirs is not None:
                    return theirs(q, k, v, options)
                return attention.optimized_attention(
                    q, k, v, heads, attn_precision=options.get("attn_precision"), transformer_options=options
                )
            masked = self._masked(q, k, v, heads, bias, options["uuids"])
            if theirs is None:
                return masked
            # what they add to plain attention is added to ours; own prompts behind are not theirs to see
            front = k.shape[1] - self._behind(options["uuids"])
            plain = attention.attention_pytorch(q, k[:, :front], v[:, :front], heads)
            return masked + theirs(q, k[:, :front], v[:, :front], options) - plain

        return attend

    def _masked(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, bias: torch.Tensor,
        uuids: Sequence[Any],
    ) -> torch.Tensor:  # fmt: skip
        """Attention of the whole batch: one fused call for each prompt, without what is not that prompt's."""
        each, front = len(q) // len(uuids), k.shape[1] - self._behind(uuids)
        found = []
        for number, uuid in enumerate(uuids):
            rows = slice(number * each, (number + 1) * each)
            acts = uuid in self.acting
            seen = slice(None if acts else front)
            mask = bias[rows][:, None] if acts else None
            found.append(attention.attention_pytorch(q[rows], k[rows, seen], v[rows, seen], heads, mask=mask))
        return torch.cat(found)

    def _bias(
        self, uuids: Sequence[Any], rows: int, grid: tuple[int, int], tokens: int, like: torch.Tensor
    ) -> torch.Tensor | None:
        """(rows, Q, tokens) for the batch of prompts, or None where none of them is masked here."""
        if not any(uuid in self.acting for uuid in uuids):
            return None
        key = (tuple(uuids), rows, grid, tokens, tuple(self._strengths(u) for u in uuids), like.dtype)
        if key not in self.run.cache:
            if len(self.run.cache) > 256:
                self.run.cache.clear()
            self.run.cache[key] = self._build(uuids, rows, grid, tokens, like)
        return self.run.cache[key]

    def _strengths(self, uuid: Any) -> tuple:
        entry = self.entries.get(uuid)
        if entry is None:
            return ()
        return tuple((s.focus.strength_at(self.progress), s.length, aim in self.run.found)
                     for s, aim in zip(entry.spots, entry.aims))  # fmt: skip

    def _build(
        self, uuids: Sequence[Any], rows: int, grid: tuple[int, int], tokens: int, like: torch.Tensor
    ) -> torch.Tensor | None:
        longer = self._behind(uuids)
        front = tokens - longer
        even = math.lcm(*(self.lengths.get(uuid, front) for uuid in uuids))
        each = rows // len(uuids)
        bias = torch.zeros(rows, grid[0] * grid[1], tokens, device=like.device)
        bias[..., front:] = float("-inf")
        for number, uuid in enumerate(uuids):
            entry = self.entries.get(uuid)
            if entry is None or uuid not in self.acting:
                continue
            found = entry.masks.at(grid, entry.length, self.progress)
            if found is None:
                continue
            here = bias[number * each : (number + 1) * each]
            times = max(1, min(even, front) // entry.length)
            here[..., : times * entry.length] = found[..., : entry.length].repeat(1, 1, times)
            own = found[..., entry.length :]
            here[..., front : front + own.shape[-1]] = own
        return bias.to(like.dtype) if bias.any() else None

    def _remember(
        self, q: torch.Tensor, k: torch.Tensor, heads: int, grid: tuple[int, int],
        bias: torch.Tensor | None, uuids: Sequence[Any],
    ) -> None:  # fmt: skip
        """Adds this layer to the maps of every word in the batch."""
        each, front = len(q) // len(uuids), k.shape[1] - self._behind(uuids)
        for number, uuid in enumerate(uuids):
            entry = self.entries.get(uuid)
            if entry is None:
                continue
            rows = slice(number * each, (number + 1) * each)
            words = [
                places_in_all(entry.spots, place, front, uuid in self.acting)
                for place in range(len(entry.spots))
            ]
            added = None if bias is None else bias[rows]
            shares = word_attention(q[rows], k[rows], heads, words, added)
            for place, aim in enumerate(entry.aims):
                maps = self.run.maps.setdefault(aim, Maps(self.latents))
                maps.add(shares[:, place : place + 1], grid, entry.area)


# ---------------------------------------------------------------------------------------------- the sampler


def refocused_sample(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
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
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """LATENT as a KSampler makes it; heat maps (IMAGE) and regions (MASK), one per picture and word.

    With `restart`, regions that have to be found are found in a first run, which ends there; the picture is
    then drawn with them from its first step.
    """
    aims = list(dict.fromkeys(aim for _, about in positive for aim, _ in about.get(AIMS, ())))
    if not aims:
        raise LikenessError(
            "no region is connected; put Refocus a Word before this node, on its positive input"
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
    pictures = vae.decode(out["samples"])
    maps = torch.cat([run.maps[aim].mean() for aim in aims if aim in run.maps], 1)  # type: ignore[misc]
    heat = heat_maps(pictures.cpu(), maps.cpu())
    return out, heat, _as_masks(run, aims, out["samples"], pictures.shape[1:3])


def _as_masks(run: Run, aims: Sequence[Aim], latents: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The regions (B * K, H, W) in pixels, words innermost as among the heat maps."""
    known = []
    for aim in aims:
        region = run.found.get(aim) if aim.focus.region is None else aim.focus.region
        region = (0.0, 0.0, 1.0, 1.0) if region is None else region
        whole = (size[0], size[1])
        mask = box_region(region, whole) if isinstance(region, tuple) else region.float().cpu()
        sized = torch.nn.functional.interpolate(mask[:, None], size=tuple(size), mode="nearest")
        known.append(sized[:, 0].expand(len(latents), -1, -1))
    return torch.stack(known, 1).flatten(0, 1)
