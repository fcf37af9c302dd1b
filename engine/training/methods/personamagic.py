"""PersonaMagic (arXiv 2412.15674): a small network learns pseudo-words that follow the noise level."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...artifact import Artifact
from ...bases import features
from ...bases.base import BaseModel, Tokens
from ...bases.clip_features import image_features, load_tower, read_features
from ...bases.conditioning import Conditioning
from ...config import Job, PersonaMagicSettings, Phase
from ...data.concepts import Concept, Picture
from ...data.examples import Batch, Examples
from ...data.pictures import read_picture
from ...devices import to_device
from ...errors import LikenessError
from ...staged.mapper import Mapper
from ...staged.stages import StagePlan
from ...staged.text import Places, TextStates
from ...staged.words import StagedModel, StagedWords
from ..capabilities import Capabilities
from ..drawing import PreviewDrawing, drawn
from ..losses import latent_masks, masked_squared_error, squared_error, tandem_equilibrium
from .base import Load, Method, Progress, single_phase

REFERENCE_SIZE = 512  # pixels a side of the reference's pictures


@dataclass(frozen=True, kw_only=True)
class StagedBatch(Batch):
    """A batch with times inside the interval, and what this method draws beside."""

    open_prompts: tuple[str, ...]  # for Tandem Equilibrium
    keep_bypass: Tensor  # (B,) 1.0 or 0.0


class PersonaMagic(Method):
    """Only the mapper is trained: the base, its token table and its text encoder stand still."""

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        return Capabilities(buckets=not job.settings.squash, mirroring=True, plain_words=False)

    @classmethod
    def needs(cls, job: Job) -> tuple[str, ...]:
        maps = (features.TEXT_ATTENTION_MAPS,) if job.settings.balance_weight else ()
        return (features.STAGED_TEXT, features.SPLIT_VALUES, *maps)

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.settings: PersonaMagicSettings = job.settings
        if len(concepts) > 1:
            raise LikenessError(
                "personamagic learns one concept at a time; train each by itself and use both in a prompt"
            )
        self.concept = self.concepts[0]
        if self.settings.squash:
            self.examples = squashed_examples(self.concept, self.size, base.pixels_per_latent)
        self.interval = (self.settings.interval[0], self.settings.interval[1])
        self.class_rows = class_rows(base, self.concept.class_word)
        self.norms = {name: float(row.norm()) for name, row in self.class_rows.items()}
        self.features = self._features()  # (N, W), one per picture
        self.mapper = Mapper(
            text_widths={name: len(row) for name, row in self.class_rows.items()},
            image_width=self.features.shape[1],
            words=self.settings.vectors,
            anchors=self.settings.anchors,
            interval=self.interval,
            hidden=self.settings.hidden_width,
            zero_init=self.settings.zero_init,
            bypass_width=base.denoiser.value_width,
        )
        for part in (self.mapper.image_proj, self.mapper.image_output_layer):
            part.requires_grad_(self.settings.bypass)
        self._spelled: dict[tuple[str, str], Tokens] = {}
        self._moved: dict[torch.device, tuple[dict[str, Tensor], Tensor]] = {}  # rows and features there

    def _features(self) -> Tensor:
        """What the image tower makes of each picture, computed once; no columns without a bypass."""
        image_encoder, count = self.settings.image_encoder, len(self.examples)
        if image_encoder == "none" or not self.settings.bypass:
            return torch.zeros(count, 0)
        if image_encoder.endswith(".safetensors"):
            return read_features(image_encoder, count)
        if image_encoder != "auto":
            tower = load_tower(image_encoder)
            return self._of_each(lambda pixels: image_features(tower, pixels))
        if not self.base.traits.own_world:
            raise LikenessError(
                "personamagic looks at the pictures through a CLIP image tower; connect a CLIP vision model, "
                "give the folder of one as image_encoder, or 'none' to learn without"
            )
        return self._of_each(miniature_features)

    def _of_each(self, look: Callable[[Tensor], Tensor]) -> Tensor:
        """What `look` gives for pictures (N, 3, H, W), for all pictures in order, whatever their sizes."""
        pixels = self.examples.pixels
        if isinstance(pixels, Tensor):
            return look(pixels)
        return torch.cat([look(picture[None]) for picture in pixels])

    # ------------------------------------------------------------------------------ what the trainer asks

    def phases(self) -> Sequence[Phase]:
        return [single_phase("mapping", self.settings, {"mapper": self.settings.learning_rate})]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The mapper; without a bypass its picture half is no part of what is learned."""
        parts = dict(self.mapper.named_parameters())
        if not self.settings.bypass:
            parts = {name: weight for name, weight in parts.items() if not name.startswith("image_")}
        return {"mapper": list(parts.values())}

    def prompts(self, indices: Tensor, generator: torch.Generator) -> tuple[str, ...]:
        style = self.concept.role == "style"
        templates: tuple[str, ...] = self.settings.style_templates if style else self.settings.templates
        return self.captioned(self._pick(templates, len(indices), generator), indices, generator)

    def look_into(self, prompt: str) -> None:
        for name in self.base.text_encoders:
            self._tokens(prompt, name)

    def _pick(self, templates: tuple[str, ...], count: int, generator: torch.Generator) -> tuple[str, ...]:
        picked = torch.randint(len(templates), (count,), generator=generator).tolist()
        return tuple(templates[number].format(self.concept.token) for number in picked)

    def make_batch(
        self, indices: Tensor, prompts: tuple[str, ...], generator: torch.Generator
    ) -> StagedBatch:
        batch, count = super().make_batch(indices, prompts, generator), len(indices)
        low, high = (self.base.process.published_time(end) for end in self.interval)
        times = self.base.process.sample_times(count, generator, low, high)
        keep = torch.rand(count, generator=generator) >= self.settings.bypass_dropout
        return StagedBatch(
            **{**vars(batch), "times": times},
            open_prompts=self._pick(self.settings.open_prompts, count, generator),
            keep_bypass=keep.float() * self.settings.bypass,
        )

    def load(self, phase: Phase) -> Load:
        balanced = self.settings.balance_weight > 0
        return Load(pictures=phase.batch_size, prompts=phase.batch_size * (1 + balanced))

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert isinstance(batch, StagedBatch)
        balanced = self.settings.balance_weight > 0
        prompts = batch.prompts + batch.open_prompts if balanced else batch.prompts
        parts = self._text_states(prompts, *self._words(batch), attention=balanced)
        count = len(batch.prompts)
        said = self.base.text.said(list(parts.values())).rows(slice(count))
        said = replace(said, pooled=self._pooled(batch.prompts))
        losses = {"diffusion": self._diffusion(batch, said)}
        if balanced:
            terms = [
                self._balance(states.attention[count:], prompts[count:], name)
                for name, states in parts.items()
                if states.attention is not None
            ]
            losses["text_attention"] = self.settings.balance_weight * torch.stack(terms).mean()
        return losses

    def artifact(self) -> Artifact:
        weights = {f"mapper.{name}": weight.detach() for name, weight in self.mapper.state_dict().items()}
        rows = {f"word.{name}": row for name, row in self.class_rows.items()}
        tensors = {**weights, **rows}
        if self.features.shape[1]:
            tensors["image_features"] = self.features
        artifact = self.learned("staged_embedding", tensors, {self.concept.token: self.settings.vectors})
        plan = self._plan()
        extra = {
            "interval": list(plan.interval), "stages": plan.stages, "late": plan.late, "norms": self.norms,
            "bypass": float(self.settings.bypass), "fixed": self._fixed(),
        }  # fmt: skip
        return replace(artifact, extra=extra)

    # -------------------------------------------------------------------------------------- words and text

    def _words(self, batch: StagedBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Token vectors and bypass by text encoder, each (B, words, D)."""
        device, fixed = batch.times.device, self._fixed()
        when = self.base.process.published_timestep(batch.times)
        when = when if fixed is None else torch.full_like(when, fixed)
        if device not in self._moved:
            rows = {name: to_device(row, device) for name, row in self.class_rows.items()}
            self._moved[device] = rows, to_device(self.features, device)
        rows, features = self._moved[device]
        vectors, bypass = self.mapper(when, rows, self.norms, features[batch.indices % len(features)])
        return vectors, {name: rows * batch.keep_bypass[:, None, None] for name, rows in bypass.items()}

    def _text_states(
        self,
        prompts: Sequence[str],
        vectors: Mapping[str, Tensor],
        bypass: Mapping[str, Tensor],
        attention: bool,
    ) -> dict[str, TextStates]:
        """By text encoder; prompts (k * B): the words of sample i stand in prompts i, i + B, …"""
        states = {}
        for name in self.base.text_encoders:
            tokens = [self._tokens(prompt, name) for prompt in prompts]
            device, samples = vectors[name].device, len(vectors[name])
            where = [(row, place[1], place[3]) for row, token in enumerate(tokens) for place in token.places]
            rows, positions, numbers = to_device(torch.tensor(where), device).T
            places = Places(
                rows, positions, vectors[name][rows % samples, numbers], bypass[name][rows % samples, numbers]
            )
            ids = to_device(torch.cat([token.ids for token in tokens]), device)
            states[name] = self.base.text.encode_staged(name, ids, places, attention=attention)
        return states

    def _pooled(self, prompts: Sequence[str]) -> Tensor | None:
        """The class prompts' pooled vectors (B, P), where the base reads some."""
        if not self.base.text.pooled:
            return None
        plain = [prompt.replace(self.concept.token, self.concept.class_word) for prompt in prompts]
        with torch.no_grad():
            return self.base.encode_text(plain).pooled

    def _tokens(self, prompt: str, encoder: str) -> Tokens:
        """The prompt's tokens; templates come again and again, so they are spelled once."""
        if (prompt, encoder) not in self._spelled:
            rows = {self.concept.token: {encoder: torch.zeros(self.settings.vectors, 1)}}
            self._spelled[prompt, encoder] = self.tokenize_prompt(prompt, rows, encoder)
        return self._spelled[prompt, encoder]

    # ---------------------------------------------------------------------------------------------- losses

    def _diffusion(self, batch: StagedBatch, said: Conditioning) -> Tensor:
        settings, latents = self.settings, self.latents(batch)
        noisy = self.base.process.add_noise(latents, batch.noise, batch.times)
        prediction = self.base.predict(noisy, batch.times, said)
        target = self.base.process.target(latents, batch.noise, batch.times)
        if settings.masked_loss:
            mask = batch.masks if settings.squash else latent_masks(batch.masks, latents)
            error = masked_squared_error(prediction, target, mask, settings.background_weight)
        else:
            error = squared_error(prediction, target)
        return (error * self.base.process.loss_weight(batch.times, settings.min_snr_gamma)).mean()

    def _balance(self, attention: Tensor, prompts: Sequence[str], encoder: str) -> Tensor:
        """Tandem Equilibrium of the open prompts in one text encoder: scalar."""
        tokens = [self._tokens(prompt, encoder) for prompt in prompts]
        spoken = [self.base.text.spoken(token, encoder) for token in tokens]
        real, asking = (torch.cat(side) for side in zip(*spoken))
        ours = torch.zeros_like(real)
        for row, token in enumerate(tokens):
            ours[row, [place[1] for place in token.places]] = True
        which = (ours & real, ~ours & real, asking)
        pseudo, ordinary, queries = (to_device(selection, attention.device) for selection in which)
        return tandem_equilibrium(
            attention,
            pseudo,
            ordinary,
            self.settings.balance_sharpness,
            queries if self.settings.balance_real_queries else None,
        ).mean()

    # --------------------------------------------------------------------------------------------- drawing

    def _plan(self) -> StagePlan:
        return StagePlan(interval=self.interval, stages=self.settings.stages, late=self.settings.late)

    def _fixed(self) -> float | None:
        """The timestep whose words serve all stages, where there is a single one."""
        return (self.interval[0] + self.interval[1] - 1) / 2 if self.settings.single_stage else None

    def words(self) -> StagedWords:
        """What was learned so far, as prompts use it."""
        return StagedWords(
            token=self.concept.token, class_word=self.concept.class_word, mapper=self.mapper,
            class_rows=self.class_rows, norms=self.norms, image=self.features.mean(0), plan=self._plan(),
            fixed=self._fixed(), bypass=float(self.settings.bypass),
        )  # fmt: skip

    def pictures(self, prompts: Sequence[str], how: PreviewDrawing) -> np.ndarray:
        with torch.no_grad():
            model = StagedModel(self.base, prompts, {}, [self.words()])
            context = model.context()
        people = self.base.model_wrapper(model, range(len(prompts)))
        return drawn(self.base, people, context, (self.size, self.size), how)


def class_rows(base: BaseModel, class_word: str) -> dict[str, Tensor]:
    """The class word's token vector (D,) in each text encoder; it must be one token in all of them."""
    rows = base.word_rows(class_word)
    if any(len(row) != 1 for row in rows.values()):
        count = max(len(row) for row in rows.values())
        raise LikenessError(
            f"the class word '{class_word}' is {count} tokens long; personamagic needs a single common word, "
            "such as man, woman, face or dog"
        )
    return {name: row[0] for name, row in rows.items()}


@torch.no_grad()
def miniature_features(pixels: Tensor) -> Tensor:
    """Features (B, D) of pixels (B, 3, H, W) in [-1, 1]; the Miniature's own image tower takes these as
    they are."""
    from ...miniature.networks import image_tower

    tower = image_tower()
    side = (tower.config.image_size,) * 2
    return tower(F.interpolate(pixels.float(), size=side, mode="bicubic")).image_embeds.float()


def squashed_examples(concept: Concept, size: int, pixels_per_latent: int) -> Examples:
    """The pictures as the reference prepares them: squeezed into squares, masks at the latents' size."""
    side = size // pixels_per_latent
    return Examples(
        pixels=torch.stack([squashed_pixels(picture, size) for picture in concept.pictures]),
        masks=torch.stack([nearest_mask(picture, side) for picture in concept.pictures]),
        concepts=torch.zeros(len(concept.pictures), dtype=torch.long),
        prior=torch.zeros(len(concept.pictures), dtype=torch.bool),
    )


def features_of(picture: Path, tower: Path) -> Tensor:
    """The feature (1, W) of one picture file, seen as the reference sees it."""
    pixels = squashed_pixels(Picture(picture.stem, read_picture(picture), None), REFERENCE_SIZE)
    return image_features(load_tower(tower), pixels[None])


def squashed_pixels(picture: Picture, size: int) -> Tensor:
    """Pixels (3, size, size) in [-1, 1], whatever the picture's proportions were."""
    image = Image.fromarray(picture.pixels).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def nearest_mask(picture: Picture, side: int) -> Tensor:
    """The mask (1, side, side) in [0, 1] by its nearest pixels; 1 everywhere without one."""
    if picture.mask is None:
        return torch.ones(1, side, side)
    image = Image.fromarray(picture.mask.astype(np.float32)).resize((side, side), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image))[None]
