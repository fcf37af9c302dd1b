"""How a run steps, whatever its method: optimiser, restarts of the schedule, average of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import LikenessError
from .checks import at_least, at_most, one_of

OPTIMIZERS = {  # by the package that has each; None: torch or transformers, which are there
    "adamw": None,
    "adamw8bit": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedulefree": "schedulefree",
    "adafactor": None,
    "lion": "pytorch_optimizer",
    "muon": "pytorch_optimizer",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all methods' steps have in common; as by default, a run is what its method alone says."""

    optimizer: str = "adamw"  # of OPTIMIZERS
    ema: float | None = None  # decay of a moving average of what is trained, such as 0.99: the file is that
    cycles: int = 3  # times that the schedule cosine_with_restarts falls to 0

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        at_least(self, 0, "ema")
        at_most(self, 0.999999, "ema")
        at_least(self, 1, "cycles")
        if self.ema and self.optimizer == "schedulefree":
            raise LikenessError("schedulefree averages what it trains by itself; leave ema away")

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
