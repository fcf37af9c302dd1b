"""Methods that others are compared with: Textual Inversion and DreamBooth-LoRA; what they share."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...artifact import Artifact
from ...config import DreamBoothLoraSettings, Job, Phase, TextualInversionSettings
from ...data.concepts import Concept
from ...data.examples import Batch, Examples, generator_for, mixed_seed, shuffled
from ...data.ragged import buckets_of, together
from ...files import write_atomically
from .. import lora
from ..base_model import BaseModel, Rows
from ..losses import latent_masks, masked_squared_error, mean_where, squared_error
from ..observer import Progress
from ..tokens import TokenRows, initial_rows
from .base import AT_ONCE, Load, Method, single_phase

log = logging.getLogger(__name__)


class _Baseline(Method):
    """Both learn from the plain diffusion loss; they differ in what they train and on which pictures."""

    tokens: TokenRows
    can_halve = can_checkpoint = can_split = can_bucket = can_mirror = True
    hooks_layers = False

    def rows(self) -> Rows:
        return self.tokens.rows()

    def errors(self, batch: Batch) -> Tensor:
        """The diffusion loss of each example: (B,)."""
        settings = self.job.settings
        latents = self.latents(batch)
        noisy = self.base.add_noise(latents, batch.noise, batch.timesteps)
        context = self.text_states(batch.prompts)
        prediction = self.base.predict(noisy, batch.timesteps, context)
        target = self.base.target(latents, batch.noise, batch.timesteps)
        if settings.masked_loss:
            mask = latent_masks(batch.masks, latents)
            error = masked_squared_error(prediction, target, mask, settings.background_weight)
        else:
            error = squared_error(prediction, target)
        return error * self.base.snr_weights(batch.timesteps, settings.min_snr_gamma)


class TextualInversion(_Baseline):
    """Textual Inversion (Gal et al. 2022): only the placeholder's vectors are trained."""

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.settings: TextualInversionSettings = job.settings
        self.tokens = TokenRows(
            {c.token: initial_rows(base, c.class_word, self.settings.vectors) for c in self.concepts}
        )

    def phases(self) -> Sequence[Phase]:
        return [single_phase("inversion", self.settings, {"tokens": self.settings.learning_rate})]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"tokens": list(self.tokens.parameters())}

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"diffusion": self.errors(batch).mean()}

    def artifact(self) -> Artifact:
        vectors = {c.token: self.settings.vectors for c in self.concepts}
        return self.learned("embedding", self.tokens.tensors(), vectors)


class BesidePrior(_Baseline):
    """Learns beside pictures of each concept's class that the untouched base drew (DreamBooth's prior
    preservation): the class stays what it was."""

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self._prior_prompts: list[str] = []  # what each picture of the class was drawn from

    def join_prior(self, check: Callable[[], None]) -> None:
        """Adds the class's pictures to the examples, unless the settings give them no weight."""
        if self.job.settings.prior_weight:
            self.examples = self.examples.joined(self._prior_examples(check))

    def _prior_examples(self, check: Callable[[], None]) -> Examples:
        """Pictures of each concept's class, drawn by the base before anything is trained."""
        pixels, owners = [], []
        for owner, concept in enumerate(self.concepts):
            for size, count in self._prior_sizes().items():
                drawn = prior_pictures(self, concept.class_word, check, size, count)
                pixels += list(torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1)
                owners += [owner] * count
                self._prior_prompts += [self._prior_prompt(concept.class_word, n) for n in range(count)]
        return Examples(
            pixels=together(pixels),
            masks=together([torch.ones_like(picture[:1]) for picture in pixels]),
            concepts=torch.tensor(owners),
            prior=torch.ones(len(owners), dtype=torch.bool),
        )

    def _prior_sizes(self) -> dict[tuple[int, int], int]:
        """How many pictures of the class are drawn in which (height, width): as the concepts' own are."""
        own = Counter((picture.shape[1], picture.shape[2]) for picture in self.examples.pixels)
        wanted = self.job.settings.prior_pictures
        return {size: max(1, round(wanted * count / own.total())) for size, count in own.items()}

    def batch(self, phase: Phase, number: int) -> Batch:
        """`batch_size` pictures of the concepts, then `prior_batch_size` of their classes."""
        generator = generator_for(self.job.seed, phase.name, number)
        own = self.turn((~self.examples.prior).nonzero()[:, 0], phase, number)
        prompts = self.prompts(own, generator)
        if not self.job.settings.prior_weight:
            return self.draw(own, prompts, generator)
        buckets = buckets_of(self.examples.pixels)
        pool = (self.examples.prior & (buckets == buckets[own[0]])).nonzero()[:, 0]
        seed = ("prior", self.job.seed, phase.name)
        prior = shuffled(pool, self.job.settings.prior_batch_size, number, *seed)
        # a prior picture keeps the prompt it was drawn from
        first = len(self.examples) - len(self._prior_prompts)
        prompts += tuple(self._prior_prompts[place - first] for place in prior.tolist())
        return self.draw(torch.cat([own, prior]), prompts, generator)

    def _prior_prompt(self, class_word: str, number: int) -> str:
        templates = self.job.settings.prior_templates
        return templates[number % len(templates)].format(class_word)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        errors = self.errors(batch)
        losses = {"diffusion": mean_where(errors, ~batch.prior)}
        if self.job.settings.prior_weight:
            losses["prior"] = self.job.settings.prior_weight * mean_where(errors, batch.prior)
        return losses

    def load(self, phase: Phase) -> Load:
        chosen, own = self.job.settings, super().load(phase)
        if not chosen.prior_weight:
            return own
        prompts = min(chosen.prior_batch_size, len(self.concepts) * len(chosen.prior_templates))
        return Load(pictures=own.pictures + chosen.prior_batch_size, prompts=own.prompts + prompts)

    @property
    def drawn_at_once(self) -> int:
        chosen = self.job.settings
        return min(AT_ONCE, chosen.prior_pictures) if chosen.prior_weight else super().drawn_at_once

    def rows_each(self) -> dict[str, int]:
        """How many rows each placeholder has."""
        return {token: len(next(iter(rows.values()))) for token, rows in self.rows().items()}


