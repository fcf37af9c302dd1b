"""MagicTailor (arXiv 2410.13370): a subject and components from other pictures, learned together.

A warm-up on all of them, then a phase that trains the worst and holds the others near a slow teacher.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...artifact import Artifact
from ...bases import features
from ...bases.base import BaseModel, Rows
from ...bases.conditioning import Conditioning
from ...config import Job, MagicTailorSettings, Phase
from ...data.augment import JITTERS, jittered, mirrored
from ...data.concepts import Concept
from ...data.examples import Batch, Examples, generator_for, shuffled
from ...devices import to_device
from ...errors import LikenessError
from .. import lora
from ..attention_maps import mask_layers, recorded
from ..capabilities import Capabilities
from ..component_losses import (
    attention_in_mask,
    attention_to,
    balanced,
    degradation_intensity,
    degraded,
    even_shares,
    masked_mean_error,
    per_concept,
    preservation,
    reduced_masks,
    selection,
)
from ..degradation import chosen_intensity
from ..mask_checks import check_masks
from ..momentum import Ema
from ..observer import Progress
from ..placeholder_positions import PlaceholderPositions
from ..tokens import TokenRows, initial_rows
from ..whole_tables import WholeTables
from .base import Load, Method

log = logging.getLogger(__name__)

UNMEASURED = ("none", "mask out")  # degradations without noise
WARM_UP, SWITCH, BALANCE = "warm-up", "switch", "balance"
MARGIN_STRENGTH = 0.5  # of the mask within a component's margin, so a quarter of the squared error


@dataclass(frozen=True, kw_only=True)
class TailorBatch(Batch):
    """A batch of several concepts' pictures."""

    outside: Tensor  # (B, 3, H, W) standard normal: noise for what lies outside the masks
    shares: Tensor  # (B,) that make sums over a concept's rows means over all processes' rows of it

    def shard(self, rank: int, world: int) -> "TailorBatch":
        part = super().shard(rank, world)
        assert isinstance(part, TailorBatch)
        return replace(part, shares=part.shares * world)  # the trainer averages over processes


