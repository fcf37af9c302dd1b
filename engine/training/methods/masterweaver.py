"""MasterWeaver (arXiv 2405.05806): an adapter that draws a person from one picture, trained on many people.

Stage one teaches identity: reconstruction, and the same background under a mixed identity. Stage two teaches
editing: an edit of the prompt must move the text branch as it does where nobody's face is given.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...artifact import Artifact
from ...bases import features
from ...bases.base import BaseModel
from ...bases.conditioning import Conditioning
from ...bases.denoisers.seam import Seam
from ...bases.families import MINIATURE
from ...bases.process.ddpm import PUBLISHED_STEPS
from ...bases.sampling import to_bytes
from ...config import Job, MasterWeaverSettings, Phase
from ...data.captions import has_place, with_placeholder
from ...data.concepts import Concept
from ...data.examples import Batch, generator_for, mixed_seed
from ...data.identity_examples import (
    EDITING_KINDS,
    IDENTITY_KINDS,
    References,
    dropped,
    masked,
    references,
    resized,
    sample_of,
    target,
)
from ...data.shards import ReadStats, SampleStreams, ShardSample
from ...devices import to_device
from ...errors import LikenessError
from ...identity.attention import IdAttention, IdentityAttention, KeysValues, Person, text_features
from ...identity.denoiser import GuidedIdentityDenoiser
from ...identity.encoder import IdEncoder
from ...identity.files import adapter_networks, adapter_tensors
from ...identity.references import ImageTower, clip_tower, miniature_tower
from ..adapter_losses import (
    at_side,
    background_difference,
    editing_direction,
    mixed_identities,
    partners,
)
from ..attention_maps import mask_layers
from ..capabilities import Capabilities
from ..drawing import PreviewDrawing, drawn
from ..losses import squared_error
from ..momentum import Ema
from .base import Method, Progress

log = logging.getLogger(__name__)

IDENTITY, EDITING = "identity", "editing"
GRID_PEOPLE, GRID_EDITS = 4, 3  # of a preview on shards
EDITED = 3  # layers whose text branches are compared, where none are named: as many as SD 1.x has
TEXTS_KEPT = 1024  # states of edit prompts; all of them would be a gigabyte on SD 1.x


@dataclass(frozen=True, kw_only=True)
class AdapterBatch(Batch):
    """Pictures of many people, with references to each; `masks` are the faces' boxes."""

    references: Tensor  # (B, S, 3, s, s) in [-1, 1]
    filled: Tensor  # (B, S) bool: which slots hold a picture
    share: Tensor  # (B,) of a sample's own identity where it is mixed with another's
    edit_noise: Tensor  # (B, C, h, w)
    edit_times: Tensor  # (B,)
    plain_prompts: tuple[str, ...]
    edit_prompts: tuple[str, ...]
    keys: tuple[str, ...]  # of the samples, for the cache of latents


@dataclass(frozen=True)
class _Drawn:
    """One sample as it enters a batch."""

    sample: ShardSample
    pixels: Tensor
    box: Tensor
    seen: References
    text_left_out: bool


