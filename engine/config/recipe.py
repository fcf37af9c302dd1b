"""How a run steps, whatever its method: optimiser, restarts of the schedule, average of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import LikenessError
from .checks import above_zero, at_least, at_most, one_of

OPTIMIZERS = {  # by the package that has each; None: torch or transformers, which are there
    "adamw": None,
    "adamw8bit": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedulefree": "schedulefree",
    "adafactor": None,
    "lion": "pytorch_optimizer",
    "muon": "pytorch_optimizer",
}
TIMESTEP_SAMPLING = ("logit-normal", "uniform")  # most in the middle (Esser et al. 2024), or evenly


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all methods' steps have in common; as by default, a run is what its method alone says."""

    optimizer: str = "adamw"  # of OPTIMIZERS
    ema: float | None = None  # decay of a moving average of what is trained, such as 0.99: the file is that
    cycles: int = 3  # times that the schedule cosine_with_restarts falls to 0
    huber: float | None = None  # errors beyond it count linearly (pseudo-Huber), such as 0.1; None: squares
    debiased: bool = False  # errors weigh 1/sqrt(SNR) (Yu et al. 2023), in the place of min_snr_gamma
    noise_offset: float = 0.0  # of each channel as a whole, such as 0.05: darker and lighter pictures
    least_noise: float = 0.0  # times that are learned at, as shares of the way from the picture to noise
    most_noise: float = 1.0
    timestep_sampling: str = TIMESTEP_SAMPLING[0]  # of these, on flows; noise schedules are learned evenly

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        at_least(self, 0, "ema")
        at_most(self, 0.999999, "ema")
        at_least(self, 1, "cycles")
        above_zero(self, "huber")
        one_of("timestep_sampling", self.timestep_sampling, TIMESTEP_SAMPLING)
        at_least(self, 0, "noise_offset", "least_noise")
        at_most(self, 1, "noise_offset", "most_noise")
        if self.least_noise >= self.most_noise:
            raise LikenessError(
                f"'least_noise' is {self.least_noise}, 'most_noise' {self.most_noise}; give a range"
            )
        if self.ema and self.optimizer == "schedulefree":
            raise LikenessError("schedulefree averages what it trains by itself; leave ema away")

    def of_loss(self) -> list[str]:
        """What is said of the loss, which some methods have of their own."""
        return [name for name in self.unusual() if name not in ("optimizer", "ema", "cycles")]

    def unusual(self) -> dict[str, Any]:
        """What is not as by default."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)
                if getattr(self, entry.name) != entry.default}  # fmt: skip


def gathered(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A job's keys, those of the recipe under `recipe`: `optimizer: lion` may stand by itself."""
    named = {entry.name for entry in fields(Recipe)}
    loose = {name: value for name, value in plain.items() if name in named}
    rest = {name: value for name, value in plain.items() if name not in named}
    recipe = rest.get("recipe")
    if loose and (recipe is None or isinstance(recipe, Mapping)):
        rest["recipe"] = {**(recipe or {}), **loose}
    return rest if loose else dict(plain)
