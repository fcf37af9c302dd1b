"""Staged embeddings in joint attention: each stage's entry says what its words' values are moved by."""

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ..bases.families import FAMILIES
from ..bases.process.flow import flux2_flow
from ..staged.stages import StagePlan
from ..staged.text import ValueOffsets
from .weights import kind_of
from .words import asked_before

OFFSETS = "likeness_offsets"  # in a CONDITIONING entry: rows (1, P, W), and the text states they move
_TOGETHER = 8  # prompts that go through a language model at once

# chunk of all prompts', position in it, vector and bypass of a word
Stand = tuple[int, int, Tensor, Tensor]


def value_width(model: Any) -> int | None:
    """How wide the rows are that move values of text in a MODEL's joint attention; None: it has none."""
    network = model.model.diffusion_model
    if hasattr(network, "double_blocks"):
        return network.hidden_size
    if hasattr(network, "txtfusion"):
        layer = network.blocks[0].attn
        return layer.heads * layer.headdim
    return network.dim if hasattr(network, "cap_pad_token") else None


def percents(model: Any, plan: StagePlan) -> list[tuple[float, float]]:
    """Start and end of every stage as this MODEL counts noise levels."""
    sampling = model.get_model_object("model_sampling")  # as other nodes have shifted it
    if not isinstance(sampling, comfy.model_sampling.CONST):
        return plan.percents()
    process = flux2_flow(FAMILIES[kind_of(model)].noise_scale)
    # half-way between two timesteps, as there
    levels = [process.published_time(stage.low - 0.5) for stage in plan.all()[:-1]]
    edges = [0.0, *(percent_at(sampling, level) for level in levels), 1.0]
    return list(zip(edges[:-1], edges[1:]))


def percent_at(sampling: Any, level: float) -> float:
    """The share from 0 to 1 at which a model's sampling has a noise level, however it is shifted."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > level else (low, middle)
    return low


def encoded_by_few(clip: Any, batch: Mapping[str, Sequence[Any]]) -> Tensor:
    """Text states (S, T, D) of S prompts of one chunk each, by a language model, a few at once."""
    ((name, chunks),) = batch.items()
    # what is asked before a prompt is cut off once for all that are read together
    parts, together = [], 1 if asked_before(clip) else _TOGETHER
    for start in range(0, len(chunks), together):
        few = chunks[start : start + together]
        states = clip.encode_from_tokens({name: few})
        parts.append(states.reshape(len(few), -1, states.shape[-1]))
    return torch.cat(parts)


def stages_offsets(stands: Sequence[Stand], stages: int) -> list[dict[str, Any]]:
    """What the entry of each stage says of its words' values."""
    entries: list[dict[str, Any]] = []
    for stage in range(stages):
        here = [(position, bypass) for row, position, _, bypass in stands if row == stage]
        if not any(bypass.any() for _, bypass in here):
            entries.append({})
            continue
        positions, rows = zip(*here)
        entries.append({OFFSETS: (torch.stack(rows)[None], torch.tensor(positions)[None])})
    return entries


def moved_values(
    entries: Mapping[Any, tuple[Tensor, Tensor]], uuids: Sequence[Any], rows: int
) -> ValueOffsets:
    """Who moves the values of a batch's prompts, of some of which nothing is moved."""
    count = max((at.shape[1] for _, at in entries.values()), default=0)
    width = next(iter(entries.values()))[0].shape[-1]
    moved, places = [], []
    for uuid in uuids:
        offsets, at = entries.get(uuid, (torch.zeros(1, 0, width), torch.zeros(1, 0, dtype=torch.long)))
        more, each = count - at.shape[1], rows // len(uuids)
        moved.append(torch.nn.functional.pad(offsets, (0, 0, 0, more)).expand(each, -1, -1))
        places.append(torch.nn.functional.pad(at, (0, more)).expand(each, -1))
    return ValueOffsets(torch.cat(moved), torch.cat(places))
