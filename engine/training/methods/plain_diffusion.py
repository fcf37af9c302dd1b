"""What methods share that learn from the plain diffusion loss, some beside pictures of the class."""

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from ...bases.base import BaseModel, Rows
from ...config import Job, Phase
from ...data.concepts import Concept
from ...data.examples import Batch, Examples, fitted_pixels, generator_for, shuffled
from ...data.ragged import buckets_of, put, together
from ...errors import LikenessError
from ..capabilities import Capabilities
from ..class_pictures import ClassPictures, GivenPictures, by_size
from ..latents import LatentCache
from ..losses import latent_masks, masked_squared_error, mean_where, pseudo_huber, squared_error
from ..observer import Progress
from ..tokens import TokenRows
from .base import AT_ONCE, Load, Method


class PlainDiffusion(Method):
    """Learns from the plain diffusion loss; methods differ in what they train and on which pictures."""

    tokens: TokenRows
    plain_loss = True

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        return Capabilities(
            half=True, checkpointing=True, splitting=True, buckets=True, mirroring=True, hooked_layers=False
        )

    def rows(self) -> Rows:
        return self.tokens.rows()

    def make_batch(self, indices: Tensor, prompts: tuple[str, ...], generator: torch.Generator) -> Batch:
        batch, recipe = super().make_batch(indices, prompts, generator), self.job.recipe
        if recipe.noise_offset:  # one number for each channel (Guttenberg 2023)
            shift = torch.randn(*batch.noise.shape[:2], 1, 1, generator=generator)
            batch = replace(batch, noise=batch.noise + recipe.noise_offset * shift)
        uniform = recipe.timestep_sampling == "uniform"
        if uniform or (recipe.least_noise, recipe.most_noise) != (0.0, 1.0):
            times = self.base.process.sample_times(
                len(indices), generator, recipe.least_noise, recipe.most_noise,
                latents=math.prod(batch.noise.shape[2:]), uniform=uniform,
            )  # fmt: skip
            batch = replace(batch, times=times)
        return batch

    def errors(self, batch: Batch) -> Tensor:
        """The diffusion loss of each example: (B,)."""
        settings, recipe = self.job.settings, self.job.recipe
        huber = recipe.huber
        latents = self.latents(batch)
        noisy = self.base.process.add_noise(latents, batch.noise, batch.times)
        context = self.text_states(batch.prompts)
        prediction = self.base.predict(noisy, batch.times, context)
        target = self.base.process.target(latents, batch.noise, batch.times)
        if settings.masked_loss:
            mask = latent_masks(batch.masks, latents)
            error = masked_squared_error(prediction, target, mask, settings.background_weight, huber)
        elif huber is not None:
            error = pseudo_huber(prediction, target, huber).flatten(1).mean(1)
        else:
            error = squared_error(prediction, target)
        return error * self.base.process.loss_weight(batch.times, settings.min_snr_gamma, recipe.debiased)


