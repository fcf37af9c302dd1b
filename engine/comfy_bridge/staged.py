"""Staged embeddings in the graph: one CONDITIONING entry per stretch of noise levels, values beside keys.

The entries alone work with any sampler. The MODEL's wrapper only brings the second context to
cross-attention; it knows its prompts by what the entries carry, and leaves everybody else's patches there.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import safetensors.torch
import torch

from ..artifact import Artifact
from ..bases.clip_features import clip_pixels
from ..data.concepts import Concept
from ..data.examples import examples_of
from ..errors import LikenessError
from ..files import write_atomically
from ..staged.embedding import STAGED_KIND, adjusted, check_used, check_width, staged_words
from ..staged.text import Places, SplitValues, with_bypass
from ..staged.words import StagedWords
from .folders import temporary_folder
from .model_sites import model_sites
from .staged_joint import OFFSETS, encoded_by_few, moved_values, percents, stages_offsets, value_width
from .weights import check_kind, text_towers_of
from .words import (
    asked_before,
    check_placeholders_differ,
    defined_in,
    spell_placeholders,
    with_rows,
    word_pieces,
)

log = logging.getLogger(__name__)

_KEY = "likeness.staged"  # of our wrapper
VALUES = "likeness_values"  # in a CONDITIONING entry: the context (1, T, D) that values are made from
_KEYS = "likeness_keys"  # and the one that keys are made from, as it was written
PLACES = "likeness_places"  # and, by placeholder, where it stands among the entry's text states
SPOKEN = "likeness_text"  # and the prompt as it reads here, with as many tokens in the placeholder's place
_MARK = "likeness-class-word"
_EDGE = 1e-5  # of a noise level: what single precision may get wrong where two stages meet


def staged_prompt(
    model: Any,
    clip: Any,
    artifact: Artifact,
    text: str,
    *,
    bypass: float = 1.0,
    start: int | None = None,
    end: int | None = None,
    stages: int | None = None,
    late: str | None = None,
) -> tuple[Any, list[list[Any]]]:
    """A clone of MODEL that heeds the bypass, and the prompt as CONDITIONING, one entry per stage."""
    words = _words_for(model, clip, artifact, text)
    check_placeholders_differ(text, {words.token, *defined_in(clip)})
    words = adjusted(words, bypass=bypass, start=start, end=end, stages=stages, late=late)
    plain = _encode(clip, clip.tokenize(_with_class_word(text, words)))
    pooled = plain["pooled_output"]
    timesteps = sorted({stage.timestep for stage in words.plan.all() if stage.timestep is not None})
    keys, besides = _dynamic(clip, text, words, timesteps)
    stands = placeholder_rows(clip, text, words.token, words.mapper.words)
    word_stands = placeholder_rows(clip, text, words.token, _length(clip, words.class_word))
    entries = []
    for (first, last), stage in zip(percents(model, words.plan), words.plan.all()):
        about = {"clip_start_percent": first, "clip_end_percent": last, "pooled_output": pooled}
        if stage.timestep is None:
            about |= {PLACES: {words.token: word_stands}, SPOKEN: _with_class_word(text, words)}
            entries.append([plain["cond"], about])
            continue
        about |= {PLACES: {words.token: stands}, SPOKEN: _with_full_stops(text, words)}
        number = timesteps.index(stage.timestep)
        entries.append([keys[number : number + 1], about | besides[number]])
    return with_split_values(model), entries


def _words_for(model: Any, clip: Any, artifact: Artifact, text: str) -> StagedWords:
    """The artifact's words, once they are known to fit MODEL, CLIP and the prompt."""
    if artifact.kind != STAGED_KIND:
        raise LikenessError(
            f"a likeness learned with {artifact.method} has no stages; use Apply Likeness, a plain prompt"
        )
    check_kind(model, artifact.base_family, "this likeness")
    words = staged_words(artifact)
    encoders = text_towers_of(clip)
    widths = {
        name: encoder.transformer.get_input_embeddings().weight.shape[1] for name, encoder in encoders.items()
    }
    check_width(words, widths, value_width(model))
    check_used([text.replace(f"embedding:{words.token[1:-1]}", words.token)], words)
    if clip.layer_idx is not None and any(
        clip.layer_idx != (encoder.options_default[1] or -1) for encoder in encoders.values()
    ):
        log.warning(
            "CLIP Set Last Layer is at %d: the likeness was learned on the checkpoint's own layer and may "
            "suffer", clip.layer_idx,
        )  # fmt: skip
    return words


def _with_class_word(text: str, words: StagedWords) -> str:
    return spell_placeholders(text, {words.token: _MARK}).replace(f" embedding:{_MARK} ", words.class_word)


