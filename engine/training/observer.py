"""How a run tells whoever watches it how far it is, and hears from them that it should stop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import LikenessError


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; steps count optimiser steps that are done."""

    phase: str
    phase_step: int
    phase_steps: int
    step: int  # over all phases
    total: int
    stopped: bool = False  # by the user, before the end


class Observer(Protocol):
    """Whoever watches a run; called in the main process only."""

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None: ...

    def on_preview(self, progress: Progress, image: np.ndarray) -> None: ...  # (H, W, 3) uint8

    def should_stop(self) -> bool: ...


class Silent:
    """An observer that watches nothing and never stops a run."""

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        pass

    def on_preview(self, progress: Progress, image: np.ndarray) -> None:
        pass

    def should_stop(self) -> bool:
        return False


class Stopped(LikenessError):
    """The user stopped the run before anything was learned."""
