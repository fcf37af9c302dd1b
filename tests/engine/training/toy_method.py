"""A method in one file, for tests only: the class word's own vectors, pushed about by plain diffusion."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.config import Job, Phase, TextualInversionSettings
from likeness_portraits.engine.data.concepts import Concept
from likeness_portraits.engine.data.examples import Batch
from likeness_portraits.engine.training.methods.base import single_phase
from likeness_portraits.engine.training.methods.plain_diffusion import PlainDiffusion
from likeness_portraits.engine.training.observer import Progress
from likeness_portraits.engine.training.tokens import TokenRows, initial_rows

NAME, PLACE = "toy", ("...tests.engine.training.toy_method", "Toy")  # as the registry holds them


@dataclass(frozen=True, kw_only=True)
class ToySettings(TextualInversionSettings):
    """Textual Inversion's, with a rate that four steps show."""

    learning_rate: float = 0.05


class Toy(PlainDiffusion):
    """Learns as many vectors as the class word has."""

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.tokens = TokenRows({c.token: initial_rows(base, c.class_word) for c in self.concepts})

    def phases(self) -> Sequence[Phase]:
        return [single_phase("toying", self.job.settings, {"words": self.job.settings.learning_rate})]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"words": list(self.tokens.parameters())}

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"diffusion": self.errors(batch).mean()}

    def artifact(self) -> Artifact:
        counts = {token: len(next(iter(rows.values()))) for token, rows in self.rows().items()}
        return self.learned("embedding", self.tokens.tensors(), counts)