class BesidePrior(PlainDiffusion):
    """Learns beside pictures of each concept's class that the untouched base drew (DreamBooth's prior
    preservation): the class stays what it was. They are drawn when a step first needs them."""

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        if any(concept.class_pictures for concept in concepts) and not job.settings.prior_weight:
            raise LikenessError(
                "pictures of the class are given, but prior_weight is 0: they would teach nothing; leave "
                "them away, or set prior_weight to 1"
            )
        self._classes: list[
            ClassPictures | GivenPictures
        ] = []  # of each concept in each size, as they lie in the examples
        self._lacking = torch.zeros(len(self.examples), dtype=torch.bool)  # (N,) examples not yet drawn

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        return replace(super().capabilities_for(job), empty_prompts=True, class_pictures=True)

    @abstractmethod
    def untouched(self) -> AbstractContextManager[None]:
        """Within, the base is what it was before `attach`."""

    def prepare(self, check: Callable[[], None]) -> None:
        if self.job.settings.prior_weight:
            self.examples = self.examples.joined(self._places_for_prior())
        self.attach()
        self.say(f"reading {int((~self._lacking).sum())} pictures into latents")
        self._moments = LatentCache(self.base, self.examples.pixels, self.mirrors, ~self._lacking, self.kept)
        # other processes would wait for one that stops in between; a compiled U-Net reads rows as in a step
        if torch.distributed.is_initialized() or self.job.compile or self.job.channels_last:
            self._draw_classes(self._lacking.nonzero()[:, 0], check)

    def _places_for_prior(self) -> Examples:
        """Pictures of each concept's class: those that are given, else black ones that are drawn later; which
        ones there will be is settled."""
        pixels: list[Tensor] = []
        owners, lacking = [], [False] * len(self.examples)
        templates = self.job.settings.prior_templates
        for owner, concept in enumerate(self.concepts):
            sizes = self._prior_sizes()
            given = by_size(concept.class_pictures, list(sizes))
            for size, count in sizes.items():
                if given:
                    others = GivenPictures.of(given[size], concept.class_word, templates)
                    pixels += [fitted_pixels(picture.pixels, *size) for picture in given[size]]
                else:
                    others = ClassPictures(self, concept.class_word, size, count)
                    pixels += [torch.zeros(3, *size)] * count
                self._classes.append(others)
                owners += [owner] * len(others)
                lacking += [not given] * len(others)
        self._lacking = torch.tensor(lacking)
        return Examples(
            pixels=together(pixels),
            masks=together([torch.ones_like(picture[:1]) for picture in pixels]),
            concepts=torch.tensor(owners),
            prior=torch.ones(len(owners), dtype=torch.bool),
        )

    def ensure_ready(self, phase: Phase, number: int, check: Callable[[], None]) -> None:
        _, prior = self._rows(phase, number)
        self._draw_classes(prior, check)

    def _draw_classes(self, examples: Tensor, check: Callable[[], None]) -> None:
        """Draws those of the wanted examples that are lacking, with those that are drawn beside them."""
        for example in examples[self._lacking[examples]].tolist():
            if self._lacking[example]:
                first, pictures, number = self._class_of(example)
                assert isinstance(pictures, ClassPictures)  # none of the given is lacking
                numbers = pictures.around(number)
                with self.untouched():
                    drawn = pictures.drawn(numbers, check)
                rows = torch.arange(first + numbers.start, first + numbers.stop)
                put(self.examples.pixels, rows, drawn)
                assert self._moments is not None
                self._moments.read(self.base, self.examples.pixels, rows)
                self._lacking[rows] = False

    def _class_of(self, example: int) -> tuple[int, ClassPictures | GivenPictures, int]:
        """Where its class's pictures begin among the examples, these pictures, and its number there."""
        first = int((~self.examples.prior).sum())
        for pictures in self._classes:
            if example < first + len(pictures):
                return first, pictures, example - first
            first += len(pictures)
        raise IndexError(example)

    def _prior_sizes(self) -> dict[tuple[int, int], int]:
        """How many pictures of the class are drawn in which (height, width): as the concepts' own are."""
        sizes = Counter((picture.shape[1], picture.shape[2]) for picture in self.examples.pixels)
        prior_pictures = self.job.settings.prior_pictures
        return {size: max(1, round(prior_pictures * count / sizes.total())) for size, count in sizes.items()}

    def _rows(self, phase: Phase, number: int) -> tuple[Tensor, Tensor]:
        """Which examples the batch holds: pictures of the concepts, and of their classes."""
        concept_rows = self.batch_indices((~self.examples.prior).nonzero()[:, 0], phase, number)
        if not self.job.settings.prior_weight:
            return concept_rows, concept_rows[:0]
        buckets = buckets_of(self.examples.pixels)
        pool = (self.examples.prior & (buckets == buckets[concept_rows[0]])).nonzero()[:, 0]
        seed = ("prior", self.job.seed, phase.name)
        return concept_rows, shuffled(pool, self.job.settings.prior_batch_size, number, *seed)

    def batch(self, phase: Phase, number: int) -> Batch:
        """`batch_size` pictures of the concepts, then `prior_batch_size` of their classes."""
        generator = generator_for(self.job.seed, phase.name, number)
        concept_rows, prior = self._rows(phase, number)
        self._draw_classes(prior, _unhurried)
        prompts = self.prompts(concept_rows, generator)
        for example in prior.tolist():  # a prior picture keeps the prompt it was drawn from
            _, pictures, place = self._class_of(example)
            prompts += (pictures.prompts[place],)
        return self.make_batch(torch.cat([concept_rows, prior]), prompts, generator)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        errors = self.errors(batch)
        losses = {"diffusion": mean_where(errors, ~batch.prior)}
        if self.job.settings.prior_weight:
            losses["prior"] = self.job.settings.prior_weight * mean_where(errors, batch.prior)
        return losses

    def load(self, phase: Phase) -> Load:
        settings, plain = self.job.settings, super().load(phase)
        if not settings.prior_weight:
            return plain
        different = len(self.concepts) * len(settings.prior_templates)
        different += sum(len(concept.class_pictures) for concept in self.concepts)  # with captions of theirs
        prompts = min(settings.prior_batch_size, different)
        return Load(pictures=plain.pictures + settings.prior_batch_size, prompts=plain.prompts + prompts)

    @property
    def drawn_at_once(self) -> int:
        settings = self.job.settings
        return min(AT_ONCE, settings.prior_pictures) if settings.prior_weight else super().drawn_at_once

    def rows_each(self) -> dict[str, int]:
        """How many rows each placeholder has."""
        return {token: len(next(iter(rows.values()))) for token, rows in self.rows().items()}


def _unhurried() -> None:
    """For work that nobody stops."""