class MagicTailor(Method):
    """Trains a LoRA of the U-Net and the placeholders' rows; one U-Net is teacher and student."""

    @classmethod
    def needs(cls, job: Job) -> tuple[str, ...]:
        return (features.CROSS_ATTENTION_MAPS,) if job.settings.attention_weight else ()

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.settings: MagicTailorSettings = job.settings
        self.together = len(self.concepts) > 1
        taught = self._balances and self.settings.preservation_weight > 0
        self.capabilities = replace(self.capabilities, copies=int(taught))
        if not self.together:
            log.warning("magictailor has a single concept: there is nothing to balance, training is plain")
        check_batch_size(self.settings.batch_size, len(self.concepts))
        if self.settings.whole_pictures:
            self.examples = whole_examples(self.concepts, self.size)
        if self.together:
            check_masks(self.concepts, self.examples, lambda concept: concept.class_word)
        height, width = self.examples.pixels.shape[-2:]
        self.latent_shape = base.latent_shape(height, width)  # raises where the size does not fit
        self.layers = mask_layers(base) if self.settings.attention_weight else {}
        self.tokens = TokenRows(
            {c.token: initial_rows(base, c.class_word, self.settings.vectors) for c in self.concepts}
        )
        self._lora: list[nn.Parameter] = []
        self._tables: WholeTables | None = None
        self._momentum: Ema | None = None
        self._intensity: float = self.settings.intensity or 0.0  # chosen in `prepare` where it is not said
        self._places = PlaceholderPositions(self)

    # ------------------------------------------------------------------------------ what the trainer asks

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        still = job.settings.degradation == "none" and not job.settings.colour_jitter
        return Capabilities(half=True, checkpointing=True, splitting=True, cached_latents=still)

    @property
    def mirrors(self) -> bool:
        return self.settings.flip

    def load(self, phase: Phase) -> Load:
        rows = phase.batch_size
        teacher = self._held_of(rows) if phase.name != WARM_UP and self.capabilities.copies else 0
        encoded = 0 if self.capabilities.cached_latents else rows
        return Load(pictures=rows, prompts=len(self.concepts), teacher=teacher, encoded=encoded)

    def prepare(self, check: Callable[[], None]) -> None:
        self.attach()
        if self.settings.degradation not in UNMEASURED and self.settings.intensity is None:
            self._choose_intensity(check)
        if self.capabilities.cached_latents:
            self.cache_latents()

    def _choose_intensity(self, check: Callable[[], None]) -> None:
        """The base's own, or the one that changes as much of these pictures' latents as on SD 1.x."""
        if self.base.traits.degradation is not None:
            self._intensity = self.base.traits.degradation
            return
        generator = generator_for(self.job.seed, "degradation")
        self._intensity, share = chosen_intensity(self.base, self.examples, generator, check)
        self.say(
            f"noise outside the masks: {self._intensity:.2f}, by which {share:.0%} of the latents' variance "
            "there changes"
        )

    def attach(self) -> None:
        settings = self.settings
        self._lora = lora.inject(
            self.base.network,
            self.base.denoiser.lora_targets["transformer"],
            settings.rank,
            settings.alpha,
            gaussian=True,
        )
        if settings.all_rows:
            self._tables = WholeTables(self.base.text_encoders)
        if settings.gradient_checkpointing:
            self.base.recompute(True)

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        first, second = settings.warm_up_learning_rate, settings.balance_learning_rate
        plan = [(WARM_UP, settings.warm_up_steps, first)]
        if settings.restored_rate:
            plan += [
                (SWITCH, min(1, settings.balance_steps), second),
                (BALANCE, settings.balance_steps - 1, first),
            ]
        else:
            plan += [(BALANCE, settings.balance_steps, second)]
        return [self._phase(name, steps, rate) for name, steps, rate in plan if steps > 0]

    def _phase(self, name: str, steps: int, rate: float) -> Phase:
        settings = self.settings
        words = rate if settings.token_learning_rate is None else settings.token_learning_rate
        return Phase(
            name=name,
            steps=steps,
            learning_rates={"unet": rate, "tokens": words},
            schedule=settings.schedule,
            batch_size=settings.batch_size or len(self.examples),
            gradient_accumulation=settings.gradient_accumulation,
            max_grad_norm=settings.max_grad_norm,
            clipped=("unet",),
            weight_decay=settings.weight_decay,
            without_decay=() if settings.token_decay else ("tokens",),
            keeps_moments=True,
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        tables = [] if self._tables is None else self._tables.parameters()
        return {"unet": self._lora, "tokens": [*self.tokens.parameters(), *tables]}

    def begin_phase(self, phase: Phase) -> None:
        if phase.name != WARM_UP and self._balances and self.settings.preservation_weight:
            if self._momentum is None:
                self._momentum = self._new_teacher()

    @property
    def _balances(self) -> bool:
        return self.together and self.settings.balancing

    def _new_teacher(self) -> Ema:
        settings = self.settings
        learned = self._lora + (list(self.tokens.parameters()) if settings.momentum_tokens else [])
        return Ema(
            [self.base.network, self.tokens], learned, settings.momentum, settings.momentum_first_copies
        )

    def after_step(self, progress: Progress) -> None:
        if progress.phase != WARM_UP and self._momentum is not None:
            self._momentum.update()

    def extra_state(self) -> dict[str, Tensor]:
        return {} if self._momentum is None else self._momentum.state()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        if state:
            self._momentum = self._momentum or self._new_teacher()
            self._momentum.load_state(state)

    def rows(self) -> Rows:
        return self.tokens.rows()

    def artifact(self) -> Artifact:
        tensors = {**lora.tensors(self.base), **self.tokens.tensors()}
        tensors |= {} if self._tables is None else self._tables.tensors()
        return self.learned("lora", tensors, {c.token: self.settings.vectors for c in self.concepts})

    def close(self) -> None:
        lora.remove(self.base.network)
        self.base.recompute(False)
        if self._tables is not None:
            self._tables.put_back()

    # --------------------------------------------------------------------------------------------- batches

    def look_into(self, prompt: str) -> None:
        if self.layers:
            self._places.of([prompt], [[concept.token for concept in self.concepts]])

    def batch_indices(self, choices: Tensor, phase: Phase, number: int) -> Tensor:
        """All pictures, or as many of each concept; grouped by concept."""
        if not self.settings.batch_size:
            return choices
        each, over = divmod(phase.batch_size, len(self.concepts))
        picked = []
        for owner in range(len(self.concepts)):
            members = (self.examples.concepts == owner).nonzero()[:, 0]
            picked.append(shuffled(members, each + (owner < over), number, self.job.seed, phase.name, owner))
        return torch.cat(picked)

    def prompts(self, indices: Tensor, generator: torch.Generator) -> tuple[str, ...]:
        """One of the templates with the picture's own placeholder, or now and then with everybody's."""
        alone = super().prompts(indices, generator)
        if not self.settings.joint_share or not self.together:
            return alone
        first, *others = (concept.token for concept in self.concepts)
        together = self.settings.templates[0].format(f"{first} with {' and '.join(others)}")
        joint = (torch.rand(len(alone), generator=generator) < self.settings.joint_share).tolist()
        return tuple(together if joined else prompt for prompt, joined in zip(alone, joint))

    def make_batch(
        self, indices: Tensor, prompts: tuple[str, ...], generator: torch.Generator
    ) -> TailorBatch:
        pixels, masks, flipped = self._changed(
            self.examples.pixels[indices], self.examples.masks[indices], generator
        )
        owners, shape = self.examples.concepts[indices], (len(indices), *self.latent_shape)
        outside = torch.randn(pixels.shape, generator=generator)
        posterior = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        times = self.base.process.sample_times(len(indices), generator, latents=math.prod(shape[2:]))
        if self.settings.shared_timestep:  # one for every concept's first picture, one for every second
            times = times[places_within(owners)]
        masks = self._with_margin(masks, owners)
        return TailorBatch(
            pixels=pixels, masks=masks, prompts=prompts, concepts=owners, prior=self.examples.prior[indices],
            indices=indices, noise=noise, posterior=posterior, times=times, outside=outside,
            shares=even_shares(owners), mirrored=torch.full((len(indices),), flipped),
        )  # fmt: skip

    def _changed(
        self, pixels: Tensor, masks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, bool]:
        """Colours jittered and sides exchanged, all pictures alike; whether they are exchanged."""
        if self.settings.colour_jitter:
            amounts = 2 * torch.rand(len(JITTERS), generator=generator) - 1
            factors = 1 + self.settings.colour_jitter * amounts
            order = torch.randperm(len(JITTERS), generator=generator).tolist()
            pixels = jittered(pixels, factors.tolist(), order)
        if self.settings.flip and torch.rand(1, generator=generator) < 0.5:
            return mirrored(pixels), mirrored(masks), True
        return pixels, masks, False

    def _with_margin(self, masks: Tensor, owners: Tensor) -> Tensor:
        """Masks (B, 1, H, W), those of components at half strength a little past their edges too: a loss that
        sees nothing but hair does not say where hair ends, and long hair that turns short stays long."""
        margin = round(self.settings.component_margin * min(masks.shape[-2:]))
        if not margin:
            return masks
        wider = masks.maximum(dilate_masks(masks, margin) * MARGIN_STRENGTH)
        return wider.where(components(self.concepts)[owners].view(-1, 1, 1, 1), masks)

    # ---------------------------------------------------------------------------------------------- losses

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert isinstance(batch, TailorBatch)
        latents = self.latents(self._hidden_outside(batch, progress))
        noisy = self.base.process.add_noise(latents, batch.noise, batch.times)
        masks = reduced_masks(batch.masks, latents.shape[-2:], self.settings.smooth_masks)
        target = self.base.process.target(latents, batch.noise, batch.times)
        return self.losses(batch, progress, noisy, target, masks)

    def losses(
        self, batch: TailorBatch, progress: Progress, noisy: Tensor, target: Tensor, masks: Tensor
    ) -> dict[str, Tensor]:
        """The loss terms for given noisy latents, targets (B, C, h, w) and masks (B, 1, h, w)."""
        context = self.base.encode_text(batch.prompts, self.rows())
        prediction, attention = self._predict(batch, noisy, context)
        errors = self._by_concept(masked_mean_error(prediction, target, masks), batch)
        if not self._balances or progress.phase == WARM_UP:
            losses = {"diffusion": errors.mean()}
        else:
            selected = self.chosen(errors, masks, batch)
            losses = {"worst_concept": balanced(errors, selected)}
            if self._momentum is not None:
                drifts = self._drifts(batch, noisy, context, prediction, masks, selected)
                losses["preservation"] = self.settings.preservation_weight * preservation(drifts, selected)
        if attention is not None:
            losses["attention"] = self.settings.attention_weight * self._attention(attention, batch)
        return losses

    def _hidden_outside(self, batch: TailorBatch, progress: Progress) -> TailorBatch:
        """Dynamic Masked Degradation, or what stands in for it."""
        settings = self.settings
        if settings.degradation == "none":
            return batch
        if settings.degradation == "mask out":
            return replace(batch, pixels=batch.pixels * batch.masks)  # grey
        intensity = degradation_intensity(
            settings.degradation,
            progress.step + 1,
            progress.total,
            self._intensity,
            settings.intensity_exponent,
        )
        return replace(batch, pixels=degraded(batch.pixels, batch.masks, batch.outside, intensity))

    def _by_concept(self, values: Tensor, batch: TailorBatch) -> Tensor:
        """Means (A,) over each concept's rows of values (B,)."""
        return per_concept(values, batch.concepts, batch.shares, len(self.concepts))

    def chosen(self, errors: Tensor, masks: Tensor, batch: TailorBatch) -> Tensor:
        """How much of the step each concept gets, (A,): the same in all processes."""
        compared = mean_over_processes(errors)
        if self.settings.area_normalised:
            areas = self._by_concept(masks.square().flatten(1).mean(1), batch)
            compared = compared / mean_over_processes(areas)
        return selection(compared, self.settings.selection_temperature)

    def _drifts(
        self,
        batch: TailorBatch,
        noisy: Tensor,
        context: Conditioning,
        prediction: Tensor,
        masks: Tensor,
        selected: Tensor,
    ) -> Tensor:
        """Each concept's distance (A,) from the teacher, asked only about rows that it is to hold."""
        assert self._momentum is not None
        count = self._held_rows(batch)
        if not count:  # another process has them
            return prediction.new_zeros(len(self.concepts))
        # those to hold come first; which they are, only the device knows
        rows = (selected[batch.concepts] == 1).to(torch.uint8).argsort(stable=True)[:count]
        with torch.no_grad(), self._momentum.in_place():
            if self.settings.momentum_tokens:
                context = self.base.encode_text(batch.prompts, self.rows())
            parts = [
                self.base.predict(noisy[part], batch.times[part], context.rows(part))
                for part in rows.split(self.settings.pass_size or len(rows))
            ]
        drifts = masked_mean_error(prediction[rows], torch.cat(parts), masks[rows])
        return per_concept(drifts, batch.concepts[rows], batch.shares[rows], len(self.concepts))

    def _held_rows(self, batch: TailorBatch) -> int:
        """As many rows of the batch as the concepts that were not chosen can have.

        The worst concept's rows among them, where concepts have unequal numbers, count 0 in the loss.
        """
        if self.settings.selection_temperature is not None:  # all are held a little
            return len(batch)
        return len(batch) - int(batch.here.concepts.bincount(minlength=len(self.concepts)).min())

    def _held_of(self, rows: int) -> int:
        """The same of any batch with so many rows."""
        if self.settings.selection_temperature is not None:
            return rows
        count = len(self.concepts)
        if self.settings.batch_size:
            return rows - rows // count
        return rows - int(self.examples.concepts.bincount(minlength=count).min())

    def _attention(self, attention: Tensor, batch: TailorBatch) -> Tensor:
        """How far the words' attention (B, Q) is from their masks: scalar."""
        size = next(iter(self.layers.values())).size(self.latent_shape[1:])
        masks = reduced_masks(batch.masks, size, self.settings.smooth_masks).flatten(1)
        return attention_in_mask(attention, masks).mean()

    # ---------------------------------------------------------------------------------- passes of the U-Net

    def _predict(
        self, batch: TailorBatch, noisy: Tensor, context: Conditioning
    ) -> tuple[Tensor, Tensor | None]:
        """The U-Net's output (B, C, h, w), and attention (B, Q) of each row to its own placeholder."""
        whole = (noisy, batch.times, context, to_device(self._positions(batch), noisy.device))
        sizes = [size for size in (self.settings.pass_size, self.base.pass_size) if size]
        size = min(sizes, default=len(noisy))
        if size >= len(noisy):
            return self._pass(*whole)
        # each part's inner states are thrown away and computed again in its backward pass: memory holds one
        # part, while the losses see all rows
        parts = [checkpoint(self._pass, *part, use_reentrant=False) for part in in_parts(whole, size)]
        predictions, looks = zip(*parts)
        return torch.cat(predictions), torch.cat(looks) if self.layers else None

    def _pass(
        self, noisy: Tensor, times: Tensor, context: Conditioning, positions: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        with recorded(self.base.network, self.layers) as maps:
            prediction = self.base.predict(noisy, times, context)
        return prediction, attention_to(maps.all(), positions) if self.layers else None

    def _positions(self, batch: TailorBatch) -> Tensor:
        """Which tokens (B, T) of each row's prompt are its own placeholder's: 1.0 or 0.0."""
        owners = batch.here.concepts.tolist()
        return self._places.of(batch.prompts, [[self.concepts[owner].token] for owner in owners])[:, 0]


def components(concepts: Sequence[Concept]) -> Tensor:
    """Which concepts are components (A,): those that say so; where none does, all after the first."""
    said = [concept.role == "component" for concept in concepts]
    return torch.tensor(said if any(said) else [number > 0 for number in range(len(concepts))])


def dilate_masks(masks: Tensor, pixels: int) -> Tensor:
    """Masks (B, 1, H, W) that reach so many pixels further in every direction."""
    return F.max_pool2d(masks, 2 * pixels + 1, stride=1, padding=pixels)


def places_within(owners: Tensor) -> Tensor:
    """How many earlier rows have the same owner: owners (B,) -> (B,)."""
    return (owners[:, None] == owners).tril(-1).sum(1)


def in_parts(tensors: Sequence[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """What has B rows side by side, at most `size` rows at a time."""
    return zip(*(tensor.split(size) for tensor in tensors))


def mean_over_processes(values: Tensor) -> Tensor:
    """The processes' mean of detached values, the same in each of them."""
    values = values.detach().clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values /= torch.distributed.get_world_size()
    return values


# ----------------------------------------------------------------------------------------- pictures and masks


def whole_examples(concepts: Sequence[Concept], size: int) -> Examples:
    """The pictures as the reference prepares them: short side scaled to `size`, nothing cut off."""
    pictures = [(concept, picture) for concept in concepts for picture in concept.pictures]
    pixels = [short_side_scaled(picture.pixels, size) for _, picture in pictures]
    for (concept, picture), scaled in zip(pictures, pixels):
        if scaled.shape != pixels[0].shape:
            raise LikenessError(
                f"{concept.class_word}: {picture.name} has other proportions than {pictures[0][1].name}; "
                "crop them alike, or set whole_pictures to false"
            )
    masks = [
        np.full(image.shape[:2], 255, np.uint8)
        if picture.mask is None
        else short_side_scaled(np.round(picture.mask * 255).astype(np.uint8), size)
        for (_, picture), image in zip(pictures, pixels)
    ]
    return Examples(
        pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1,
        masks=torch.from_numpy(np.stack(masks))[:, None].float() / 255,
        concepts=torch.tensor([owner for owner, concept in enumerate(concepts) for _ in concept.pictures]),
        prior=torch.zeros(len(pictures), dtype=torch.bool),
    )


def short_side_scaled(pixels: np.ndarray, size: int) -> np.ndarray:
    """A picture or mask (H, W[, 3]) uint8 whose shorter side becomes `size`."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    target = int(size * width / short), int(size * height / short)
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR))


def check_batch_size(batch_size: int, concepts: int) -> None:
    if 0 < batch_size < concepts:
        raise LikenessError(
            f"batch_size is {batch_size}, but there are {concepts} concepts; give one picture of each at "
            "least, or 0 for all"
        )