def _with_full_stops(text: str, words: StagedWords) -> str:
    """The prompt with as many tokens for the placeholder as it has words, whatever they are."""
    stops = " . " * words.mapper.words
    return spell_placeholders(text, {words.token: _MARK}).replace(f" embedding:{_MARK} ", stops)


def _encode(clip: Any, tokens: Mapping[str, Any]) -> dict[str, Any]:
    return clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)


def _dynamic(
    clip: Any, text: str, words: StagedWords, timesteps: Sequence[float]
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Keys (S, T, D) of the prompt with the words of each of S timesteps, and what each one's entry says of
    values."""
    markers = {
        name: torch.randn(words.mapper.words, width, generator=torch.Generator().manual_seed(5))
        for name, width in words.mapper.text_widths.items()
    }
    tokens = with_rows(clip, {words.token: markers}).tokenize(text)
    batch, places, asked = {}, {}, asked_before(clip)
    spoken = [words.at(timestep) for timestep in timesteps]
    for short, chunks in tokens.items():
        name = short if short in markers else f"clip_{short}"
        marked = _marked(chunks, markers[name])
        batch[short], places[name] = [], []
        for number, (vectors, bypass) in enumerate(spoken):
            written = [list(chunk) for chunk in chunks]
            for chunk, position, word in marked:
                written[chunk][position] = (vectors[name][word], *chunks[chunk][position][1:])
                row = number * len(chunks) + chunk
                places[name].append((row, position - asked, vectors[name][word], bypass[name][word]))
            batch[short] += written
    if not all(hasattr(encoder.transformer, "text_model") for encoder in text_towers_of(clip).values()):
        (stands,) = places.values()
        return encoded_by_few(clip, batch), stages_offsets(stands, len(timesteps))
    keys = _by_stage(_encode(clip, batch)["cond"], len(timesteps))
    if not any(place[3].any() for entries in places.values() for place in entries):
        return keys, [{} for _ in timesteps]
    with bypassed(clip, {name: _as_places(entries) for name, entries in places.items()}):
        values = _by_stage(_encode(clip, batch)["cond"], len(timesteps))
    parts = zip(values.split(1), keys.split(1))
    return keys, [{VALUES: stage_values, _KEYS: stage_keys} for stage_values, stage_keys in parts]


def placeholder_rows(clip: Any, text: str, token: str, count: int) -> tuple[int, ...]:
    """Where a placeholder stands in the first encoder's text states, if it takes `count` each time."""
    markers = {}
    for name, encoder in text_towers_of(clip).items():
        width = encoder.transformer.get_input_embeddings().weight.shape[1]
        markers[name] = torch.randn(count, width, generator=torch.Generator().manual_seed(7))
    first = next(iter(markers))
    chunks = with_rows(clip, {token: markers}).tokenize(text)[first.removeprefix("clip_")]
    starts = [sum(len(chunk) for chunk in chunks[:number]) for number in range(len(chunks))]
    asked = asked_before(clip)
    return tuple(starts[chunk] + position - asked for chunk, position, _ in _marked(chunks, markers[first]))


def _length(clip: Any, word: str) -> int:
    """How many text states a word takes."""
    return len(word_pieces(clip, word))


def _by_stage(cond: torch.Tensor, stages: int) -> torch.Tensor:
    """ComfyUI puts all chunks of a prompt one after another: (1, S * T, D) as (S, T, D)."""
    return cond.reshape(stages, -1, cond.shape[-1])


def _marked(chunks: Sequence[Sequence[tuple]], markers: torch.Tensor) -> list[tuple[int, int, int]]:
    """Where the markers (n, D) stand in tokenised text: (chunk, position, which marker)."""
    return [
        (number, position, word)
        for number, chunk in enumerate(chunks)
        for position, (token, *_) in enumerate(chunk)
        if isinstance(token, torch.Tensor) and token.shape == markers[0].shape
        for word in range(len(markers))
        if torch.equal(token.to(markers), markers[word])
    ]


def _as_places(entries: Sequence[tuple[int, int, torch.Tensor, torch.Tensor]]) -> Places:
    rows, positions, vectors, bypass = zip(*entries)
    return Places(torch.tensor(rows), torch.tensor(positions), torch.stack(vectors), torch.stack(bypass))


@contextmanager
def bypassed(clip: Any, places: Mapping[str, Places]):
    """Within, CLIP's text states carry the bypass: before the final norm, where its layer has one."""
    with ExitStack() as stack:
        for name, encoder in text_towers_of(clip).items():
            here = places[name]
            norm = encoder.transformer.text_model.final_layer_norm
            stack.callback(norm.register_forward_pre_hook(_before_norm(here)).remove)
            stack.callback(encoder.register_forward_hook(_after_encoder(here)).remove)
        yield


def _moved(states: torch.Tensor, places: Places) -> torch.Tensor:
    device = states.device
    return with_bypass(
        states,
        Places(
            places.prompts.to(device), places.positions.to(device), places.vectors, places.bypass.to(device)
        ),
    )


def _before_norm(places: Places) -> Any:
    return lambda _module, inputs: (_moved(inputs[0], places), *inputs[1:])


def _after_encoder(places: Places) -> Any:
    def hook(encoder: Any, _inputs: Any, output: Any) -> Any:
        if encoder.layer == "last" or encoder.layer_norm_hidden_state:
            return output  # the norm's hook has done it
        return _moved(output[0], places), *output[1:]

    return hook


# ----------------------------------------------------------------------------------- keys apart from values


def with_split_values(model: Any) -> Any:
    """A clone of MODEL whose cross-attention makes values from VALUES, in the entries that carry them."""
    model = model.clone()
    kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
    if not model.wrappers.get(kind, {}).get(_KEY):
        model.add_wrapper_with_key(kind, _KEY, partial(_hand_over, model_sites(model)))
    return model


def staged_values(context: torch.Tensor, about: Mapping[str, Any]) -> torch.Tensor:
    """The context that an entry's values are made from, as long as its own context (1, T, D).

    Stock nodes change the context and leave the rest as it is. Rows they append (Conditioning, Concat) keep
    their own values; what they change of ours (Conditioning, Average) moves values as it moves keys.
    """
    if VALUES not in about:
        return context
    values, keys = about[VALUES], about.get(_KEYS)
    front = context[:, : values.shape[1]]
    values = values[:, : front.shape[1]].to(front)
    if keys is not None and keys is not context:
        written = keys[:, : front.shape[1]].to(front)
        if not torch.equal(front, written.expand_as(front)):
            values = values + (front - written)
    return torch.cat([values, context[:, front.shape[1] :]], 1)


def _hand_over(
    sites: Any, executor: Any, model: Any, conds: Any, x: Any, timestep: Any, model_options: Any
) -> Any:
    """Around ComfyUI's batching of prompts: brings in the values of those entries that have own ones."""
    sigma = float(timestep[0])
    conds = [group and [entry for entry in group if _due(entry, sigma)] for group in conds]
    entries = [entry for group in conds for entry in group or () if "cross_attn" in entry]
    offsets = {e["uuid"]: e[OFFSETS] for e in entries if OFFSETS in e}
    if offsets:
        options = model_options.get("transformer_options", {})
        users = sites.with_user(options, model.diffusion_model, "values", partial(moved_values, offsets))
        model_options = {**model_options, "transformer_options": users}
    values_by_uuid = {e["uuid"]: staged_values(e["cross_attn"], e) for e in entries if VALUES in e}
    if values_by_uuid:
        options = model_options.get("transformer_options", {})
        lengths = {e["uuid"]: e["cross_attn"].shape[1] for e in entries}

        def values(uuids: Sequence[Any], rows: int) -> SplitValues:
            # ComfyUI evens out lengths by repeating; what is longer than that, another patch has appended
            even = math.lcm(*(lengths.get(uuid, 1) for uuid in uuids))
            return SplitValues(*((rows // len(uuids), values_by_uuid.get(uuid)) for uuid in uuids), even=even)

        users = sites.with_user(options, model.diffusion_model, "values", values)
        model_options = {**model_options, "transformer_options": users}
    return executor(model, conds, x, timestep, model_options)


def _due(entry: Mapping[str, Any], sigma: float) -> bool:
    """Whether ComfyUI may use the entry at this noise level; others' entries it is left to find out itself.

    It compares tensors for it, twice for each of our many stages: that costs as much as a layer, and on a
    GPU waits for it each time. What lies at a stage's very edge is its to decide.
    """
    if PLACES not in entry:
        return True
    start, end = entry.get("timestep_start"), entry.get("timestep_end")
    return (start is None or sigma <= start * (1 + _EDGE)) and (end is None or sigma >= end * (1 - _EDGE))


# -------------------------------------------------------------------------------------- pictures' features


def features_file(clip_vision: Any, concept: Concept, size: int) -> str:
    """A file with what a CLIP_VISION makes of the concept's pictures, for a training run."""
    pixels = examples_of([concept], size).pixels
    side = getattr(clip_vision, "image_size", 224)
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    ready = clip_pixels(pixels, side).to(clip_vision.load_device)
    embeds = clip_vision.model(pixel_values=ready, intermediate_output=-2)[2]
    data = safetensors.torch.save({"image_embeds": embeds.detach().float().cpu().contiguous()})
    path = temporary_folder("features") / f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    if not path.exists():
        with write_atomically(path) as unfinished:
            unfinished.write_bytes(data)
    return str(path)
