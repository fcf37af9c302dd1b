"""What a concept-learning method is to the trainer, and what all methods would otherwise repeat."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...artifact import Artifact, Token
from ...bases.base import BaseModel, Rows, Tokens
from ...bases.sampling import sample, seeded_noise, to_bytes
from ...bases.text.chunks import evened
from ...config import Job, Phase
from ...data.augment import mirrored
from ...data.buckets import bucketed_examples, one_bucket, sizes_of
from ...data.concepts import Concept
from ...data.examples import Batch, Examples, examples_of, generator_for, shuffled
from ...data.ragged import buckets_of
from ...errors import LikenessError
from ..latents import AT_ONCE, Moments
from ..observer import Progress

__all__ = ["AT_ONCE", "Load", "Method", "single_phase"]

FULL_SIZE = 256  # pixels a side from which on a base is one that people own
SIZE_STEP = 64  # pixels: what their sides are multiples of
PREVIEW_STEPS = 20
PREVIEW_GUIDANCE = 5.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """The network passes that a step of a method cannot avoid."""

    pictures: int  # rows that go through the U-Net, with gradients
    prompts: int  # that go through the text encoders
    teacher: int = 0  # rows that go through the U-Net once more, without gradients
    encoded: int = 0  # pictures that go through the autoencoder anew, because they are changed in every step


class Method(nn.Module, ABC):
    """What differs between concept-learning methods; the rest is the trainer's."""

    # what the memory ladder may do; a method says yes once its gradients are known to stay the same
    can_halve = False  # the frozen networks in bf16
    can_checkpoint = False  # the U-Net's inner states computed again: no hook may be gone by then
    can_split = False  # the rows of a step through the U-Net in parts
    can_estimate = True  # what it holds can be copied, to find out what a step needs
    caches_latents = True  # the autoencoder is not needed from step to step
    trains_text = True  # gradients go through the text encoders
    copies = 0  # of what is trained: teachers, averages
    can_bucket = False  # its batches may hold pictures of any one size; else all are cropped to squares
    can_mirror = False  # the job may ask it to learn pictures mirrored too
    hooks_layers = True  # a step hangs hooks into the U-Net's layers: it cannot be compiled as a whole
    can_shard_base = False  # the U-Net may lie in pieces: nothing in it is trained or changed
    base_in_pieces = False  # it does: only all processes together can run it

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__()
        self.job = job
        self.base = base
        self.concepts = tuple(concepts)
        self.size = checked_size(job.resolution or base.resolution, base)  # pixels a side of a square
        if job.mirror and not self.can_mirror:
            raise LikenessError(f"{job.method} decides itself what it mirrors; set mirror to false")
        self.examples = self._read()
        self._moments: Moments | None = None
        self._states: dict[str, Tensor] = {}  # text states (1, T, D) by prompt, where text is frozen

    def _read(self) -> Examples:
        """The concepts' pictures, square or in buckets."""
        if self.job.buckets and not self.can_bucket:
            raise LikenessError(
                f"{self.job.method} needs all pictures in one size and has no buckets; set buckets to false, "
                "or leave it away"
            )
        wanted = self.base.traits.buckets if self.job.buckets is None else self.job.buckets
        if not wanted or not self.can_bucket or not self.concepts:
            return examples_of(self.concepts, self.size)
        return bucketed_examples(self.concepts, sizes_of(self.size, size_step(self.size, self.base)))

    # ---------------------------------------------------------------------------- what each method answers

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
        return sys.maxsize if templates is None else len(self.concepts) * len(templates)

    @property
    def drawn_at_once(self) -> int:
        """Pictures that it draws together before or while it learns."""
        return int(self.job.preview_every > 0)

    @property
    def anchor(self) -> str:
        """A placeholder that stands in this method's prompts."""
        return self.concepts[0].token if self.concepts else ""

    def begin_phase(self, phase: Phase) -> None:
        """Called before each phase; on resuming also before the phases that are done."""

    def fetch(self, phase: Phase, number: int, check: Callable[[], None]) -> None:
        """Gets what the phase's `number`-th batch is the first to need; calls `check` often, which raises to
        stop."""

    def batch(self, phase: Phase, number: int) -> Batch:
        """The phase's `number`-th batch: the same for the same job, whatever happened before."""
        generator = generator_for(self.job.seed, phase.name, number)
        indices = self.turn(torch.arange(len(self.examples)), phase, number)
        return self.draw(indices, self.prompts(indices, generator), generator)

    def turn(self, choices: Tensor, phase: Phase, number: int) -> Tensor:
        """The phase's `number`-th pictures among `choices`: of one size, and all equally often."""
        seed = (self.job.seed, phase.name)
        buckets = buckets_of(self.examples.pixels)
        if len(buckets[choices].unique()) == 1:
            return shuffled(choices, phase.batch_size, number, *seed)
        return one_bucket(buckets, choices, phase.batch_size, number, *seed)

    def share(self, phase: Phase, number: int, rank: int, world: int) -> Batch:
        """What process number `rank` of `world` works on of the phase's `number`-th batch."""
        return self.batch(phase, number).shard(rank, world)

    def prompts(self, indices: Tensor, generator: torch.Generator) -> tuple[str, ...]:
        """Training prompts for the examples: one of the settings' templates each."""
        templates: list[str] = list(self.job.settings.templates)
        picked = torch.randint(len(templates), (len(indices),), generator=generator).tolist()
        owners = self.examples.concepts[indices].tolist()
        return tuple(templates[t].format(self.concepts[owner].token) for t, owner in zip(picked, owners))

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
        return self.pictures([prompt], [seed], PREVIEW_STEPS, PREVIEW_GUIDANCE, check)[0]

    def close(self) -> None:
        """Takes everything off the base that the method put on it."""

    def hold_base_apart(self) -> None:
        """From now on the base, whose U-Net lies in pieces over the processes, is no part of this module."""
        base = self._modules.pop("base")
        object.__setattr__(self, "base", base)
        self.base_in_pieces = True

    # ---------------------------------------------------------------------------------- what methods share

    def draw(self, indices: Tensor, prompts: tuple[str, ...], generator: torch.Generator) -> Batch:
        """The examples with fresh noise and timesteps from the generator."""
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
            timesteps=torch.randint(self.base.timesteps, (len(indices),), generator=generator),
            bucket=int(buckets_of(self.examples.pixels)[indices[0]]),
        )
        if not self.job.mirror:
            return batch
        return turned(batch, torch.rand(len(indices), generator=generator) < 0.5)

    def spelled(self, prompt: str, rows: Rows, encoder: str) -> Tokens:
        """The tokens (1, T) of a training prompt whose words are looked into; raises for a long one."""
        tokens = self.base.tokenize([prompt], rows, encoder)
        longest = self.base.text_encoders[encoder].config.max_position_embeddings
        if tokens.ids.shape[1] > longest:
            raise LikenessError(
                f"the training prompt '{prompt}' is longer than the {longest - 2} tokens that "
                f"{self.job.method} can look into; shorten the template"
            )
        return tokens

    def text_states(self, prompts: Sequence[str]) -> Tensor:
        """The prompts' text states (B, T, D); computed only once where nothing in them is trained."""
        if self.trains_text:
            return self.base.encode_text(prompts, self.rows())
        for prompt in prompts:
            if prompt not in self._states:
                with torch.no_grad():
                    self._states[prompt] = self.base.encode_text([prompt], self.rows())
        return torch.cat(evened([self._states[prompt] for prompt in prompts], self.base.tail))

    def cache_latents(self) -> None:
        """Encodes all examples once, for methods that do not change the pixels from step to step."""
        self._moments = Moments(self.base, self.examples.pixels, both=self.mirrors)

    @property
    def mirrors(self) -> bool:
        """Whether its batches hold mirrored pictures."""
        return self.job.mirror

    def latents(self, batch: Batch) -> Tensor:
        """Latents (B, C, h, w) of the batch, at the place in the posterior that the batch says."""
        if self._moments is None:
            mean, std = self.base.encode_moments(batch.pixels)
        else:
            mean, std = self._moments.of(batch)
        return mean + std * batch.posterior

    @torch.no_grad()
    def pictures(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        check: Callable[[], None],
    ) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8 from the base as it is now."""
        return self.drawn_at((self.size, self.size), prompts, seeds, steps, guidance, check)

    @torch.no_grad()
    def drawn_at(
        self,
        size: tuple[int, int],
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        check: Callable[[], None],
    ) -> np.ndarray:
        """The same in another (height, width)."""
        latents = sample(
            self.base.with_people(self.base, range(len(prompts))),
            self.base.encode_text(prompts, self.rows()),
            self.base.encode_text([""] * len(prompts)),
            seeded_noise(seeds, self.base.latent_shape(*size)).to(self.base.device),
            steps=steps,
            guidance=guidance,
            on_step=lambda done, total: check(),
        )
        return to_bytes(self.base.decode(latents))

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
            settings=_plain(asdict(self.job.settings)),
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
    return SIZE_STEP if size >= FULL_SIZE else base.pixels_per_latent * 2 ** (len(base.unet.down_blocks) - 1)


def turned(batch: Batch, which: Tensor) -> Batch:
    """The batch with left and right exchanged in `which` (B,) of its pictures, their masks alike."""
    side = which.view(-1, 1, 1, 1)
    pixels, masks = (torch.where(side, mirrored(part), part) for part in (batch.pixels, batch.masks))
    return replace(batch, pixels=pixels, masks=masks, mirrored=which)


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