class DreamBoothLora(BesidePrior):
    """DreamBooth (Ruiz et al. 2023) with LoRA (Hu et al. 2021): low-rank updates of the attention layers,
    trained beside pictures of the class that the untouched base drew, so that the class stays what it was."""

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.settings: DreamBoothLoraSettings = job.settings
        self.tokens = TokenRows({c.token: self._first_rows(c) for c in self.concepts})
        self._unet_lora: list[nn.Parameter] = []
        self._text_lora: list[nn.Parameter] = []

    @property
    def trains_text(self) -> bool:  # type: ignore[override]
        return self.settings.train_token or self.settings.text_encoder

    def _first_rows(self, concept: Concept) -> dict[str, Tensor]:
        if self.settings.train_token:
            return initial_rows(self.base, concept.class_word, self.settings.vectors)
        return initial_rows(self.base, f"{self.settings.identifier} {concept.class_word}")

    def prepare(self, check: Callable[[], None]) -> None:
        self.join_prior(check)
        self.attach()
        self.cache_latents()

    def attach(self) -> None:
        chosen = self.settings
        self._unet_lora = lora.inject(self.base.unet, lora.ATTENTION, chosen.rank, chosen.alpha)
        if chosen.text_encoder:
            for encoder in self.base.text_encoders.values():
                self._text_lora += lora.inject(encoder, lora.TEXT_ATTENTION, chosen.rank, chosen.alpha)

    def phases(self) -> Sequence[Phase]:
        chosen = self.settings
        rates = {"unet": chosen.unet_learning_rate}
        if chosen.text_encoder:
            rates["text_encoder"] = chosen.text_encoder_learning_rate
        if chosen.train_token:
            rates["tokens"] = chosen.token_learning_rate
        return [single_phase("tuning", chosen, rates)]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {"unet": self._unet_lora}
        if self.settings.text_encoder:
            groups["text_encoder"] = self._text_lora
        if self.settings.train_token:
            groups["tokens"] = list(self.tokens.parameters())
        return groups

    def artifact(self) -> Artifact:
        return self.learned("lora", {**lora.tensors(self.base), **self.tokens.tensors()}, self.rows_each())

    def close(self) -> None:
        for module in (self.base.unet, *self.base.text_encoders.values()):
            lora.remove(module)


def prior_pictures(
    method: BesidePrior, class_word: str, check: Callable[[], None], size: tuple[int, int], count: int
) -> np.ndarray:
    """`count` pictures (N, H, W, 3) uint8 of the class by the frozen base, or those of an earlier run."""
    chosen, job = method.job.settings, method.job
    side = size[0] if size[0] == size[1] else size
    recipe = (method.base.fingerprint, job.on, class_word, side, chosen.prior_templates,
              count, chosen.prior_steps, chosen.prior_guidance, job.seed)  # fmt: skip
    kept = (
        Path(job.cache).expanduser() / f"class-{mixed_seed(*recipe):016x}.safetensors" if job.cache else None
    )
    if kept is not None and kept.exists():
        return _read_pictures(kept)
    log.info("drawing %d pictures of '%s' for prior preservation", count, class_word)
    prompts = [method._prior_prompt(class_word, number) for number in range(count)]
    seeds = [mixed_seed("prior", class_word, job.seed, number) for number in range(count)]
    parts = [
        method.drawn_at(
            size, prompts[start : start + AT_ONCE], seeds[start : start + AT_ONCE], chosen.prior_steps,
            chosen.prior_guidance, check,
        )
        for start in range(0, count, AT_ONCE)
    ]  # fmt: skip
    pictures = np.concatenate(parts)
    if kept is not None:
        _write_pictures(kept, pictures)
    return pictures


def _read_pictures(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["pictures"]


def _write_pictures(path: Path, pictures: np.ndarray) -> None:
    from safetensors.numpy import save_file

    with write_atomically(path) as temporary:
        save_file({"pictures": pictures}, temporary)
