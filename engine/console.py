"""What people see while a command works: progress and previews on stderr, results on stdout."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import LikenessError
from .files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from .training.observer import Progress

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
BETWEEN_LOOKS = 0.5  # seconds between looks at the losses: each makes a GPU wait
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # that are written
EXIF, USER_COMMENT = 0x8769, 0x9286
_NUMBERS, _BAR = 52, 40  # columns that steps, times and a loss take; that rich's bar takes with its gap
LINES = 10  # progress lines of a whole run where nobody watches a terminal


def spell_out() -> None:
    """Lets stdout spell what it has no letters for (`\\u51fa`), as stderr does: Windows' code pages have few.

    For everything that is written there, typer's help included.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str = "") -> None:
    """A result, on stdout. Work goes on where nobody takes it (a closed pipe)."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Results under names, in two columns."""
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        say(f"{name:<{width}}  {text}".rstrip())


def note(text: str) -> None:
    """A remark on how it goes, on stderr; work goes on where nobody takes it (a closed pipe or terminal)."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def save_picture(path: Path, pixels: np.ndarray, about: Mapping[str, str] | None = None) -> Path:
    """Writes pixels (H, W, 3) uint8 as one of `PICTURE_FORMATS`, whole or not at all, with `about` in its
    text fields, or in its EXIF comment where it has none."""
    from PIL import Image

    kind = PICTURE_FORMATS.get(path.suffix.lower(), "PNG")
    options = _png_text(about or {}) if kind == "PNG" else _comment(about or {})
    with write_atomically(path) as temporary:
        Image.fromarray(pixels).save(temporary, format=kind, **options)
    return path


def _png_text(about: Mapping[str, str]) -> dict[str, Any]:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for key, value in about.items():
        text.add_itxt(key, value)
    return {"pnginfo": text}


def _comment(about: Mapping[str, str]) -> dict[str, Any]:
    """As A1111 keeps it, by lines; the pictures hardly lose."""
    from PIL import Image

    lines = "\n".join(f"{key}: {value}" for key, value in about.items())
    exif = Image.Exif()
    exif.get_ifd(EXIF)[USER_COMMENT] = b"UNICODE\0" + lines.encode("utf-16-be")
    return {"exif": exif.tobytes(), "quality": 95, "subsampling": 0} if lines else {"quality": 95}


def replacing(path: Path) -> Path:
    """The path itself; says so where something is there, which is about to be replaced."""
    if path.exists():
        note(f"{path} was there and is replaced")
    return path


class Interrupted(LikenessError):
    """The user pressed Ctrl-C before there was anything to keep."""


class Interrupt:
    """Remembers that Ctrl-C was pressed; pressed again it interrupts at once."""

    def __init__(self) -> None:
        self.pressed = False
        self._terminals: list[int] = []  # what we write to that ends with the terminal
        self._hung_up = False

    def _press(self, kind: int, _: object) -> None:
        if kind == HANGUP:
            self._hang_up()
        # shells and service managers say it several times: only a person who presses again is in a hurry
        if self.pressed and kind == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.pressed:
            self.pressed = True
            note("stopping after this step; press Ctrl-C again to give up at once")

    def _hang_up(self) -> None:
        """Whoever closed the terminal reads no more, and writing there would fail."""
        self._hung_up = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)

    @contextmanager
    def watched(self) -> Iterator["Interrupt"]:
        """While this lasts, Ctrl-C, a polite kill and the end of the terminal only set `pressed`."""
        kinds = [signal.SIGINT, signal.SIGTERM]
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:  # as nohup has it
            kinds.append(HANGUP)
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        before = {kind: signal.signal(kind, self._press) for kind in kinds}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, signal.SIG_IGN if kind == HANGUP and self._hung_up else handler)


class ConsoleObserver:
    """Shows a training run on the terminal, saves its previews, and stops it on Ctrl-C."""

    def __init__(self, what: str, previews: Path | None = None) -> None:
        self.what = what
        self.previews = previews
        self.interrupt = Interrupt()
        self.last: Progress | None = None
        self._meter: Meter | None = None
        self._shown, self._looked_at = "", 0.0

    @contextmanager
    def watching(self) -> Iterator["ConsoleObserver"]:
        try:
            with self.interrupt.watched(), meter(self.what) as self._meter:
                yield self
        except LikenessError as error:
            if self.interrupt.pressed:  # stopped before there was anything to keep
                raise Interrupted(str(error)) from error
            raise

    def on_step(self, progress: "Progress", losses: Mapping[str, float]) -> None:
        self.last = progress
        if self._meter is None:
            return
        now = time.monotonic()
        if now - self._looked_at > BETWEEN_LOOKS or progress.step == progress.total:
            self._looked_at = now
            self._shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self._meter(progress.step, progress.total, self._shown)

    def on_note(self, text: str) -> None:
        note(f"{self.what}: {text}")

    def on_scores(self, progress: "Progress", scores: Mapping[str, float]) -> None:
        measured = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.on_note(f"step {progress.step}: {measured}")

    def on_preview(self, progress: "Progress", image: np.ndarray) -> None:
        if self.previews is not None:
            save_picture(self.previews / f"step-{progress.step:06d}.png", image)

    def should_stop(self) -> bool:
        return self.interrupt.pressed


Meter = Callable[[int, int, str], None]  # done, total, what else to show


@contextmanager
def meter(what: str) -> Iterator[Meter]:
    """A progress bar on a terminal, or a line now and then where stderr goes to a file."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console, what) as bar:
            task = bar.add_task(what, total=None, more="")

            def show(done: int, total: int, more: str) -> None:
                bar.update(task, completed=done, total=total, more=more)

            yield show
    else:
        yield _lines(what)


def _bar(console: "Console", what: str) -> "Bar":
    """Description, bar, steps, times, losses; where a terminal is narrow the bar goes first, then the time
    that went by: steps and the time left stay whole."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.progress import TimeElapsedColumn as Gone
    from rich.progress import TimeRemainingColumn as Left

    spare = console.width - len(what) - _NUMBERS
    columns: list[ProgressColumn] = [TextColumn("[bold]{task.description}")]
    columns += [BarColumn()] if spare >= _BAR else []
    columns += [MofNCompleteColumn()]
    columns += [Gone(), TextColumn("<")] if spare >= 0 else []
    columns += [Left(), TextColumn("[dim]{task.fields[more]}")]
    return Progress(*columns, console=console, transient=False)


def _lines(what: str) -> Meter:
    started, last_part = time.monotonic(), -1

    def show(done: int, total: int, more: str) -> None:
        nonlocal last_part
        part = done * LINES // max(total, 1)
        if part != last_part or done == total:
            last_part = part
            note(f"{what}: {done}/{total} after {time.monotonic() - started:.0f} s  {more}".rstrip())

    return show
