"""Faces drawn again by the diffusion model itself, headless: a crop, partly noised, is denoised anew."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..artifact import Artifact
from ..errors import LikenessError
from .generate import generate
from .restore import Pixels

if TYPE_CHECKING:
    from ..training.base_model import BaseModel

DENOISE = 0.4  # share of the schedule: enough for skin and eyes, too little for another pose


@dataclass(kw_only=True)
class Detailer:
    """Draws faces again as the prompt says, with the concepts applied; called with a crop (S, S, 3).

    All faces of all pictures begin from the same noise, as a node of ComfyUI with one seed would have it.
    """

    base: "BaseModel"
    prompt: str
    negative: str = ""
    artifacts: Sequence[tuple[Artifact, float]] = field(default=())
    denoise: float = DENOISE
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0
    sampler: str = "euler"
    schedule: str = "simple"

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise LikenessError("faces are drawn again from a prompt; write one, such as 'a photo of <v0>'")

    @property
    def side(self) -> int:
        """The crop's side (pixels) that the base draws best."""
        return self.base.resolution

    def __call__(self, face: Pixels) -> Pixels:
        drawn = generate(
            self.base,
            [self.prompt],
            negative=self.negative,
            artifacts=self.artifacts,
            steps=self.steps,
            guidance=self.guidance,
            seed=self.seed,
            sampler=self.sampler,
            schedule=self.schedule,
            start=face[None],
            denoise=self.denoise,
        )
        return drawn[0].astype("float32") / 255
