"""How a run tells whoever watches it how far it is, and hears from them that it should stop."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..errors import LikenessError

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


class Losses(Mapping[str, float]):
    """A step's loss terms by name. They stay on the device until somebody looks: looking waits for the step.

    Whoever keeps these to look at them later costs the run nothing.
    """

    def __init__(self, names: Sequence[str], values: Tensor) -> None:
        """`values` (n,): one for each name."""
        self._names = tuple(names)
        self._values: Tensor | None = values
        self._read: dict[str, float] = {}

    def _looked_at(self) -> dict[str, float]:
        if self._values is not None:
            self._read, self._values = dict(zip(self._names, self._values.tolist())), None
        return self._read

    def __getitem__(self, name: str) -> float:
        return self._looked_at()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Observer(Protocol):
    """Whoever watches a run; called in the main process only.

    `on_step` hears of every step: reading the losses in each would make a GPU wait for it each time.
    """

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None: ...

    def on_preview(self, progress: Progress, image: np.ndarray) -> None: ...  # (H, W, 3) uint8

    def should_stop(self) -> bool: ...


class Critic(Protocol):
    """Judges pictures drawn during a run: which state is the best, and when there is no more to gain."""

    every: int  # steps between its looks, in the last phase
    shots: Sequence[tuple[str, int]]  # what is drawn for it: prompt and seed
    enough: bool  # training may end

    @property
    def scores(self) -> Mapping[str, float]:
        """What it found of the best state so far, by name, and the step that was at; empty before."""
        ...

    def consider(self, progress: Progress, pictures: Sequence[np.ndarray]) -> bool:
        """Looks at one picture (H, W, 3) uint8 per shot; whether this state is the best so far."""
        ...

    def memory(self) -> Mapping[str, Any]:
        """What it saw so far, for a checkpoint: JSON-able."""
        ...

    def recall(self, memory: Mapping[str, Any]) -> bool:
        """Goes on from what a critic's `memory` said; False, and nothing is taken, where it judged otherwise.

        :raises LikenessError: where it is no memory of a critic.
        """
        ...


def tell(observer: Observer, text: str) -> None:
    """Says a sentence about the run to whoever watches, where they listen (`on_note`), and to the log."""
    log.info("%s", text)
    listener = getattr(observer, "on_note", None)
    if listener is not None:
        listener(text)


def tell_scores(observer: Observer, progress: Progress, scores: Mapping[str, float]) -> None:
    """Hands numbers that are measured now and then to whoever watches, where they listen (`on_scores`)."""
    listener = getattr(observer, "on_scores", None)
    if listener is not None:
        listener(progress, scores)


def tell_of_checkpoint(observer: Observer) -> None:
    """Says that a checkpoint was written, to whoever listens (`on_checkpoint`)."""
    listener = getattr(observer, "on_checkpoint", None)
    if listener is not None:
        listener()


def mention(observer: Observer, text: str) -> None:
    """Says what the run is busy with before or between steps, to whoever watches (`on_doing`)."""
    listener = getattr(observer, "on_doing", None)
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
        self._since, self._kept = time.monotonic(), list[Mapping[str, float]]()

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        self._kept.append(losses)
        if progress.step % self._every and progress.step < progress.total:
            return
        sums: dict[str, float] = {}
        for name, loss in ((name, loss) for kept in self._kept for name, loss in kept.items()):
            sums[name] = sums.get(name, 0.0) + loss
        now, steps = time.monotonic(), len(self._kept)
        means = ", ".join(f"{name} {total / steps:.5f}" for name, total in sums.items())
        pace = (now - self._since) / steps
        log.info("%s %d/%d: %s, %.3f s a step", progress.phase, progress.step, progress.total, means, pace)
        self._since, self._kept = now, []

    def on_preview(self, progress: Progress, image: np.ndarray) -> None:
        pass

    def should_stop(self) -> bool:
        return False


class Stopped(LikenessError):
    """The user stopped the run before anything was learned."""
