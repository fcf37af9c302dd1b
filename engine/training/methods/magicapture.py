"""MagiCapture (arXiv 2309.06895): a person and a style from two sets of pictures, joined in one prompt.

First the words alone are learned, then LoRA and words, with composed prompts on the style's pictures: there
the style is seen, attention is refocused, and an identity loss says who the face should be.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...artifact import Artifact
from ...bases import features
from ...bases.base import BaseModel, Rows
from ...bases.conditioning import Conditioning
from ...bases.process.ddpm import PUBLISHED_STEPS
from ...config import Job, MagiCaptureSettings, Phase
from ...data.augment import jittered, mirrored
from ...data.concepts import Concept, Picture
from ...data.examples import Batch, Examples, generator_for, shuffled
from ...data.masks import HALF, Refinement
from ...data.segment import Request, find_mask, load_segmenter
from ...data.segmenters.base import Segmenter
from ...devices import to_device
from ...errors import LikenessError
from .. import lora
from ..adapters import adapted_layers
from ..attention_maps import mask_layers, recorded
from ..capabilities import Capabilities
from ..capture_losses import (
    COMPOSED,
    STYLE,
    SUBJECT,
    attention_to_words,
    norm_pull,
    refocusing,
    region_error,
    region_weights,
    round_of_items,
    style_weight,
    word_regions,
    words_present,
)
from ..class_pictures import ClassPictures
from ..identity_loss import IdentityLoss, find_judge
from ..losses import mean_where
from ..mask_checks import check_masks
from ..observer import Progress
from ..optimiser import schedule
from ..placeholder_positions import PlaceholderPositions
from ..tokens import TokenRows, initial_rows
from ..whole_tables import WholeTables
from .base import Load, Method

log = logging.getLogger(__name__)

INVERSION, TUNING = "inversion", "tuning"
_FACE = Request(words=("face",), refine=Refinement(level=HALF))


@dataclass(frozen=True, kw_only=True)
class CaptureBatch(Batch):
    """A batch of the three kinds of items; of a composed one the pixels and mask are the style picture's."""

    kinds: Tensor  # (B,) SUBJECT, STYLE or COMPOSED
    subjects: Tensor  # (B,) the picture whose subject is meant, -1 where none is
    identity_times: Tensor  # (B,) for an identity loss with a pass of its own


