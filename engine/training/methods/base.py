"""What a concept-learning method is to the trainer, and what all methods would otherwise repeat."""

import logging
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...artifact import Artifact, Token
from ...bases.base import BaseModel, Rows, Tokens
from ...bases.conditioning import Conditioning
from ...bases.features import check_offered
from ...config import Job, Phase
from ...data.augment import mirrored
from ...data.buckets import bucketed_examples, one_bucket, sizes_of
from ...data.captions import prompt_of, with_placeholder
from ...data.concepts import Concept
from ...data.examples import Batch, Examples, examples_of, generator_for, mixed_seed, shuffled
from ...data.ragged import buckets_of
from ...errors import LikenessError
from ..capabilities import Capabilities
from ..drawing import PreviewDrawing, drawn
from ..kept_on_disk import kept_on_disk
from ..latents import AT_ONCE, LatentCache
from ..observer import Progress

__all__ = ["AT_ONCE", "Load", "Method", "single_phase"]

log = logging.getLogger(__name__)

FULL_SIZE = 256  # pixels a side from which on a base is one that people own
STATES_KEPT = 1024  # prompts whose states are kept where text is frozen
SIZE_STEP = 64  # pixels: what their sides are multiples of


@dataclass(frozen=True, kw_only=True)
class Load:
    """The network passes that a step of a method cannot avoid."""

    pictures: int  # rows that go through the U-Net, with gradients
    prompts: int  # that go through the text encoders
    teacher: int = 0  # rows that go through the U-Net once more, without gradients
    encoded: int = 0  # pictures that go through the autoencoder anew, because they are changed in every step


def _unheard(text: str) -> None:
    """Where nobody listens."""


