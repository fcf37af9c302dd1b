"""A campaign: many things tried with one reader, each of which must end well or in one sentence."""

import os
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from likeness_portraits.engine.errors import LikenessError

LONGEST = 700  # characters of a sentence
SEED = int(os.environ.get("LIKENESS_SEED", "1"))  # of the slow runs; another finds other things
PATIENCE = 30  # seconds for one thing; a machine may be busy


class TooLong(BaseException):
    """It was still at it after `PATIENCE` seconds; no `except Exception` takes this for its own."""


@dataclass
class Tally:
    """What came of a campaign."""

    name: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    foreign: dict[str, str] = field(default_factory=dict)  # the smallest account of each distinct failure

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def attempt(
        self, number: int, tried: Callable[..., Any], *given: Any, names: str = "", patience: float = PATIENCE
    ) -> None:
        """Counts what comes of it: done, refused in one sentence (that mentions `names`), or foreign."""
        try:
            with _patience(patience):
                tried(*given)
            self.counts["done"] += 1
        except LikenessError as error:
            text = str(error)
            wrong = [
                reason for reason, is_so in (
                    ("several lines", "\n" in text), ("endless", len(text) > LONGEST),
                    ("names no file", names not in text), ("empty", not text.strip()),
                ) if is_so
            ]  # fmt: skip
            if wrong:
                self._blame(number, f"{' and '.join(wrong)}: {text[:300]!r}")
            else:
                self.counts["refused"] += 1
        except (Exception, TooLong) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            ours = [
                frame for frame in traceback.extract_tb(error.__traceback__) if "/engine/" in frame.filename
            ]
            last = ours[-1] if ours else place
            where = f"{last.filename.rpartition('/engine/')[2]}:{last.lineno} ({last.name})"
            deeper = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
            self._blame(number, f"{type(error).__name__} at {where}, in {deeper}: {str(error)[:200]!r}")

    def _blame(self, number: int, told: str) -> None:
        self.counts["foreign"] += 1
        self.foreign.setdefault(told.partition(": ")[0], f"number {number}: {told}")

    def summary(self) -> str:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        return f"campaign {self.name}, seed {self.seed}: {self.total} tried, {told}"

    def close(self, say: Callable[[str], None]) -> None:
        """Says the counts, and fails where anything ended otherwise than it should."""
        say(self.summary())
        assert not self.foreign, self.summary() + "\n" + "\n".join(self.foreign.values())


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "setitimer"):  # Windows: the test's own time limit has to do
        yield
        return

    def over(*_: Any) -> None:
        raise TooLong(f"after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def numbered(name: str, seed: int, count: int) -> Iterator[tuple[int, random.Random]]:
    """Numbers with a random generator each: any one of them can be tried again alone."""
    for number in range(count):
        yield number, random.Random(f"{name} {seed} {number}")
