"""What a run measured, kept: a row for each step in a CSV file; on request TensorBoard, Weights & Biases.

A run that goes on appends to its file; rows behind the step it goes on from are of steps that are done again.
"""

import csv
import importlib.util
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Job
from ..errors import LikenessError, first_line
from ..files import make_folder, write_atomically
from .observer import Observer, Progress

log = logging.getLogger(__name__)

FLUSHED = 50  # steps that are written together: reading losses makes a GPU wait
STEP, PHASE, LOSS = "step", "phase", "loss"
_STEP = re.compile(r"[0-9]{1,12}")


class Recorded:
    """An observer that records what it hears and hands it on to another."""

    def __init__(self, observer: Observer, job: Job) -> None:
        for name in job.log:
            check_tracker(name)
        self._observer = observer
        self._job = job
        self._rows: dict[int, dict[str, Any]] = {}  # by step, not written yet
        self._unread: dict[int, Mapping[str, float]] = {}  # losses of those steps
        self._table = LossTable(place_of(Path(job.output)))
        self._trackers: list[Any] | None = None  # begun with the first number: in the main process alone

    def __getattr__(self, name: str) -> Any:
        """What else the other listens to."""
        return getattr(self._observer, name)

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        self._begin(progress.step - 1)
        self._observer.on_step(progress, losses)
        if len(self._rows) >= FLUSHED:  # before this step: its scores are still to come
            self.flush()
        self._rows[progress.step] = {STEP: progress.step, PHASE: progress.phase}
        self._unread[progress.step] = losses

    def on_scores(self, progress: Progress, scores: Mapping[str, float]) -> None:
        self.record(progress.step, scores)
        listener = getattr(self._observer, "on_scores", None)
        if listener is not None:
            listener(progress, scores)

    def record(self, step: int, scores: Mapping[str, float]) -> None:
        """Numbers that somebody else measured at a step: also before the first, where a stop had broken into
        measuring them."""
        self._begin(step)
        self._rows.setdefault(step, {STEP: step}).update(scores)

    def on_checkpoint(self) -> None:
        """A run that goes on from here has the rows until here."""
        self.flush()

    def on_preview(self, progress: Progress, image: np.ndarray) -> None:
        self._observer.on_preview(progress, image)
        if self._trackers:
            self.flush()  # W&B takes nothing of a step before one that it knows
        for tracker in self._trackers or ():
            how = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            self._told(tracker, tracker.log_images, {"preview": image[None]}, step=progress.step, **how)

    def should_stop(self) -> bool:
        return self._observer.should_stop()

    def flush(self) -> None:
        """Writes what is not written yet."""
        for step, losses in self._unread.items():
            terms = dict(losses)
            self._rows[step] |= {LOSS: sum(terms.values()), **(terms if len(terms) > 1 else {})}
        rows, self._rows, self._unread = sorted(self._rows.values(), key=lambda row: row[STEP]), {}, {}
        self._table.append(rows)
        for tracker in self._trackers or ():
            for row in rows:
                numbers = {name: value for name, value in row.items() if name not in (STEP, PHASE)}
                self._told(tracker, tracker.log, numbers, step=row[STEP])

    def close(self) -> None:
        """Writes the rest; trackers end."""
        self.flush()
        for tracker in self._trackers or ():
            self._told(tracker, getattr(tracker.tracker, "finish", None) or tracker.tracker.close)
        self._trackers = []

    def _begin(self, done: int) -> None:
        """Once, in a run that begins or goes on after so many steps."""
        if self._trackers is None:
            self._table.begin(done)
            self._trackers = [begun_tracker(name, self._job) for name in self._job.log]

    def _told(self, tracker: Any, how: Callable[..., Any], *what: Any, **options: Any) -> None:
        """Hands something to a tracker; one that fails (a full disk, no net) hears nothing more."""
        if tracker not in (self._trackers or ()):
            return
        try:
            how(*what, **options)
        except Exception as error:  # each library raises its own
            self._trackers = [other for other in self._trackers or () if other is not tracker]
            log.warning(
                "%s fails (%s); learning goes on without it, numbers are in %s",
                tracker.name, first_line(error), self._table.path,
            )  # fmt: skip