class Method(nn.Module, ABC):
    """What differs between concept-learning methods; the rest is the trainer's."""

    plain_loss = False  # whose size, noise and times the job's recipe may change
    base_in_pieces = False  # the U-Net lies in pieces: only all processes together can run it

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__()
        check_offered(job.method, self.needs(job), base)
        _check_weights(job, base)
        if job.recipe.of_loss() and not self.plain_loss:
            raise LikenessError(f"{job.method} has a loss of its own; leave {job.recipe.of_loss()[0]} away")
        self.job = job
        self.base = base
        self.concepts = tuple(concepts)
        sides = job.resolutions or [job.resolution or base.resolution]
        self.sizes = [checked_size(side, base) for side in sides]  # pixels a side of squares, falling
        self.size = self.sizes[0]
        self.capabilities = self.capabilities_for(job)
        if job.mirror and not self.capabilities.mirroring:
            raise LikenessError(f"{job.method} decides itself what it mirrors; set mirror to false")
        if any(concept.class_pictures for concept in concepts) and not self.capabilities.class_pictures:
            raise LikenessError(
                f"{job.method} takes no pictures of the class to learn beside; leave the regularisation "
                "away, or learn with dreambooth-lora or custom-diffusion"
            )
        if job.caption_dropout and not self.capabilities.empty_prompts:
            raise LikenessError(
                f"{job.method} learns what words mean, and a prompt without them teaches it nothing; set "
                "caption_dropout to 0"
            )
        self.examples = self.examples_for(self.concepts)
        self._moments: LatentCache | None = None
        self.say: Callable[[str], None] = _unheard  # told what takes time before or between steps
        self._states: dict[str, Conditioning] = {}  # by prompt, where text is frozen
        self.kept = kept_on_disk(job, base)  # latents and text states, for other runs

    def examples_for(self, concepts: Sequence[Concept]) -> Examples:
        """The concepts' pictures, square or in buckets: all of them in each of the resolutions, the largest
        first."""
        if self.job.buckets and not self.capabilities.buckets:
            raise LikenessError(
                f"{self.job.method} needs all pictures in one size and has no buckets; set buckets to false, "
                "or leave it away"
            )
        bucketed = self.base.traits.buckets if self.job.buckets is None else self.job.buckets
        if len(self.sizes) > 1 and not self.capabilities.buckets:
            raise LikenessError(
                f"{self.job.method} needs all pictures in one size and learns at one resolution; give one"
            )
        if not bucketed or not self.capabilities.buckets or not concepts:
            parts = [examples_of(concepts, size) for size in self.sizes]
        else:
            buckets = [sizes_of(size, size_step(size, self.base)) for size in self.sizes]
            parts = [bucketed_examples(concepts, sizes) for sizes in buckets]
        return reduce(Examples.joined, parts)

    # ---------------------------------------------------------------------------- what each method answers

    @classmethod
    def needs(cls, job: Job) -> tuple[str, ...]:
        """What a base must offer beyond taking noise away, of `bases.features`, with the job's settings."""
        return ()

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The stretches of training, in order."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Everything trained in any phase, by the names that `Phase.learning_rates` uses."""

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is minimised. DDP wraps this object."""

    @abstractmethod
    def artifact(self) -> Artifact:
        """What was learned so far."""

    # ---------------------------------------------------------------------------- what a method may change

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        """What it can do with the job's settings; on an instance, `capabilities` knows the concepts too."""
        return Capabilities()

    def prepare(self, check: Callable[[], None]) -> None:
        """Work before the first step, on the training device; calls `check` often, which raises to stop."""
        self.cache_latents()

    def attach(self) -> None:
        """Puts what is trained onto the base, as a part of `prepare`; again possible on a copy."""

    def load(self, phase: Phase) -> Load:
        """What a step of the phase passes through the networks, in all processes together."""
        return Load(pictures=phase.batch_size, prompts=min(phase.batch_size, self.different_prompts))

    @property
    def different_prompts(self) -> int:
        """How many training prompts there are; equal ones in a batch are read once."""
        templates = getattr(self.job.settings, "templates", None)
        if templates is None or self.job.caption_shuffle:
            return sys.maxsize
        return len(self.concepts) * len(templates) + sum(map(len, self.captions))

    @property
    def drawn_at_once(self) -> int:
        """Pictures that it draws together before or while it learns."""
        return int(self.job.preview_every > 0)

    @property
    def anchor(self) -> str:
        """A placeholder that stands in this method's prompts."""
        return self.concepts[0].token if self.concepts else ""

    @property
    def captions(self) -> list[tuple[str, ...]]:
        """Of each picture of the concepts, in the order of the examples: choices of what is said of it."""
        pictures = [picture.captions for concept in self.concepts for picture in concept.pictures]
        return pictures * len(self.sizes)

    @property
    def longest_caption(self) -> str:
        shown = [one for concept in self.concepts for one in (*concept.pictures, *concept.class_pictures)]
        return max((text for one in shown for text in one.captions), key=len, default="")

    def begin_phase(self, phase: Phase) -> None:
        """Called before each phase; on resuming also before the phases that are done."""

    def ensure_ready(self, phase: Phase, number: int, check: Callable[[], None]) -> None:
        """Gets what the phase's `number`-th batch is the first to need; calls `check` often, which raises to
        stop."""

    def batch(self, phase: Phase, number: int) -> Batch:
        """The phase's `number`-th batch: the same for the same job, whatever happened before."""
        generator = generator_for(self.job.seed, phase.name, number)
        indices = self.batch_indices(torch.arange(len(self.examples)), phase, number)
        return self.make_batch(indices, self.prompts(indices, generator), generator)

    def batch_indices(self, choices: Tensor, phase: Phase, number: int) -> Tensor:
        """The phase's `number`-th pictures among `choices`: of one size, all as often as they are to come."""
        choices, seed = self._as_often(choices), (self.job.seed, phase.name)
        buckets = buckets_of(self.examples.pixels)
        if len(buckets[choices].unique()) == 1:
            return shuffled(choices, phase.batch_size, number, *seed)
        return one_bucket(buckets, choices, phase.batch_size, number, *seed)

    def _as_often(self, choices: Tensor) -> Tensor:
        """The concepts' pictures among `choices`, each as often as its folder says."""
        repeats = [picture.repeats for concept in self.concepts for picture in concept.pictures]
        repeats *= len(self.sizes)
        if all(often == 1 for often in repeats):
            return choices
        return choices.repeat_interleave(torch.tensor(repeats)[choices])

    def shard(self, phase: Phase, number: int, rank: int, world: int) -> Batch:
        """What process number `rank` of `world` works on of the phase's `number`-th batch."""
        return self.batch(phase, number).shard(rank, world)

    def prompts(self, indices: Tensor, generator: torch.Generator) -> tuple[str, ...]:
        """Training prompts for the examples: a caption, or one of the settings' templates each."""
        templates: list[str] = list(self.job.settings.templates)
        picked = torch.randint(len(templates), (len(indices),), generator=generator).tolist()
        owners = self.examples.concepts[indices].tolist()
        plain = tuple(templates[t].format(self.concepts[owner].token) for t, owner in zip(picked, owners))
        return self.captioned(plain, indices, generator)

    def captioned(
        self, prompts: Sequence[str], indices: Tensor, generator: torch.Generator
    ) -> tuple[str, ...]:
        """The prompts, with the pictures' own captions in the place of templates where they have some.

        Nothing is drawn from the generator: the step's noise is the same with captions and without.
        """
        captions, job = self.captions, self.job
        if not any(captions) and not job.caption_dropout:
            return tuple(prompts)
        chance = np.random.default_rng(mixed_seed("captions", generator.initial_seed()))
        worded = []
        for prompt, index, owner in zip(prompts, indices.tolist(), self.examples.concepts[indices].tolist()):
            if captions[index]:
                token = self.concepts[owner].token
                prompt = prompt_of(captions[index], token, chance, job.caption_shuffle, job.caption_keep)
            dropped = chance.random() < job.caption_dropout
            worded.append("" if dropped else prompt)
        return tuple(worded)

    def check_captions(self) -> None:
        """Raises for a caption that is longer than the method can look into, before the first step."""
        owners = self.examples.concepts.tolist()
        for texts, owner in zip(self.captions, owners):
            for text in texts:
                self.look_into(with_placeholder(text, self.concepts[owner].token))

    def look_into(self, prompt: str) -> None:
        """Finds the words of a training prompt that attention is read at, where the method does so; raises
        for a prompt that is too long for that."""

    def after_step(self, progress: Progress) -> None:
        """Called after each optimiser step."""

    def extra_state(self) -> dict[str, Tensor]:
        """What exact resuming needs beside parameters and optimiser: teachers, moving averages."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `extra_state` gave."""

    def rows(self) -> Rows:
        """The vectors that placeholders in prompts stand for."""
        return {}

    def preview(self, prompt: str, seed: int, check: Callable[[], None]) -> np.ndarray:
        """A picture (H, W, 3) uint8 drawn with what was learned so far."""
        return self.pictures([prompt], PreviewDrawing(seeds=[seed], check=check))[0]

    def close(self) -> None:
        """Takes everything off the base that the method put on it."""

    def hold_base_apart(self) -> None:
        """From now on the base, whose U-Net lies in pieces over the processes, is no part of this module."""
        base = self._modules.pop("base")
        object.__setattr__(self, "base", base)
        self.base_in_pieces = True

    # ---------------------------------------------------------------------------------- what methods share

    def make_batch(self, indices: Tensor, prompts: tuple[str, ...], generator: torch.Generator) -> Batch:
        """The examples with fresh noise and times from the generator."""
        pixels, masks = self.examples.pixels[indices], self.examples.masks[indices]
        shape = (len(indices), *self.base.latent_shape(*pixels.shape[-2:]))
        batch = Batch(
            pixels=pixels,
            masks=masks,
            prompts=prompts,
            concepts=self.examples.concepts[indices],
            prior=self.examples.prior[indices],
            indices=indices,
            noise=torch.randn(shape, generator=generator),
            posterior=torch.randn(shape, generator=generator),
            times=self.base.process.sample_times(len(indices), generator, latents=math.prod(shape[2:])),
            bucket=int(buckets_of(self.examples.pixels)[indices[0]]),
        )
        if not self.job.mirror:
            return batch
        return turned(batch, torch.rand(len(indices), generator=generator) < 0.5)

    def longest_prompt(self, encoder: str) -> int:
        """Tokens of a prompt that can be looked into."""
        return self.base.text.longest(encoder)

    def tokenize_prompt(self, prompt: str, rows: Rows, encoder: str) -> Tokens:
        """The tokens (1, T) of a training prompt whose words are looked into; raises for a long one."""
        tokens = self.base.tokenize([prompt], rows, encoder)
        longest = self.longest_prompt(encoder)
        if tokens.ids.shape[1] > longest:
            raise LikenessError(
                f"the training prompt '{prompt:.120}' is longer than the {longest - 2} tokens that "
                f"{self.job.method} can look into; shorten the caption or template"
            )
        return tokens

    def text_states(self, prompts: Sequence[str]) -> Conditioning:
        """What the prompts say; computed only once where nothing in it is trained."""
        if self.capabilities.trained_text:
            return self.base.encode_text(prompts, self.rows())
        different = dict.fromkeys(prompts)
        if len(self._states.keys() | different) > STATES_KEPT:  # shuffled captions hardly come again
            self._states.clear()
        for prompt in different:
            if prompt not in self._states:
                self._states[prompt] = self._frozen_states(prompt)
        return Conditioning.cat([self._states[prompt] for prompt in prompts])

    def _frozen_states(self, prompt: str) -> Conditioning:
        if self.kept is not None:
            return self.kept.states(prompt, self.rows())
        with torch.no_grad():
            return self.base.encode_text([prompt], self.rows())

    def cache_latents(self) -> None:
        """Encodes all examples once, for methods that do not change the pixels from step to step."""
        self.say(f"reading {len(self.examples)} pictures into latents")
        self._moments = LatentCache(self.base, self.examples.pixels, both=self.mirrors, kept=self.kept)

    @property
    def mirrors(self) -> bool:
        """Whether its batches hold mirrored pictures."""
        return self.job.mirror

    def latents(self, batch: Batch) -> Tensor:
        """Latents (B, C, h, w) of the batch, at the place in the posterior that the batch says."""
        if self._moments is None:
            mean, std = self.base.encode_posterior(batch.pixels)
        else:
            mean, std = self._moments.of(batch)
        return mean + std * batch.posterior

    def pictures(self, prompts: Sequence[str], how: PreviewDrawing) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8 from the base as it is now."""
        model = self.base.model_wrapper(self.base, range(len(prompts)))
        with torch.no_grad():
            context = self.base.encode_text(prompts, self.rows())
        return drawn(self.base, model, context, how.size or (self.size, self.size), how)

    def learned(self, kind: str, tensors: Mapping[str, Tensor], vectors: Mapping[str, int]) -> Artifact:
        """An artifact of these tensors; `vectors`: how many rows each placeholder has."""
        return Artifact(
            kind=kind,
            method=self.job.method,
            tensors=dict(tensors),
            tokens=tuple(
                Token(token=c.token, class_word=c.class_word, role=c.role, vectors=vectors[c.token])
                for c in self.concepts
            ),
            base_family=self.base.family,
            base_fingerprint=self.base.fingerprint,
            settings=_plain(asdict(self.job.settings)) | self.job.recipe.unusual(),
            seed=self.job.seed,
        )


def checked_size(size: int, base: BaseModel) -> int:
    """The side of a square picture, once it is known that the base can learn at it."""
    base.latent_shape(size, size)  # raises where the size does not fit
    if size == base.resolution:  # whatever it is, the base was trained with it
        return size
    if base.traits.learned_sizes and base.resolution >= FULL_SIZE <= size:
        low, high = base.traits.learned_sizes
        if size > high or size % SIZE_STEP:
            near = min(max(low, round(size / SIZE_STEP) * SIZE_STEP), high)
            raise LikenessError(
                f"{base.traits.name} is not learned at {size} pixels a side; take a multiple of "
                f"{SIZE_STEP} from {low} to {high}, such as {near}"
            )
    return size


def size_step(size: int, base: BaseModel) -> int:
    """What the sides of buckets are multiples of, in pixels."""
    return SIZE_STEP if size >= FULL_SIZE else base.pixels_per_latent * base.denoiser.side_multiple


def turned(batch: Batch, which: Tensor) -> Batch:
    """The batch with left and right exchanged in `which` (B,) of its pictures, their masks alike."""
    side = which.view(-1, 1, 1, 1)
    pixels, masks = (torch.where(side, mirrored(part), part) for part in (batch.pixels, batch.masks))
    return replace(batch, pixels=pixels, masks=masks, mirrored=which)


def _check_weights(job: Job, base: BaseModel) -> None:
    """Refuses two weights of one error; says which weights or times mean nothing on the base."""
    by_snr = {"min_snr_gamma": getattr(job.settings, "min_snr_gamma", None), "debiased": job.recipe.debiased}
    asked = [name for name, value in by_snr.items() if value]
    if len(asked) > 1:
        raise LikenessError(
            "min_snr_gamma and debiased both say how much an error counts by its noise; set min_snr_gamma to "
            "null, or leave debiased away"
        )
    if asked and not base.process.weighs_by_snr:
        log.warning("%s says nothing on this base, whose process weighs all times alike", asked[0])
    if job.recipe.timestep_sampling == "uniform" and base.process.weighs_by_snr:
        log.warning("timestep_sampling says nothing on this base, whose timesteps are learned evenly anyway")


def single_phase(name: str, settings: Any, learning_rates: Mapping[str, float]) -> Phase:
    """The one phase of a method whose settings carry a phase's own steps, schedule, batches and clipping."""
    return Phase(
        name=name,
        steps=settings.steps,
        learning_rates=learning_rates,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        max_grad_norm=settings.max_grad_norm,
        weight_decay=settings.weight_decay,
    )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
