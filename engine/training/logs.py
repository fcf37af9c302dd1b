"""What a run measured, kept: a row for each step in a CSV file; on request TensorBoard, Weights & Biases.

A run that goes on appends to its file; rows behind the step it goes on from are of steps that are done again.
"""

import csv
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Job
from ..errors import LikenessError
from ..files import make_folder, write_atomically
from .observer import Observer, Progress

log = logging.getLogger(__name__)

FLUSHED = 50  # steps that are written together: reading losses makes a GPU wait
STEP, PHASE, LOSS = "step", "phase", "loss"


class Recorded:
    """An observer that records what it hears and hands it on to another."""

    def __init__(self, observer: Observer, job: Job) -> None:
        for name in job.log:
            check_tracker(name)
        self._observer = observer
        self._job = job
        self._rows: dict[int, dict[str, Any]] = {}  # by step, not written yet
        self._unread: dict[int, Mapping[str, float]] = {}  # losses of those steps
        self._table = LossTable(Path(job.output).with_suffix(".log.csv"))
        self._trackers: list[Any] | None = None  # begun with the first step: in the main process alone

    def __getattr__(self, name: str) -> Any:
        """What else the other listens to."""
        return getattr(self._observer, name)

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        if self._trackers is None:
            self._table.begin(progress.step - 1)
            self._trackers = [begun_tracker(name, self._job) for name in self._job.log]
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
        """Numbers that somebody else measured at a step."""
        self._rows.setdefault(step, {STEP: step}).update(scores)

    def on_preview(self, progress: Progress, image: np.ndarray) -> None:
        self._observer.on_preview(progress, image)
        for tracker in self._trackers or ():
            how = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"preview": image[None]}, step=progress.step, **how)

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
                tracker.log(numbers, step=row[STEP])

    def close(self) -> None:
        """Writes the rest; trackers end."""
        self.flush()
        for tracker in self._trackers or ():
            (getattr(tracker.tracker, "finish", None) or tracker.tracker.close)()
        self._trackers = []


class LossTable:
    """A CSV file of a run's numbers: columns are added when they first occur."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        self._broken = False

    def begin(self, done: int) -> None:
        """The run begins after so many steps: rows of those stay, later ones go."""
        rows = read_table(self.path) if done else []
        rows = [row for row in rows if int(row[STEP]) <= done]
        self._columns = list(dict.fromkeys(name for row in rows for name in row)) or [STEP, PHASE, LOSS]
        self._write(rows, [])

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows or self._broken:
            return
        fresh = [name for row in rows for name in row if name not in self._columns]
        if fresh:
            self._columns += dict.fromkeys(fresh)
            self._write(read_table(self.path), rows)
            return
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                self._rows_to(file, rows)
        except OSError as error:
            self._give_up(error)

    def _write(self, before: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
        """The whole file anew."""
        try:
            with write_atomically(self.path) as temporary:
                with open(temporary, "w", encoding="utf-8", newline="") as file:
                    csv.DictWriter(file, self._columns).writeheader()
                    self._rows_to(file, [*before, *rows])
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


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a log that can be read; none where there is no such file. A line cut short is left out."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [
        {name: value for name, value in row.items() if value}
        for row in rows
        if None not in row and None not in row.values() and str(row.get(STEP, "")).isdecimal()
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
    if name == "tensorboard":
        tracker = kind(run_name=output.stem, logging_dir=make_folder(output.with_suffix(".logs")))
    else:
        tracker = kind(run_name="likeness", name=output.stem, config=_flat(job.to_dict()))
    if hasattr(tracker, "start"):  # since accelerate 1.9
        tracker.start()
    return tracker


def _flat(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The job's plain numbers and words, settings among them; no paths."""
    whole = {**plain, **plain["settings"], **plain["recipe"]}
    left_out = ("output", "cache")
    return {
        name: value
        for name, value in whole.items()
        if name not in left_out and isinstance(value, bool | int | float | str)
    }