class MagiCapture(Method):
    """Trains the placeholders' rows, then LoRAs of U-Net and text encoder beside them."""

    @classmethod
    def needs(cls, job: Job) -> tuple[str, ...]:
        settings = job.settings
        maps = settings.attention_weight or settings.inversion_attention_weight
        crossing = (features.TEXT_PROJECTIONS,) if settings.cross_attention_only else ()
        return (*((features.CROSS_ATTENTION_MAPS,) if maps else ()), *crossing)

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        subject, style = two_roles(concepts)
        person = job.settings.identity != "features"
        super().__init__(job, base, [masked_pixels(concept, base, person) for concept in concepts])
        self.settings: MagiCaptureSettings = job.settings
        self.subject, self.style = self.concepts[subject], self.concepts[style]
        check_masks(self.concepts, self.examples, lambda c: "style" if c.role == "style" else "face", HALF)
        owners = self.examples.concepts
        self.pools = {SUBJECT: (owners == subject).nonzero()[:, 0], STYLE: (owners == style).nonzero()[:, 0]}
        self.tokens = TokenRows({c.token: self._first_rows(c) for c in self.concepts})
        settings = self.settings
        refocused = settings.attention_weight or settings.inversion_attention_weight
        self.layers = mask_layers(base) if refocused else {}
        self.identity: IdentityLoss | None = None
        if settings.identity_weight and settings.tuning_steps:
            judge = find_judge(settings.identity, settings.landmarks, settings.detector, base)
            if judge is not None:
                self.identity = IdentityLoss(judge, settings.identity_average, settings.detect_each_step)
                # the identity loss decodes estimates
                self.capabilities = replace(self.capabilities, cached_latents=False)
        self._unet_lora: list[nn.Parameter] = []
        self._text_lora: list[nn.Parameter] = []
        self._tables: WholeTables | None = None
        self._places = PlaceholderPositions(self)
        self._lengths: dict[str, float] = {}

    def _first_rows(self, concept: Concept) -> dict[str, Tensor]:
        rows = initial_rows(self.base, concept.class_word, self.settings.vectors)
        spread = self.settings.style_deviation
        if concept is not self.style or not spread:
            return rows
        generator = generator_for(self.job.seed, "style word")
        return {name: torch.randn(row.shape, generator=generator) * spread for name, row in rows.items()}

    # ------------------------------------------------------------------------------ what the trainer asks

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        # attention is caught from outside the layers
        return Capabilities(checkpointing=True, cached_latents=not job.settings.colour_jitter)

    def load(self, phase: Phase) -> Load:
        settings, rows = self.settings, phase.batch_size
        changed = bool(settings.colour_jitter)
        if phase.name == INVERSION:
            return Load(pictures=rows, prompts=rows, encoded=rows * changed)
        rows += settings.prior_batch_size if settings.prior_weight else 0
        again = rows if self._own_pass and self.identity is not None else 0
        return Load(pictures=rows + again, prompts=rows, encoded=rows * changed)

    def prepare(self, check: Callable[[], None]) -> None:
        settings = self.settings
        if settings.prior_weight and settings.tuning_steps:
            self.examples = self.examples.joined(self._prior_examples(check))
        self.attach()
        if settings.gradient_checkpointing:
            self.base.recompute(True)
        if not settings.colour_jitter:
            self.cache_latents()
        if self.identity is not None:
            self._look()

    def attach(self) -> None:
        if self.settings.tuning_steps:
            self._inject()

    def _inject(self) -> None:
        settings = self.settings
        purpose = "cross-attention" if settings.cross_attention_only else "feed-forward"
        targets = self.base.denoiser.lora_targets[purpose]
        self._unet_lora = lora.inject(self.base.network, targets, settings.rank, settings.rank, gaussian=True)
        if settings.text_encoder_learning_rate:
            for encoder in self.base.text_encoders.values():
                self._text_lora += lora.inject(
                    encoder, self.base.text.lora_targets, settings.rank, settings.rank, gaussian=True
                )
        if settings.all_rows:
            self._tables = WholeTables(self.base.text_encoders)

    def _look(self) -> None:
        assert self.identity is not None
        of_concepts = ~self.examples.prior
        device = self.base.device
        masks = self.examples.masks[of_concepts].clone()
        style = self.pools[STYLE]
        masks[style] = 1 - masks[style]  # where the style leaves room for somebody
        names = [picture.name for concept in self.concepts for picture in concept.pictures]
        subjects = self.pools[SUBJECT].tolist()
        self.identity.to(device).look(self.examples.pixels[of_concepts].to(device), masks, names, subjects)

    def _prior_examples(self, check: Callable[[], None]) -> Examples:
        size, count = (self.size, self.size), self.settings.prior_pictures
        drawn = ClassPictures(self, self.subject.class_word, size, count).all(check)
        return Examples(
            pixels=drawn.contiguous(),
            masks=torch.ones(len(drawn), 1, self.size, self.size),
            concepts=torch.full((len(drawn),), self.concepts.index(self.subject)),
            prior=torch.ones(len(drawn), dtype=torch.bool),
        )

    def _prior_prompt(self, class_word: str, number: int) -> str:
        templates = self.settings.prior_templates
        return templates[number % len(templates)].format(class_word)

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        shared = {"schedule": settings.schedule, "ahead": settings.ahead, "batch_size": settings.batch_size,
                  "gradient_accumulation": settings.gradient_accumulation}  # fmt: skip
        rates = {"unet": settings.unet_learning_rate, "tokens": settings.token_learning_rate}
        if settings.text_encoder_learning_rate:
            rates["text_encoder"] = settings.text_encoder_learning_rate
        if settings.all_rows:
            rates["words"] = settings.token_learning_rate
        plan: list[Phase] = []
        if settings.inversion_steps:
            first = {"tokens": settings.inversion_learning_rate}
            plan += [Phase(name=INVERSION, steps=settings.inversion_steps, learning_rates=first,
                           max_grad_norm=None, **shared)]  # fmt: skip
        if settings.tuning_steps:
            plan += [Phase(name=TUNING, steps=settings.tuning_steps, learning_rates=rates,
                           max_grad_norm=settings.max_grad_norm, weight_decay=settings.weight_decay,
                           **shared)]  # fmt: skip
        return plan

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {"tokens": list(self.tokens.parameters())}
        if self.settings.tuning_steps:
            groups["unet"] = self._unet_lora
            if self.settings.text_encoder_learning_rate:
                groups["text_encoder"] = self._text_lora
            if self.settings.all_rows:
                groups["words"] = [] if self._tables is None else self._tables.parameters()
        return groups

    def begin_phase(self, phase: Phase) -> None:
        if phase.name == INVERSION and self.settings.pull_length is None:
            for name in self.base.text_encoders:  # now, that no step waits for it
                self._mean_length(name)
        for _, layer in self._lora_layers():  # they do nothing yet: the first phase goes without their cost
            layer.enable_adapters(phase.name == TUNING)

    def _lora_layers(self) -> list[tuple[nn.Module, Any]]:
        modules = (self.base.network, *self.base.text_encoders.values())
        return [(module, layer) for module in modules for _, layer in adapted_layers(module)]

    def after_step(self, progress: Progress) -> None:
        length = self.settings.pull_length
        if progress.phase != INVERSION or length == 0:
            return
        (phase,) = (phase for phase in self.phases() if phase.name == INVERSION)
        rate = phase.learning_rates["tokens"] * schedule(phase, progress.phase_step - 1)
        with torch.no_grad():
            for rows in self.rows().values():
                for name, vectors in rows.items():
                    goal = self._mean_length(name) if length is None else length
                    vectors.copy_(norm_pull(vectors, rate, goal))

    def _mean_length(self, encoder: str) -> float:
        if encoder not in self._lengths:
            table = self.base.text_encoders[encoder].get_input_embeddings().weight
            self._lengths[encoder] = float(table.detach().float().norm(dim=-1).mean())
        return self._lengths[encoder]

    def extra_state(self) -> dict[str, Tensor]:
        if self.identity is None:
            return {}
        return {"identity_counts": torch.tensor([self.identity.asked, self.identity.skipped])}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        if self.identity is not None and "identity_counts" in state:
            self.identity.asked, self.identity.skipped = state["identity_counts"].tolist()

    def rows(self) -> Rows:
        return self.tokens.rows()

    def preview(self, prompt: str, seed: int, check: Callable[[], None]) -> np.ndarray:
        with self._at_strength():
            return super().preview(prompt, seed, check)

    @contextmanager
    def _at_strength(self) -> Iterator[None]:
        """The LoRAs as strong as they are when drawing."""
        scaled = []
        for module, layer in self._lora_layers():
            unet = module is self.base.network
            strength = self.settings.unet_strength if unet else self.settings.text_encoder_strength
            scaled.append((layer, layer.scaling[lora.ADAPTER]))
            layer.scaling[lora.ADAPTER] *= strength
        try:
            yield
        finally:
            for layer, scaling in scaled:
                layer.scaling[lora.ADAPTER] = scaling

    def artifact(self) -> Artifact:
        """What was learned; alphas hold the strengths, so that every loader at 1 draws with them."""
        with self._at_strength():
            tensors = {**lora.tensors(self.base), **self.tokens.tensors()}
        tensors |= {} if self._tables is None else self._tables.tensors()
        vectors = {c.token: self.settings.vectors for c in self.concepts}
        kind = "lora" if self.settings.tuning_steps else "embedding"
        return replace(self.learned(kind, tensors, vectors), extra=self._counts())

    def _counts(self) -> dict[str, int]:
        if self.identity is None:
            return {}
        if self.identity.skipped:
            log.warning(
                "the identity loss found no face %d of %d times", self.identity.skipped, self.identity.asked
            )
        return {"identity_asked": self.identity.asked, "identity_skipped": self.identity.skipped}

    def close(self) -> None:
        for module in (self.base.network, *self.base.text_encoders.values()):
            lora.remove(module)
        self.base.recompute(False)
        if self._tables is not None:
            self._tables.put_back()

    # --------------------------------------------------------------------------------------------- batches

    def look_into(self, prompt: str) -> None:
        if self.layers:
            self._places.of([prompt], [[concept.token for concept in self.concepts]])

    def batch(self, phase: Phase, number: int) -> CaptureBatch:
        generator = generator_for(self.job.seed, phase.name, number)
        items = self._items(phase, number)
        kinds, subjects, styles = items.unbind(1)
        indices = torch.where(kinds == SUBJECT, subjects, styles)
        composed = self._prompts(kinds, generator)
        alone = self.captioned(composed, indices, generator)
        prompts = tuple(
            whole if kind == COMPOSED else part for whole, part, kind in zip(composed, alone, kinds.tolist())
        )
        if phase.name == TUNING and self.settings.prior_weight:
            prior = self._prior_rows(phase, number)
            prompts += self._prior_prompts(prior)
            indices = torch.cat([indices, prior])
            kinds, subjects = (
                torch.cat([values, torch.full_like(prior, filler)])
                for values, filler in ((kinds, SUBJECT), (subjects, -1))
            )
        return self._drawn(phase, indices, prompts, kinds, subjects, generator)

    def _items(self, phase: Phase, number: int) -> Tensor:
        """The batch's items as rows of (kind, subject picture, style picture), (B, 3)."""
        pairs = phase.name == TUNING and self.settings.composed
        places = range(number * phase.batch_size, (number + 1) * phase.batch_size)
        if self.settings.even_kinds:
            return torch.stack([self._in_turn(place, pairs, phase.name) for place in places])
        return torch.stack([self._from_round(place, pairs, phase.name) for place in places])

    def _in_turn(self, place: int, pairs: bool, phase: str) -> Tensor:
        """The item number `place` when subject, style and composed take turns."""
        kinds = (SUBJECT, STYLE, COMPOSED) if pairs else (SUBJECT, STYLE)
        turn, kind = divmod(place, len(kinds))
        picks = {
            name: self.pools[name][shuffled(torch.arange(len(self.pools[name])), 1, turn, *seed)]
            for name, seed in {
                SUBJECT: (self.job.seed, phase, kind, 0),
                STYLE: (self.job.seed, phase, kind, 1),
            }.items()
        }
        subject, style = picks[SUBJECT][0], picks[STYLE][0]
        nobody = torch.tensor(-1)
        return torch.stack(
            [
                torch.tensor(kinds[kind]),
                nobody if kind == STYLE else subject,
                nobody if kind == SUBJECT else style,
            ]
        )

    def _from_round(self, place: int, pairs: bool, phase: str) -> Tensor:
        """The item number `place` when going through the reference's rounds, each drawn and ordered anew."""
        counts = len(self.pools[SUBJECT]), len(self.pools[STYLE])
        length = len(round_of_items(*counts, pairs, generator_for(0)))
        turn, index = divmod(place, length)
        generator = generator_for(self.job.seed, phase, "round", turn)
        items = round_of_items(*counts, pairs, generator)
        kind, subject, style = items[torch.randperm(length, generator=generator)[index]].tolist()
        nobody = torch.tensor(-1)
        return torch.stack(
            [
                torch.tensor(kind),
                nobody if subject < 0 else self.pools[SUBJECT][subject],
                nobody if style < 0 else self.pools[STYLE][style],
            ]
        )

    def _prompts(self, kinds: Tensor, generator: torch.Generator) -> tuple[str, ...]:
        """A template of its kind for each row."""
        settings = self.settings
        sets = {
            SUBJECT: settings.templates,
            STYLE: settings.style_templates,
            COMPOSED: settings.composed_templates,
        }
        prompts = []
        for kind in kinds.tolist():
            number = int(torch.randint(len(sets[kind]), (1,), generator=generator))
            words = {"subject": self.subject.token, "style": self.style.token}
            alone = self.style.token if kind == STYLE else self.subject.token
            prompts.append(sets[kind][number].format(alone, **words))
        return tuple(prompts)

    def _prior_rows(self, phase: Phase, number: int) -> Tensor:
        pool = self.examples.prior.nonzero()[:, 0]
        return shuffled(pool, self.settings.prior_batch_size, number, "prior", self.job.seed, phase.name)

    def _prior_prompts(self, rows: Tensor) -> tuple[str, ...]:
        """A prior picture keeps the prompt it was drawn from."""
        first = int(self.examples.prior.nonzero()[0, 0])
        return tuple(self._prior_prompt(self.subject.class_word, row - first) for row in rows.tolist())

    def _drawn(
        self,
        phase: Phase,
        indices: Tensor,
        prompts: tuple[str, ...],
        kinds: Tensor,
        subjects: Tensor,
        generator: torch.Generator,
    ) -> CaptureBatch:
        batch, count = super().make_batch(indices, prompts, generator), len(indices)
        share = self.settings.timestep_share if phase.name == TUNING else 1.0
        times, others = (
            self.base.process.sample_times(
                count, generator, high=high, latents=math.prod(batch.noise.shape[2:])
            )
            for high in (self._time_of_share(share), self._identity_end)
        )
        turned = (torch.rand(count, generator=generator) < 0.5) & self.settings.flip
        values = {**vars(batch), "times": times, "mirrored": turned}
        side = turned.view(-1, 1, 1, 1)
        values["masks"] = torch.where(side, mirrored(batch.masks), batch.masks)
        if self.settings.colour_jitter:
            values["pixels"] = self._jittered(batch.pixels, generator)
        values["pixels"] = torch.where(side, mirrored(values["pixels"]), values["pixels"])
        return CaptureBatch(**values, kinds=kinds, subjects=subjects, identity_times=others)

    def _time_of_share(self, share: float) -> float:
        """The time below which a share of the published timesteps lies; of one of them at least."""
        return self.base.process.published_time(max(1, round(PUBLISHED_STEPS * share)))

    @property
    def _identity_end(self) -> float:
        """The time below which the identity loss looks."""
        published_end = self._time_of_share(self.settings.identity_timestep_share)
        return min(published_end, self.base.process.estimates_until)

    @property
    def _own_pass(self) -> bool:
        """Whether the identity loss has a pass of its own: as asked, or because few rows of a flow, which is
        learned where there is much noise, would be among those that it looks at."""
        return self.settings.two_passes or self.base.process.estimates_until < 1

    def _jittered(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Brightness and contrast changed; saturation is left alone."""
        factors = 1 + self.settings.colour_jitter * (2 * torch.rand(2, generator=generator) - 1)
        order = torch.randperm(2, generator=generator).tolist()
        return jittered(pixels, [*factors.tolist(), 1.0], order)

    @property
    def mirrors(self) -> bool:
        return self.settings.flip

    # ---------------------------------------------------------------------------------------------- losses

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert isinstance(batch, CaptureBatch)
        return self.losses(batch, progress, self.latents(batch))

    def losses(self, batch: CaptureBatch, progress: Progress, latents: Tensor) -> dict[str, Tensor]:
        """The loss terms for given clean latents (B, C, h, w)."""
        settings, tuning = self.settings, progress.phase == TUNING
        refocus = settings.attention_weight if tuning else settings.inversion_attention_weight
        noisy = self.base.process.add_noise(latents, batch.noise, batch.times)
        context = self.base.encode_text(batch.prompts, self.rows())
        with recorded(self.base.network, self.layers if refocus else {}) as maps:
            prediction = self.base.predict(noisy, batch.times, context)
        weights = region_weights(
            batch.masks, latents.shape[-2:], settings.mask_floor, settings.mask_exponent if tuning else 1.0,
            settings.smooth_masks,
        )  # fmt: skip
        errors = self._errors(batch, progress, latents, prediction, weights)
        # words that no prompt of the pass names get a gradient of 0, not none: the moments of all words go
        # on alike, as those of one table's rows do
        nothing = torch.stack([vectors.sum() for vectors in self.tokens.vectors]).sum() * 0
        losses = {"diffusion": mean_where(errors, ~batch.prior) + nothing}
        if refocus:
            lost = self._refocusing(batch, maps.all(), weights, latents.shape[-2:])
            losses["attention_refocus"] = refocus * mean_where(lost, ~batch.prior)
        if tuning and self.identity is not None:
            lost = self._unlikeness(batch, latents, noisy, prediction, context)
            losses["identity"] = settings.identity_weight * lost
        if tuning and settings.prior_weight:
            losses["prior"] = settings.prior_weight * mean_where(errors, batch.prior)
        return losses

    def _errors(
        self, batch: CaptureBatch, progress: Progress, latents: Tensor, prediction: Tensor, weights: Tensor
    ) -> Tensor:
        """Masked reconstruction of each row: (B,)."""
        settings = self.settings
        target = self.base.process.target(latents, batch.noise, batch.times)
        errors = region_error(prediction, target, weights, settings.area_normalised)
        errors = errors * style_weight(
            settings.style_weight, progress.phase_step / progress.phase_steps, batch.kinds
        )
        return errors * self.base.process.loss_weight(batch.times, settings.min_snr_gamma)

    def _refocusing(
        self, batch: CaptureBatch, maps: Sequence[Tensor], weights: Tensor, size: Sequence[int]
    ) -> Tensor:
        """Attention Refocusing of each row: (B,)."""
        looks = attention_to_words(maps, to_device(self._positions(batch), weights.device))
        side = next(iter(self.layers.values())).size((size[0], size[1]))
        present = words_present(batch.kinds) * ~batch.prior[:, None]
        return refocusing(
            looks.unflatten(-1, side), word_regions(weights, batch.kinds), present,
            self.settings.attention_per_map,
        )  # fmt: skip

    def _positions(self, batch: CaptureBatch) -> Tensor:
        """Which tokens (B, 2, T) of each prompt are the subject's and the style's placeholder."""
        words = [self.subject.token, self.style.token]
        return self._places.of(batch.prompts, [words] * len(batch))

    def _unlikeness(
        self, batch: CaptureBatch, latents: Tensor, noisy: Tensor, prediction: Tensor, context: Conditioning
    ) -> Tensor:
        """The identity loss's mean over all rows; rows that it does not look at count 0."""
        assert self.identity is not None
        settings = self.settings
        times = batch.identity_times if self._own_pass else batch.times
        asked = self._asked(batch.here)
        if not len(asked):
            return prediction.new_zeros(())
        rows = to_device(asked, noisy.device)
        times, noisy = times[rows], noisy[rows]
        if self._own_pass:
            noisy = self.base.process.add_noise(latents[rows], batch.noise[rows], times)
            prediction = self.base.predict(noisy, times, context.rows(rows))
        else:
            prediction = prediction[rows]
        estimates = self.base.process.predict_x0(noisy, prediction.float(), times)
        here, pictures = batch.here, int((~self.examples.prior).sum())
        places = here.indices[asked] + pictures * here.mirrored[asked]
        arguments = (estimates, here.subjects[asked], places)
        if settings.gradient_checkpointing:  # the decoder's inner states are larger than the U-Net's
            distances = checkpoint(self._distances, *arguments, use_reentrant=False)
        else:
            distances = self._distances(*arguments)
        return (distances * self.base.process.estimate_weight(times)).sum() / (~batch.prior).sum()

    def _asked(self, batch: CaptureBatch) -> Tensor:
        """The rows of a batch on the CPU that the identity loss looks at: (n,)."""
        settings = self.settings
        times = batch.identity_times if self._own_pass else batch.times
        asked = (batch.kinds == COMPOSED) | ((batch.kinds == SUBJECT) & settings.identity_on_subject)
        asked &= ~batch.prior & (times < self._identity_end)
        return asked.nonzero()[:, 0]

    def _distances(self, estimates: Tensor, subjects: Tensor, places: Tensor) -> Tensor:
        assert self.identity is not None
        with torch.autocast(estimates.device.type, enabled=False):
            if not self.base.traits.head_alone or not self.identity.cuts:
                return self.identity(self.base.decode_with_gradients(estimates), subjects, places)
            cell = self.base.pixels_per_latent
            heads = self.identity.heads(places, (estimates.shape[-2], estimates.shape[-1]), cell)
            pixels = self.base.decode_with_gradients(heads.of(estimates))
            return self.identity(pixels, subjects, places, heads.corners(cell))


# ------------------------------------------------------------------------------------------------ bad input


def two_roles(concepts: Sequence[Concept]) -> tuple[int, int]:
    """Which of the concepts is the subject, and which the style."""
    by_role = {
        role: [number for number, concept in enumerate(concepts) if concept.role == role]
        for role in ("subject", "style")
    }
    if len(by_role["style"]) != 1:
        raise LikenessError(
            "magicapture learns a person and a style: give a second set of pictures, of the style, with the "
            "role style (--role subject --role style)"
            if not by_role["style"]
            else "magicapture learns one style at a time; give one set of style pictures"
        )
    if len(by_role["subject"]) != 1 or len(concepts) != 2:
        raise LikenessError(
            "magicapture learns one subject with one style; give one set of pictures with the role subject "
            "and one with the role style"
        )
    return by_role["subject"][0], by_role["style"][0]


def masked_pixels(concept: Concept, base: BaseModel, person: bool = True) -> Concept:
    """The concept with a mask for every picture: a subject's marks its face, a style's all but the face.

    What the user masked stays; the rest is found, where it is a `person`.
    """
    bare = [picture.name for picture in concept.pictures if picture.mask is None]
    if not bare:
        return concept
    if not person:
        what = concept.class_word if concept.role == "subject" else "all but what takes the subject's place"
        raise LikenessError(
            f"{concept.token}, picture {bare[0]}: there is no mask, and only faces are found by themselves; "
            f"mark {what}"
        )
    segmenter, remark = _face_segmenter(concept, base)
    return replace(
        concept,
        pictures=tuple(_with_mask(picture, concept, segmenter) for picture in concept.pictures),
        remarks=(*concept.remarks, *remark),
    )


def _face_segmenter(concept: Concept, base: BaseModel) -> tuple[Segmenter, tuple[str, ...]]:
    """What finds faces, and what is to be said of it: without a face parser an oval around the landmarks."""
    try:
        return load_segmenter(base.traits.segmenter), ()
    except LikenessError as error:
        missing = error
    try:
        if base.traits.own_world:
            raise missing
        oval = load_segmenter("face-oval")
    except LikenessError as error:
        where = "the face" if concept.role == "subject" else "all but the face"
        raise LikenessError(
            f"the pictures of {concept.token} have no masks, and faces cannot be found here: {missing}; or "
            f"mask {where} yourself"
        ) from error
    return oval, (f"{concept.token}: an oval stands for each face, for there is no face parser ({missing})",)


def _with_mask(picture: Picture, concept: Concept, segmenter: Segmenter) -> Picture:
    if picture.mask is not None:
        return picture
    try:
        face = find_mask(segmenter, picture.pixels, _FACE, picture.name)
    except LikenessError as error:
        if concept.role == "subject":
            raise LikenessError(f"no face in {picture.name} ({error}); crop closer or drop it") from error
        log.warning("no face in %s: the style is learned from all of it", picture.name)
        face = np.zeros(picture.pixels.shape[:2], np.float32)
    return replace(picture, mask=1 - face if concept.role == "style" else face)