class MasterWeaver(Method):
    """ID encoder and ID attention are trained; base and image tower stand still."""

    nothing: Tensor  # (T, W): what the tower sees where there is no picture

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        # it reads shards through threads, which cannot be copied
        return Capabilities(estimate=False, sharded_base=True, plain_words=False)

    @classmethod
    def needs(cls, job: Job) -> tuple[str, ...]:
        return (features.IDENTITY_ATTENTION,)

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.settings: MasterWeaverSettings = job.settings
        tower = _tower(self.settings.image_encoder, base)
        self._tower: list[ImageTower] = [tower]  # no part of what is trained, moved or saved
        self.register_buffer("nothing", tower.nothing().float(), persistent=False)  # (T, W)
        self.encoder, self.attention = self._networks()
        self._teachers: list[IdEncoder] = []  # a list, that it is no part of what is trained
        self._seam = Seam(base.network).open()
        self.edit_layers = editing_layers(base)
        self._average = self._moving_average()
        self._lanes: SampleStreams | None = None
        self._own = self._concept_samples()
        self._moments_by_key: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._texts: OrderedDict[str, Conditioning] = OrderedDict()
        self.tally = ReadStats()

    def _networks(self) -> tuple[IdEncoder, IdAttention]:
        settings = self.settings
        if settings.adapter is not None:
            return self._from_file(settings.adapter)
        width = self._context_width()
        encoder = IdEncoder(
            dim=width, image_width=self.nothing.shape[-1], queries=settings.queries, depth=settings.depth
        )
        return encoder, IdAttention.beside(self.base.denoiser.identity_layers())

    def _from_file(self, path: str) -> tuple[IdEncoder, IdAttention]:
        artifact = Artifact.load(path)
        if artifact.kind != "id_adapter" or artifact.base_family != self.base.family:
            raise LikenessError(
                f"{path} is a {artifact.kind} for {artifact.base_family}, not an identity adapter for "
                f"{self.base.family}; give another file"
            )
        encoder, attention = adapter_networks(artifact.tensors, artifact.extra.get("head_width", 64))
        if encoder.image_width != self.nothing.shape[-1]:
            raise LikenessError(f"{path} was trained with another image encoder; give that one's folder")
        return encoder.requires_grad_(True), attention.requires_grad_(True)

    def _context_width(self) -> int:
        """Of what the layers beside which ID tokens are read take for words."""
        beside = next(iter(self.base.denoiser.identity_layers().values()))
        return beside.text.to_k.shape[1]

    def _moving_average(self) -> Ema | None:
        if not self.settings.ema_decay:
            return None
        weights = [*self.encoder.parameters(), *self.attention.parameters()]
        return Ema([self.encoder, self.attention], weights, self.settings.ema_decay)

    def _concept_samples(self) -> list[ShardSample]:
        return [
            sample_of(f"{concept.token}{picture.name}", picture.pixels,
                      spoken_of(picture.captions, concept.class_word), picture.mask)
            for concept in self.concepts for picture in concept.pictures
        ]  # fmt: skip

    # ------------------------------------------------------------------------------ what the trainer asks

    def prepare(self, check: Callable[[], None]) -> None:
        if self.settings.gradient_checkpointing:
            self.base.recompute(True)
        self._tower[0].to(self.base.device)
        if self._average is not None:
            self._average.averages = [average.to(self.base.device) for average in self._average.averages]

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        first, second = settings.identity_learning_rate, settings.editing_learning_rate
        also = {"attention": second} if settings.editing_attention else {}
        plan = [
            (IDENTITY, settings.identity_steps, {"encoder": first, "attention": first}),
            (EDITING, settings.editing_steps, {"encoder": second, **also}),
        ]
        return [
            Phase(
                name=name,
                steps=steps,
                learning_rates=rates,
                schedule=settings.schedule,
                warmup_steps=min(settings.warmup_steps, steps),
                batch_size=settings.batch_size,
                gradient_accumulation=settings.gradient_accumulation,
                max_grad_norm=settings.max_grad_norm,
                weight_decay=settings.weight_decay,
            )
            for name, steps, rates in plan
            if steps > 0
        ]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"encoder": list(self.encoder.parameters()), "attention": list(self.attention.parameters())}

    def begin_phase(self, phase: Phase) -> None:
        self._close_lanes()
        if self.settings.shards is not None:
            seed = mixed_seed(self.job.seed, phase.name) % 2**31
            settings = self.settings
            self._lanes = SampleStreams(
                settings.shards or "", phase.batch_size, seed, settings.workers, self.tally,
                web=self.job.shards_from_web,
            )  # fmt: skip
        if phase.name == EDITING:
            self._teachers = [deepcopy(self.encoder).requires_grad_(False)]

    def after_step(self, progress: Progress) -> None:
        if self._average is not None:
            done = self._average.updates
            self._average.decay = min(self.settings.ema_decay, (1 + done) / (10 + done))
            self._average.update()

    def extra_state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        if self._average is not None:
            state |= {f"average.{name}": tensor for name, tensor in self._average.state().items()}
        for teacher in self._teachers:
            state |= {f"teacher.{name}": tensor for name, tensor in teacher.state_dict().items()}
        return state

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        if self._average is not None:
            self._average.load_state(_under(state, "average."))
        for teacher in self._teachers:
            teacher.load_state_dict(_under(state, "teacher."))

    def close(self) -> None:
        self._close_lanes()
        self._seam.close()
        self.base.recompute(False)
        if self.tally.read:
            log.info("%s", self.tally.summary())

    def _close_lanes(self) -> None:
        if self._lanes is not None:
            self._lanes.close()

    # --------------------------------------------------------------------------------------------- batches

    def batch(self, phase: Phase, number: int) -> AdapterBatch:
        return self.shard(phase, number, 0, 1)

    def shard(self, phase: Phase, number: int, rank: int, world: int) -> AdapterBatch:
        """Only this process's samples are read; together the processes' shares are `batch`."""
        if phase.batch_size % world:
            raise LikenessError(
                f"{phase.batch_size} pictures per pass do not divide among {world} processes; "
                f"choose a batch_size that is a multiple of {world}"
            )
        mine = range(rank, phase.batch_size, world)
        kinds = EDITING_KINDS if phase.name == EDITING and self.settings.edited_faces else IDENTITY_KINDS

        def prepare(one: ShardSample, lane: int, position: int = number) -> _Drawn:
            return self._drawn(one, kinds, (self.job.seed, phase.name, position, lane))

        if self._lanes is not None:
            samples = self._lanes.samples(number, mine, prepare)
        else:
            size = phase.batch_size
            samples = [prepare(self._own[(number * size + lane) % len(self._own)], lane) for lane in mine]
        return self._stacked(samples, mine, phase, number)

    def _drawn(self, one: ShardSample, kinds: Sequence[float], seed: tuple[Any, ...]) -> _Drawn:
        settings = self.settings
        rng = np.random.default_rng(mixed_seed(*seed))
        seen = references(
            one, self._tower[0].side, rng, kinds=kinds, fill=settings.fill, count=settings.slots
        )
        no_picture, no_text = dropped(float(rng.random()), settings.drop)
        if seen.wanted_edit:
            self.tally.count("without_edits")
        if no_picture:
            seen = replace(seen, filled=torch.zeros_like(seen.filled))
        return _Drawn(one, *target(one, self.size, settings.squash), seen, no_text)

    def _stacked(self, samples: Sequence[_Drawn], mine: range, phase: Phase, number: int) -> AdapterBatch:
        shape, count = self.base.latent_shape(self.size, self.size), len(samples)
        generators = [generator_for(self.job.seed, "noise", phase.name, number, lane) for lane in mine]
        low, high = self.settings.editing_timesteps
        noise, posterior, edit_noise = (
            torch.stack([torch.randn(shape, generator=one) for one in generators]) for _ in range(3)
        )
        plain, edits = self._edit_prompts(samples, mine, phase, number)
        return AdapterBatch(
            pixels=torch.stack([one.pixels for one in samples]),
            masks=torch.stack([one.box for one in samples]),
            prompts=tuple("" if one.text_left_out else one.sample.caption for one in samples),
            concepts=torch.zeros(count, dtype=torch.long),
            prior=torch.zeros(count, dtype=torch.bool),
            indices=torch.tensor(list(mine)),
            noise=noise,
            posterior=posterior,
            times=self._times(generators, 0, PUBLISHED_STEPS),
            references=torch.stack([one.seen.pixels for one in samples]),
            filled=torch.stack([one.seen.filled for one in samples]),
            share=torch.stack([0.2 + 0.6 * torch.rand((), generator=one) for one in generators]),
            edit_noise=edit_noise,
            edit_times=self._times(generators, low, high),
            plain_prompts=plain,
            edit_prompts=edits,
            keys=tuple(one.sample.key for one in samples),
        )

    def _times(self, generators: Sequence[torch.Generator], low: int, high: int) -> Tensor:
        """A time for each generator, from one published timestep up to another: (B,)."""
        first, last = (self.base.process.published_time(end) for end in (low, high))
        latents = math.prod(self.base.latent_shape(self.size, self.size)[1:])
        sample = partial(self.base.process.sample_times, 1, low=first, high=last, latents=latents)
        return torch.cat([sample(one) for one in generators])

    def _edit_prompts(
        self, samples: Sequence[_Drawn], mine: range, phase: Phase, number: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Prompts without and with an edit, everything in them drawn without replacement over the batch."""
        settings, size = self.settings, phase.batch_size
        generator = generator_for(self.job.seed, "edits", phase.name, number)
        subjects, templates, edits = (
            _without_replacement(words, size, generator)
            for words in (settings.subjects, settings.edit_templates, settings.edits)
        )
        plain, edited = [], []
        for one, lane in zip(samples, mine):
            subject = subjects[lane]
            if settings.gender_from_caption:
                mentioned = [word for word in settings.subjects if word in one.sample.caption.split()]
                subject = mentioned[0] if mentioned else subject
            plain.append(templates[lane].format(subject))
            edited.append(templates[lane].format(edits[lane].format(subject)))
        return tuple(plain), tuple(edited)

    # ---------------------------------------------------------------------------------------------- losses

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert isinstance(batch, AdapterBatch)
        features, rows = self._features(batch)
        with torch.no_grad():
            context = self.base.encode_text(batch.prompts)
        editing, settings = progress.phase == EDITING, self.settings
        latents, tokens = self.latents(batch), self.tokens(self.encoder, features, rows)
        compared = progress.phase_step % settings.background_every == 0
        edited = None
        if editing and settings.editing_weight and progress.phase_step % settings.editing_every == 0:
            texts = self._known_texts([*batch.plain_prompts, *batch.edit_prompts]).chunk(2)
            edited = self._edited_ahead(batch, latents, tokens, *texts)
        losses = self.denoising_losses(batch, latents, tokens, context, editing, compared)
        if edited is not None:
            losses["editing_direction"] = edited()
        return losses

    def _edited_ahead(
        self,
        batch: AdapterBatch,
        latents: Tensor,
        tokens: Tensor,
        plain: Conditioning,
        edited: Conditioning,
    ) -> Callable[[], Tensor]:
        """What gives the weighted editing-direction loss once the other losses are there.

        Its gradients to the keys and values of ID tokens, which are all of it that is trained, are taken at
        once: the inner states of its pass, twice as many rows as a step's, do not lie beside the step's.
        """
        if self.base_in_pieces or not torch.is_grad_enabled() or _in_fp16(tokens.device):
            # half-precision gradients must be scaled up on the way, which is the trainer's to do
            return lambda: self.editing_loss(batch, latents, tokens, plain, edited)
        names, count = self.attention.names, len(tokens)
        at_once = -(-count // 2) if self.settings.editing_form == "sample" else count  # others mix samples
        slopes: list[tuple[Tensor | None, ...]] = []
        value = torch.zeros((), device=tokens.device)
        for start in range(0, count, at_once):
            part = slice(start, min(start + at_once, count))
            frozen = self._pairs(tokens[part].detach())
            leaves = [leaf.detach().requires_grad_() for name in names for leaf in frozen[name]]
            about = plain.rows(part), edited.rows(part)
            loss = self._editing_loss(batch, latents, _paired(names, leaves), *about, part)
            loss = loss * ((part.stop - start) / count)
            slopes.append(torch.autograd.grad(loss, leaves, allow_unused=True))
            value = value + loss.detach()
        gradients = [_of_pairs(parts) for parts in zip(*slopes)]

        def total() -> Tensor:
            pairs = self._pairs(tokens)
            inputs = [part for name in names for part in pairs[name]]
            used = [(part, slope) for part, slope in zip(inputs, gradients) if slope is not None]
            return _KnownSlopes.apply(value, len(used), *(part for part, _ in used), *(s for _, s in used))

        return total

    def denoising_losses(
        self,
        batch: AdapterBatch,
        latents: Tensor,
        tokens: Tensor,
        context: Conditioning,
        editing: bool = False,
        compared: bool = True,  # with a mixed identity
    ) -> dict[str, Tensor]:
        """Both losses of the first stage for ID tokens (B, n, D)."""
        settings = self.settings
        noisy = self.base.process.add_noise(latents, batch.noise, batch.times)
        with self.showing(tokens):
            prediction = self.base.predict(noisy, batch.times, context)
        targets = self.base.process.target(latents, batch.noise, batch.times)
        weight = settings.reconstruction_weight if editing else settings.identity_weight
        losses = {"diffusion": weight * squared_error(prediction, targets).mean()}
        if settings.background_weight and compared:
            mixed = self._predict_mixed(batch, noisy, tokens.detach(), context)
            faces = F.interpolate(batch.masks, size=latents.shape[-2:], mode="nearest")
            outside = background_difference(prediction, mixed, faces).mean()
            losses["background"] = settings.background_weight * outside
        return losses

    def showing(self, tokens: Tensor) -> AbstractContextManager:
        """Within, passes of the base show who these ID tokens (B, n, D) are."""
        return self._with(self.attention(tokens))

    def _with(self, keys_values: KeysValues) -> AbstractContextManager:
        return self._seam.using("identity", IdentityAttention([Person(keys_values)]))

    @torch.no_grad()
    def _predict_mixed(
        self, batch: AdapterBatch, noisy: Tensor, tokens: Tensor, context: Conditioning
    ) -> Tensor:
        if len(tokens) == 1 and self.settings.mixing == "roll":  # alone in its process: mixed with nobody
            others = self._identity(None)
        else:
            others = tokens[to_device(partners(len(tokens), self.settings.mixing), tokens.device)]
        mixed = mixed_identities(tokens, others, batch.share)
        with self.showing(mixed):
            return self.base.predict(noisy, batch.times, context)

    def editing_loss(
        self,
        batch: AdapterBatch,
        latents: Tensor,
        tokens: Tensor,
        plain: Conditioning,
        edited: Conditioning,
    ) -> Tensor:
        """The weighted editing-direction loss for what prompts say without and with an edit."""
        return self._editing_loss(batch, latents, self._pairs(tokens), plain, edited)

    def _pairs(self, tokens: Tensor) -> KeysValues:
        """Keys and values for the edited pictures, then for the same without an edit."""
        return self.attention(torch.cat([tokens, tokens]))

    def _editing_loss(
        self,
        batch: AdapterBatch,
        latents: Tensor,
        keys_values: KeysValues,
        plain: Conditioning,
        edited: Conditioning,
        part: slice = slice(None),
    ) -> Tensor:
        """For some of the batch's rows, whose keys and values, and prompts, these are."""
        times = batch.edit_times[part]
        noisy = self.base.process.add_noise(latents[part], batch.edit_noise[part], times)
        both = Conditioning.cat([edited, plain])
        student = self._branches_of(noisy, times, both, keys_values)
        with torch.no_grad():
            teacher = self._text_branches(noisy, times, both, self._nobody(len(noisy)))
        faces = F.interpolate(batch.masks[part], size=latents.shape[-2:], mode="nearest")
        weights = []
        for name in self.edit_layers:
            side = round(student[name].shape[1] ** 0.5)
            weights.append(at_side(faces, (side, side)))
        loss = editing_direction(
            [student[name].chunk(2) for name in self.edit_layers],  # pyright: ignore[reportArgumentType]
            [teacher[name].chunk(2) for name in self.edit_layers],  # pyright: ignore[reportArgumentType]
            weights,
            self.settings.editing_form,
        )
        return self.settings.editing_weight * loss

    def _text_branches(
        self, noisy: Tensor, times: Tensor, context: Conditioning, tokens: Tensor | None
    ) -> dict[str, Tensor]:
        """What the layers' text branches give (2B, N, C) where these ID tokens (B, n, D) are read."""
        return self._branches_of(noisy, times, context, None if tokens is None else self._pairs(tokens))

    def _branches_of(
        self, noisy: Tensor, times: Tensor, context: Conditioning, keys_values: KeysValues | None
    ) -> dict[str, Tensor]:
        """The same for keys and values, in a pass that may end with the last of the layers."""
        showing = nullcontext() if keys_values is None else self._with(keys_values)
        ends = not self.base_in_pieces  # FSDP puts a block's borrowed weights away at its end only
        with showing, text_features(self._seam, self.edit_layers, stop=ends) as branches:
            self.base.predict(torch.cat([noisy, noisy]), torch.cat([times, times]), context)
        return branches

    def _nobody(self, count: int) -> Tensor | None:
        """What the teacher reads: the first stage's tokens of no face (B, n, D); None: the base itself."""
        if self.settings.teacher == "base":
            return None
        none = torch.zeros(count, self.settings.slots, dtype=torch.long, device=self.nothing.device)
        return self.tokens(self._teachers[0], self.nothing[None], none)

    # ------------------------------------------------------------------------------- what the losses read

    def _features(self, batch: AdapterBatch) -> tuple[Tensor, Tensor]:
        """The tower's states (1 + n, T, W) of nothing and of all pictures; each slot's row in it (B, S)."""
        filled, device = batch.here.filled, batch.filled.device
        where = filled.flatten().nonzero()[:, 0]
        rows = torch.zeros(filled.shape, dtype=torch.long)
        rows[filled] = torch.arange(1, len(where) + 1)
        parts = [self.nothing[None]]
        if len(where):
            with torch.no_grad():
                parts.append(self._seen(batch.references.flatten(0, 1)[to_device(where, device)]))
        return torch.cat(parts), to_device(rows, device)

    def _seen(self, pixels: Tensor) -> Tensor:
        """The tower's states (N, T, W) of pictures (N, 3, s, s) in [-1, 1]."""
        tower = self._tower[0]
        mean, spread = (
            to_device(torch.tensor(values, dtype=pixels.dtype), pixels.device).view(1, 3, 1, 1)
            for values in (tower.mean, tower.spread)
        )
        return tower.states(((pixels + 1) / 2 - mean) / spread)

    def tokens(self, encoder: IdEncoder, features: Tensor, rows: Tensor) -> Tensor:
        """ID tokens (B, S * queries, D): equal slots are encoded once."""
        return encoder(features)[rows].flatten(1, 2)

    def latents(self, batch: Batch) -> Tensor:
        assert isinstance(batch, AdapterBatch)
        if not self.settings.latent_cache:
            mean, std = self.base.encode_posterior(batch.pixels)
        else:
            posteriors = [self._cached(key, pixels) for key, pixels in zip(batch.keys, batch.pixels)]
            mean, std = (torch.stack(part) for part in zip(*posteriors))
        return mean + std * batch.posterior

    def _cached(self, key: str, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Each picture is encoded by itself, so that its latents do not depend on when it first came."""
        posterior = self._moments_by_key.get(key)
        if posterior is None:
            mean, std = self.base.encode_posterior(pixels[None])
            posterior = self._moments_by_key[key] = mean[0], std[0]
            if len(self._moments_by_key) > self.settings.latent_cache:
                self._moments_by_key.popitem(last=False)
        return posterior

    @torch.no_grad()
    def _known_texts(self, prompts: Sequence[str]) -> Conditioning:
        """What prompts say that come again and again."""
        for prompt in prompts:
            if prompt not in self._texts:
                self._texts[prompt] = self.base.encode_text([prompt])
        states = Conditioning.cat([self._texts[prompt] for prompt in prompts])
        while len(self._texts) > TEXTS_KEPT:
            self._texts.popitem(last=False)
        return states

    # ------------------------------------------------------------------------------------ what comes of it

    def artifact(self) -> Artifact:
        with self._averaged():
            tensors = dict(adapter_tensors(self.encoder, self.attention))
            for concept in self.concepts:
                tensors[f"identity.{concept.token.strip('<>')}"] = self._identity(concept)[0]
            if self.concepts:
                tensors["identity_nobody"] = self._identity(None)[0]
        tensors = {name: tensor.detach().float().cpu().clone() for name, tensor in tensors.items()}
        settings = self.settings
        artifact = self.learned("id_adapter", tensors, {concept.token: 0 for concept in self.concepts})
        extra = {
            "slots": settings.slots, "head_width": self.encoder.head_width, "keep": "face and hair",
            "face_width": self.encoder.face_width, "image_width": self.encoder.image_width,
            "image_encoder": self._tower[0].name,
        }  # fmt: skip
        return replace(artifact, extra=extra)

    def _averaged(self) -> AbstractContextManager:
        return nullcontext() if self._average is None else self._average.in_place()

    def _identity(self, concept: Concept | None) -> Tensor:
        """ID tokens (1, S * queries, D) of a concept's first pictures; of nobody without one."""
        if concept is None:
            return self._tokens_of([])
        samples = [one for one in self._own if one.key.startswith(concept.token)]
        return self._tokens_of([masked(one.faces[0], 0) for one in samples[: self.settings.slots]])

    @torch.no_grad()
    def _tokens_of(self, faces: Sequence[np.ndarray]) -> Tensor:
        """ID tokens (1, S * queries, D) of one person's faces (H, W, 3), no more than there are slots."""
        rows = torch.zeros(1, self.settings.slots, dtype=torch.long, device=self.nothing.device)
        if not faces:
            return self.tokens(self.encoder, self.nothing[None], rows)
        rows[0, : len(faces)] = torch.arange(1, len(faces) + 1)
        seen = torch.stack([resized(face, self._tower[0].side) for face in faces])
        features = torch.cat([self.nothing[None], self._seen(seen.to(self.nothing.device))])
        return self.tokens(self.encoder, features, rows)

    def preview(self, prompt: str, seed: int, check: Callable[[], None]) -> np.ndarray:
        """The concept's person; where shards are learned, a grid of people under a few edits."""
        if self.settings.shards is None:
            return super().preview(prompt, seed, check)
        where = self.settings.validation or self.settings.shards
        lane = SampleStreams(where, 1, 0, web=self.job.shards_from_web)
        people = [lane.samples(number, [0], lambda one, _: one)[0] for number in range(GRID_PEOPLE)]
        rows = []
        for one in people:
            face = masked(one.faces[0], 0) if one.faces else None
            prompts = self._grid_prompts(one.caption)
            how = PreviewDrawing(seeds=[seed] * len(prompts), check=check)
            pictures = self._drawn_people([] if face is None else [face], prompts, how)
            shown = to_bytes(target(one, pictures.shape[1], self.settings.squash)[0][None])
            rows.append(np.concatenate([*shown, *pictures], axis=1))
        return np.concatenate(rows)

    def _grid_prompts(self, caption: str) -> list[str]:
        """No edit, then a few of the vocabulary, evenly picked, about the caption's kind of person."""
        settings = self.settings
        mentioned = [word for word in settings.subjects if word in caption.split()]
        subject, edits = (mentioned or list(settings.subjects))[0], list(dict.fromkeys(settings.edits))
        picked = edits[:: max(1, len(edits) // GRID_EDITS)][:GRID_EDITS]
        return [settings.edit_templates[0].format(text.format(subject)) for text in ("{}", *picked)]

    def pictures(self, prompts: Sequence[str], how: PreviewDrawing) -> np.ndarray:
        """With a placeholder in the prompts, its concept's person; else the base's own."""
        named = [concept for concept in self.concepts if any(concept.token in prompt for prompt in prompts)]
        samples = [one for one in self._own if named and one.key.startswith(named[0].token)]
        faces = [masked(one.faces[0], 0) for one in samples[: self.settings.slots]]
        words = [_as_class(prompt, self.concepts) for prompt in prompts]
        return self._drawn_people(faces, words, how)

    @torch.no_grad()
    def _drawn_people(
        self, faces: Sequence[np.ndarray], prompts: Sequence[str], how: PreviewDrawing
    ) -> np.ndarray:
        """The person with these faces in each prompt: (N, H, W, 3) uint8."""
        with self._averaged():
            somebody, nobody = self._tokens_of(faces), self._tokens_of([])
            model = GuidedIdentityDenoiser(
                self.base, self._seam, self.attention, somebody, nobody, len(prompts)
            )
            states = self.base.encode_text(prompts, weights=True)
            return drawn(self.base, model, states, (self.size, self.size), how)


def spoken_of(captions: Sequence[str], class_word: str) -> str:
    """The first caption in plain words, for no placeholder is learned here; a template without one."""
    if not captions:
        return f"a photo of a {class_word}"
    kind = f"a {class_word}"
    return captions[0] if not has_place(captions[0]) else with_placeholder(captions[0], kind)


def editing_layers(base: BaseModel) -> list[str]:
    """Whose text branches the editing loss compares: a U-Net's on the way up, three where attention is joint:
    the best that the family's row names, or those in the middle."""
    layers = mask_layers(base)
    if base.denoiser.cross_attention():
        return [name for name, layer in layers.items() if layer.part == "up"] or list(layers)
    ranked = [name for name in base.traits.attention_layers if name in layers][:EDITED]
    if ranked:
        return ranked
    names, first = list(layers), max(0, (len(layers) - EDITED) // 2)
    return names[first : first + EDITED]


def _as_class(prompt: str, concepts: Sequence[Concept]) -> str:
    """The prompt with class words for placeholders."""
    for concept in concepts:
        prompt = prompt.replace(concept.token, concept.class_word)
    return prompt


class _KnownSlopes(torch.autograd.Function):
    """A loss that is known already, with its gradients: value (), how many inputs there are, the inputs, and
    the gradient for each."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        slopes = ctx.saved_tensors
        return (None, None, *(outputs[0].to(slope) * slope for slope in slopes), *[None] * len(slopes))


def _paired(names: Sequence[str], parts: Sequence[Tensor]) -> KeysValues:
    """Keys and values by layer, out of all of them in a row."""
    return {name: (keys, values) for name, keys, values in zip(names, parts[::2], parts[1::2])}


def _of_pairs(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Gradients (2B, n, D) from those of some rows each, (2b, n, D): both halves hold all rows."""
    there = [part.chunk(2) for part in parts if part is not None]
    return torch.cat([half for side in zip(*there) for half in side]) if there else None


def _in_fp16(device: torch.device) -> bool:
    """Whether autocast computes in fp16 there; where there is no autocast at all, it does not."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return False
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _without_replacement(words: Sequence[str], count: int, generator: torch.Generator) -> list[str]:
    """`count` of the words, none again before all have come."""
    rounds = -(-count // len(words))
    order = torch.cat([torch.randperm(len(words), generator=generator) for _ in range(rounds)])
    picked: list[int] = order[:count].tolist()
    return [words[number] for number in picked]


def _tower(name: str, base: BaseModel) -> ImageTower:
    """The image tower of that name or folder."""
    name = base.traits.image_tower or name if name == "auto" else name
    if name == MINIATURE:
        return miniature_tower()
    if name == "auto":
        raise LikenessError(
            "masterweaver looks at faces through a CLIP image tower; give its folder as image_encoder, "
            "such as that of openai/clip-vit-large-patch14"
        )
    return clip_tower(name)
