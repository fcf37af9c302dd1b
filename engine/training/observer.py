"""How a run tells whoever watches it how far it is, and hears from them that it should stop."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import LikenessError

log = logging.getLogger(__name__)

log = logging.getLogger(__name__)


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


class Critic(Protocol):
    """Judges pictures drawn during a run: which state is the best, and when there is no more to gain."""

    every: int  # steps between its looks, in the last phase
    shots: Sequence[tuple[str, int]]  # what is drawn for it: prompt and seed
    enough: bool  # training may end

    def consider(self, progress: Progress, pictures: Sequence[np.ndarray]) -> bool:
        """Looks at one picture (H, W, 3) uint8 per shot; whether this state is the best so far."""
        ...


def tell(observer: Observer, text: str) -> None:
    """Says a sentence about the run to whoever watches, where they listen (`on_note`), and to the log."""
    log.info("%s", text)
    listener = getattr(observer, "on_note", None)
    if listener is not None:
        listener(text)


class Silent:
    """An observer that watches nothing and never stops a run."""

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        pass

    def on_preview(self, progress: Progress, image: np.ndarray) -> None:
        pass

    def should_stop(self) -> bool:
        return False


class Logged:
    """An observer for runs that nobody sits at: a line in the log every so many steps."""

    def __init__(self, every: int = 50) -> None:
        self._every = every
        self._since, self._sums, self._steps = time.monotonic(), dict[str, float](), 0

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        self._steps += 1
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + loss
        if progress.step % self._every and progress.step < progress.total:
            return
        now = time.monotonic()
        means = ", ".join(f"{name} {total / self._steps:.5f}" for name, total in self._sums.items())
        pace = (now - self._since) / self._steps
        log.info("%s %d/%d: %s, %.3f s a step", progress.phase, progress.step, progress.total, means, pace)
        self._since, self._sums, self._steps = now, {}, 0

    def on_preview(self, progress: Progress, image: np.ndarray) -> None:
        pass

    def should_stop(self) -> bool:
        return False


class Stopped(LikenessError):
    """The user stopped the run before anything was learned."""
