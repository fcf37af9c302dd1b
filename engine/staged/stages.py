"""Which words a prompt uses at which noise level: class word first, pseudo-words within, and what comes last.

Stages follow the diffusion's timestep, not the sampler's step, so that any sampler and schedule can be used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import LikenessError, nearest

LAST_TIMESTEP = 999
LATE_MODES = ("hold", "class word")


@dataclass(frozen=True)
class Stage:
    """A stretch of timesteps, both ends included, that shares one encoding of the prompt."""

    high: int
    low: int
    timestep: float | None  # at which the pseudo-words are evaluated; None: the class word stands there


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """How the timesteps of the diffusion are divided."""

    interval: tuple[int, int] = (400, 800)  # where pseudo-words are trained and change with time
    stages: int = 50  # encodings within the interval
    late: str = "hold"  # below the interval: the last pseudo-words are kept, or the class word returns

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if not 1 <= self.stages <= self.interval[1] - self.interval[0]:
            raise LikenessError(
                f"{self.stages} stages do not fit between {self.interval[0]} and {self.interval[1]}; use 1 "
                f"to {self.interval[1] - self.interval[0]}"
            )
        if self.late not in LATE_MODES:
            raise LikenessError(f"unknown late mode '{self.late}'{nearest(self.late, LATE_MODES)}")

    @cached_property
    def _stages(self) -> tuple[Stage, ...]:
        low, high = self.interval
        edges = [low + round((high - low) * i / self.stages) for i in range(self.stages + 1)]
        stages = []
        if high < LAST_TIMESTEP:
            stages.append(Stage(LAST_TIMESTEP, high + 1, None))
        for i in reversed(range(self.stages)):
            # the reference draws with pseudo-words at the upper end too, although it never trains there
            top = edges[i + 1] if i == self.stages - 1 else edges[i + 1] - 1
            stages.append(Stage(min(top, LAST_TIMESTEP), edges[i], (edges[i] + edges[i + 1] - 1) / 2))
        if low > 0:
            held = stages[-1].timestep if self.late == "hold" else None
            stages.append(Stage(low - 1, 0, held))
        return tuple(stages)

    def all(self) -> tuple[Stage, ...]:
        """Every stage, from the highest timesteps down, without gap or overlap."""
        return self._stages

    def at(self, timestep: float) -> Stage:
        """The stage of a timestep."""
        nearest_step = min(max(round(timestep), 0), LAST_TIMESTEP)
        return next(stage for stage in self.all() if stage.low <= nearest_step)

    def percents(self) -> list[tuple[float, float]]:
        """Start and end of every stage as ComfyUI counts them: 0 is pure noise, 1 the picture.

        Inner boundaries lie half-way between two timesteps: a sampler's step never meets one exactly.
        """
        stages = self.all()
        inner = [1 - (stage.low - 0.5) / LAST_TIMESTEP for stage in stages[:-1]]
        edges = [0.0, *inner, 1.0]
        return list(zip(edges[:-1], edges[1:]))


def check_interval(interval: Sequence[int]) -> None:
    """Raises unless the interval is two timesteps of the diffusion, the lower one first."""
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= LAST_TIMESTEP + 1:
        raise LikenessError(
            f"the interval {list(interval)} does not lie within the timesteps 0 to {LAST_TIMESTEP}; give the "
            "lower end first, such as [400, 800]"
        )
