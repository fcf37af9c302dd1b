"""A concept whose words change with the noise level, and a base model that samples with it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..bases.conditioning import Conditioning
from ..bases.text.prompt_weights import weighed
from .mapper import Mapper
from .stages import LAST_TIMESTEP, Stage, StagePlan
from .text import Places, TextStates, nowhere

StagedRows = Mapping[str, Mapping[str, Tensor]]  # vectors (n, D) by placeholder, then by text encoder


@dataclass(frozen=True, kw_only=True)
class StagedWords:
    """Pseudo-words of one placeholder: their vectors at every noise level."""

    token: str  # as typed in prompts: <v0>
    class_word: str
    mapper: Mapper
    class_rows: Mapping[str, Tensor]  # (D,) by text encoder
    norms: Mapping[str, float]  # of the pseudo-words' vectors, by text encoder
    image: Tensor  # (W,) the feature of the picture that the person is drawn after
    plan: StagePlan = field(default_factory=StagePlan)
    fixed: float | None = None  # a single timestep for all stages; None: each its own
    bypass: float = 1.0  # strength of what the picture adds; 0: values equal keys

    @torch.no_grad()
    def at(self, timestep: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Token vectors and bypass by text encoder, each (words, D)."""
        device = self.mapper.input_layer.weight.device
        when = torch.tensor([timestep if self.fixed is None else self.fixed], device=device)
        rows = {name: row.to(device) for name, row in self.class_rows.items()}
        vectors, bypass = self.mapper(when, rows, self.norms, self.image.to(device)[None])
        return (
            {name: row[0] for name, row in vectors.items()},
            {name: row[0] * self.bypass for name, row in bypass.items()},
        )


def with_class_word(prompt: str, words: StagedWords) -> str:
    """The prompt as it reads where the class word stands in for the placeholder."""
    return prompt.replace(words.token, words.class_word)


class StagedModel:
    """A base model for sampling whose text states follow the noise level; otherwise as the base itself."""

    def __init__(
        self, base: Any, prompts: Sequence[str], rows: StagedRows, concepts: Sequence[StagedWords]
    ) -> None:
        self.process = base.process
        self._base = base
        self._prompts = tuple(prompts)
        self._rows = rows
        self._concepts = tuple(concepts)
        self._length = self._common_length()
        self._known: dict[tuple[Stage, ...], Conditioning] = {}

    def context(self) -> Conditioning:
        """What the N prompts say in the first steps, for a sampler's bookkeeping."""
        return self.states(LAST_TIMESTEP)

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """As the base's; the last N prompts are replaced by what they say now."""
        states = self.states(int(self.process.published_timestep(t[:1])))
        others = conditioning.rows(slice(len(conditioning) - len(self._prompts)))
        # its length is a multiple of our own, where another prompt is longer
        staged = states.lengthened(conditioning.length).to(conditioning.states.dtype)
        return self._base.predict(noisy, t, Conditioning.cat([others, staged]))

    def _common_length(self) -> int:
        """How many text states all stages have: a multiple of what each needs."""
        name, lengths = next(iter(self._base.text_encoders)), []
        for spoken in product((True, False), repeat=len(self._concepts)):
            prompts, rows = self._prompts, dict(self._rows)
            for words, dynamic in zip(self._concepts, spoken):
                if dynamic:
                    rows[words.token] = {name: torch.zeros(words.mapper.words, 1)}
                else:
                    prompts = tuple(with_class_word(prompt, words) for prompt in prompts)
            lengths.append(self._base.tokenize(prompts, rows, name, weights=True).ids.shape[1])
        return math.lcm(*lengths)

    def places_taken(self, timestep: int) -> dict[str, dict[str, Tensor]]:
        """For each placeholder as many empty rows (n, 1), by text encoder, as it takes at a timestep."""
        taken = {}
        for words in self._concepts:
            spoken = words.plan.at(timestep).timestep is not None
            class_rows = self._base.word_rows(words.class_word)
            counts = {name: words.mapper.words if spoken else len(rows) for name, rows in class_rows.items()}
            taken[words.token] = {name: torch.zeros(count, 1) for name, count in counts.items()}
        return taken

    def states(self, timestep: int) -> Conditioning:
        """What the prompts say at a timestep; every stage is encoded once, when it is first met."""
        stages = tuple(words.plan.at(timestep) for words in self._concepts)
        if stages not in self._known:
            self._known[stages] = self._encode(stages).lengthened(self._length)
        return self._known[stages]

    def _encode(self, stages: Sequence[Stage]) -> Conditioning:
        prompts = self._prompts
        dynamic: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        for words, stage in zip(self._concepts, stages):
            if stage.timestep is None:
                prompts = tuple(with_class_word(prompt, words) for prompt in prompts)
            else:
                dynamic[words.token] = words.at(stage.timestep)
        rows = {**self._rows, **{token: vectors for token, (vectors, _) in dynamic.items()}}
        if not dynamic:
            return self._base.encode_text(prompts, self._rows, weights=True)
        parts = []
        for name in self._base.text_encoders:
            tokens = self._base.tokenize(prompts, rows, name, weights=True)
            added = {token: bypass[name] for token, (_, bypass) in dynamic.items()}
            here = {token: row[name] for token, row in rows.items()}
            places = places_of(tokens, here, added, self._base.device)
            states = self._base.text.encode_staged(name, tokens.ids.to(self._base.device), places)
            parts.append(states if tokens.weights is None else self._weighed(states, name, tokens.weights))
        pooled = None
        if self._base.text.pooled:
            # the pooled vector has no room for what changes with the noise: it is the class word's
            for words in self._concepts:
                prompts = tuple(with_class_word(prompt, words) for prompt in prompts)
            pooled = self._base.encode_text(prompts, weights=True).pooled
        return self._base.text.said(parts, pooled)

    def _weighed(self, states: TextStates, name: str, weights: Tensor) -> TextStates:
        """The states with each word counting as the prompts' brackets say."""
        text = self._base.text
        ids = text.empty_chunk(name)[None].to(self._base.device)
        (nothing,) = text.encode_staged(name, ids, nowhere(ids)).keys
        nothing = nothing.repeat(states.keys.shape[1] // len(nothing), 1)
        keys, values = (weighed(part, weights, nothing) for part in (states.keys, states.values))
        return TextStates(keys, keys if states.values is states.keys else values)


def places_of(
    tokens: Any, vectors: Mapping[str, Tensor], bypass: Mapping[str, Tensor], device: torch.device
) -> Places:
    """Where tokenised prompts hold placeholders, and each one's vector (n, D) and bypass, if it has any."""
    rows = [vectors[name][number].to(device) for _, _, name, number in tokens.places]
    moved = next(iter(bypass.values())).shape[-1]
    added = [
        bypass[name][number].to(device) if name in bypass else torch.zeros(moved, device=device)
        for _, _, name, number in tokens.places
    ]
    width = next(iter(vectors.values())).shape[-1]
    none = torch.zeros(0, width, device=device)
    return Places(
        torch.tensor([place[0] for place in tokens.places], device=device, dtype=torch.long),
        torch.tensor([place[1] for place in tokens.places], device=device, dtype=torch.long),
        torch.stack(rows) if rows else none,
        torch.stack(added) if added else none,
    )
