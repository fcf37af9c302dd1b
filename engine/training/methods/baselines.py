"""Methods that others are compared with: Textual Inversion and DreamBooth-LoRA."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from torch import Tensor, nn

from ...artifact import Artifact
from ...artifact.lora import RANK_BY_NOISE
from ...bases.base import BaseModel
from ...bases.lora_ranks import RankByNoise
from ...config import DreamBoothLoraSettings, Job, Phase, TextualInversionSettings, block_ranks
from ...data.concepts import Concept
from ...data.examples import Batch
from ...errors import LikenessError
from .. import lora
from ..adapters import AdapterShape
from ..capabilities import Capabilities
from ..observer import Progress
from ..tokens import TokenRows, initial_rows
from .base import single_phase
from .plain_diffusion import BesidePrior, PlainDiffusion


class TextualInversion(PlainDiffusion):
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


class DreamBoothLora(BesidePrior):
    """DreamBooth (Ruiz et al. 2023) with LoRA (Hu et al. 2021): low-rank updates of the attention layers,
    trained beside pictures of the class that the untouched base drew, so that the class stays what it was."""

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.settings: DreamBoothLoraSettings = job.settings
        if self.settings.adapter != "lora" and base.traits.peft_names:
            raise LikenessError(
                f"files for {base.traits.name} hold a LoRA; leave adapter: {self.settings.adapter} away"
            )
        self.tokens = TokenRows({c.token: self._first_rows(c) for c in self.concepts})
        self._unet_lora: list[nn.Parameter] = []
        self._text_lora: list[nn.Parameter] = []
        self._deafen: Callable[[], None] | None = None  # ends listening to the network's noise

    @classmethod
    def capabilities_for(cls, job: Job) -> Capabilities:
        trained_text = job.settings.train_token or job.settings.text_encoder
        by_noise = job.settings.min_rank is not None
        return replace(
            super().capabilities_for(job), trained_text=trained_text, hooked_layers=by_noise,
            half=job.settings.adapter in ("lora", "dora"),  # the others multiply whole weights
        )  # fmt: skip

    def _first_rows(self, concept: Concept) -> dict[str, Tensor]:
        if self.settings.train_token:
            return initial_rows(self.base, concept.class_word, self.settings.vectors)
        return initial_rows(self.base, f"{self.settings.identifier} {concept.class_word}")

    def attach(self) -> None:
        settings, ranks = self.settings, None
        if settings.min_rank is not None:
            ranks = RankByNoise(self.base.process, settings.rank, settings.min_rank)
            self._deafen = ranks.listen(self.base.network)
        shape = AdapterShape(
            kind=settings.adapter, rank=settings.rank, alpha=settings.alpha, rslora=settings.rslora,
            by_block=block_ranks(settings.rank_by_block),
        )  # fmt: skip
        self._unet_lora = lora.inject(
            self.base.network, self._targets(), settings.rank, settings.alpha,
            orthogonal=settings.orthogonal, ranks=ranks, shape=shape,
        )  # fmt: skip
        if settings.text_encoder:
            alike = replace(shape, by_block=())  # whose patterns are of the network's blocks
            for encoder in self.base.text_encoders.values():
                self._text_lora += lora.inject(
                    encoder, self.base.text.lora_targets, settings.rank, settings.alpha, shape=alike
                )

    def _targets(self) -> tuple[str, ...]:
        """Endings of the paths of the network's layers that are adapted."""
        purpose = {"feed-forward": "blocks"}.get(self.settings.layers, self.settings.layers)
        targets = self.base.denoiser.lora_targets
        if purpose not in targets:
            raise LikenessError(
                f"{self.base.traits.name} has no {purpose}; choose layers: feed-forward, which are all"
            )
        return targets[purpose]

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        rates = {"unet": settings.unet_learning_rate}
        if settings.text_encoder:
            rates["text_encoder"] = settings.text_encoder_learning_rate
        if settings.train_token:
            rates["tokens"] = settings.token_learning_rate
        return [single_phase("tuning", settings, rates)]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {"unet": self._unet_lora}
        if self.settings.text_encoder:
            groups["text_encoder"] = self._text_lora
        if self.settings.train_token:
            groups["tokens"] = list(self.tokens.parameters())
        return groups

    def artifact(self) -> Artifact:
        tensors = {**lora.tensors(self.base), **self.tokens.tensors()}
        artifact = self.learned("lora", tensors, self.rows_each())
        if self.settings.min_rank is None:
            return artifact
        by_noise = {"rank": self.settings.rank, "least": self.settings.min_rank}
        return replace(artifact, extra={RANK_BY_NOISE: by_noise})

    def extra_state(self) -> dict[str, Tensor]:
        return lora.starts(self.base.network)

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        for name, start in lora.starts(self.base.network).items():
            start.copy_(state[name])

    def untouched(self) -> AbstractContextManager[None]:
        return lora.switched_off(self.base.network, *self.base.text_encoders.values())

    def close(self) -> None:
        for module in (self.base.network, *self.base.text_encoders.values()):
            lora.remove(module)
        if self._deafen is not None:
            self._deafen()
