"""The parts of a base that a single-file checkpoint may lack, as options of every command that loads one."""

from dataclasses import dataclass
from typing import Annotated

from typer import Option

from ..config import BaseSpec
from ..config.specs import PREDICTIONS

VAE_OPTION = Annotated[
    str | None, Option(help="For a checkpoint: another VAE; its file, a checkpoint or a diffusers folder.")
]
_PREDICTIONS = ", ".join(PREDICTIONS)
CLIP = Annotated[
    str | None, Option(help="For a checkpoint: other text encoders; a checkpoint or a diffusers folder.")
]
PREDICTION = Annotated[
    str | None,
    Option(help=f"What a checkpoint or folder predicts, where its files do not say: {_PREDICTIONS}."),
]
TOKENIZER = Annotated[str | None, Option(help="For a checkpoint: the folder of CLIP's tokenizer, or Qwen's.")]


@dataclass(frozen=True, kw_only=True)
class BaseParts:
    """What stands in for a checkpoint's own parts."""

    vae: VAE_OPTION = None
    clip: CLIP = None
    tokenizer: TOKENIZER = None
    prediction: PREDICTION = None

    def spec(self, base: str) -> BaseSpec:
        """The base of this name or place, with these parts."""
        return BaseSpec.parse(
            base, vae=self.vae, clip=self.clip, tokenizer=self.tokenizer, prediction=self.prediction
        )