class LossTable:
    """A CSV file of a run's numbers: columns are added when they first occur."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        self._last = 0  # step that has a row
        self._broken = False

    def begin(self, done: int) -> None:
        """The run begins after so many steps: rows of those stay, later ones go."""
        rows = read_table(self.path) if done else []
        rows = [row for row in rows if int(row[STEP]) <= done]
        measured = (name for row in rows for name in row)
        self._columns = list(dict.fromkeys([STEP, PHASE, LOSS, *measured]))  # what `place_of` knows ours by
        self._last = max((int(row[STEP]) for row in rows), default=0)
        self._write(rows)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of further steps, in order; numbers of a step that has a row go into that."""
        if not rows or self._broken:
            return
        fresh = [name for row in rows for name in row if name not in self._columns]
        written, self._last = self._last, max(self._last, rows[-1][STEP])
        if fresh or rows[0][STEP] <= written:
            self._columns += dict.fromkeys(fresh)
            by_step: dict[int, dict[str, Any]] = {}
            for row in [*read_table(self.path), *rows]:
                by_step.setdefault(int(row[STEP]), {}).update(row)
            self._write([by_step[step] for step in sorted(by_step)])
            return
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                self._rows_to(file, rows)
        except OSError as error:
            self._give_up(error)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The whole file anew."""
        try:
            with write_atomically(self.path) as temporary:
                with open(temporary, "w", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, self._columns).writeheader()
                    self._rows_to(file, rows)
        except (OSError, LikenessError) as error:
            self._give_up(error)

    def _rows_to(self, file: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        writer = csv.DictWriter(file, self._columns)
        for row in rows:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )

    def _give_up(self, error: Exception) -> None:
        """What is learned is worth more than its log."""
        self._broken = True
        log.warning("%s cannot be written (%s); learning goes on without it", self.path, error)


def place_of(output: Path) -> Path:
    """`<output>.log.csv`; where that is somebody else's, `<output>.likeness-log.csv`."""
    usual = output.with_suffix(".log.csv")
    if _is_ours(usual):
        return usual
    other = output.with_suffix(".likeness-log.csv")
    log.warning("%s is no log of a run and is left as it is; this run's numbers are in %s", usual, other)
    return other


def _is_ours(path: Path) -> bool:
    """Whether there is no such file, or a run wrote it; one that cannot be read is said when written."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            first = file.readline(1 << 16)
    except UnicodeDecodeError:
        return False
    except OSError:
        return True
    columns = first.rstrip("\r\n").split(",")
    return not first or columns[:3] == [STEP, PHASE, LOSS]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a log that can be read; none where there is no such file. A line cut short is left out."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = file.read().splitlines(keepends=True)
        whole = lines if lines and lines[-1].endswith("\n") else lines[:-1]  # a cut number looks like another
        rows = list(csv.DictReader(whole))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [
        {name: value for name, value in row.items() if value}
        for row in rows
        if None not in row and None not in row.values() and _STEP.fullmatch(row.get(STEP, ""))
    ]


def check_tracker(name: str) -> None:
    """Raises LikenessError where a tracker is not installed."""
    if importlib.util.find_spec(name) is None:
        raise LikenessError(
            f"{name} is not installed; run `pip install 'likeness-portraits[logs]'`, or leave it away: "
            "everything is in the CSV file too"
        )


def begun_tracker(name: str, job: Job) -> Any:
    """One of Accelerate's trackers, that knows the job: TensorBoard's lies in `<output>.logs/`."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    output = Path(job.output)
    kind = LOGGER_TYPE_TO_CLASS[name]
    try:
        if name == "tensorboard":
            tracker = kind(run_name=output.stem, logging_dir=make_folder(output.with_suffix(".logs")))
        else:
            tracker = kind(run_name="likeness", name=output.stem, config=_flat(job))
        if hasattr(tracker, "start"):  # since accelerate 1.9
            tracker.start()
    except Exception as error:  # nobody logged in, no net: each library raises its own
        raise LikenessError(
            f"{name} does not begin ({first_line(error)}); mend that, or leave --log {name} away: everything "
            "is in the CSV file too"
        ) from error
    return tracker


def _flat(job: Job) -> dict[str, Any]:
    """The job's plain numbers and words, settings among them; no paths."""
    plain = job.to_dict()
    whole = {**plain, **plain["settings"], **plain["recipe"]}
    left_out = ("output", "cache", *getattr(job.settings, "FILES", ()))
    return {
        name: value
        for name, value in whole.items()
        if name not in left_out and isinstance(value, bool | int | float | str)
    }
