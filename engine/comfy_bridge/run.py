"""A training run inside ComfyUI: gradients, the progress bar and previews in the node, the cancel button."""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from PIL import Image

from ..artifact import Artifact
from ..errors import LikenessError
from ..files import copy_whole, portable, unused
from .folders import FOLDER, inside, temporary_folder
from .said import lasting, say_in_node

log = logging.getLogger(__name__)

PREVIEW_SIDE = 512  # longest side of a preview sent to the browser
BETWEEN_LINES = 0.5  # seconds
READING_TIME = 2.0  # seconds that a line about the likeness stays


@contextmanager
def training_allowed() -> Iterator[None]:
    """Gradients inside the executor, which runs nodes in inference mode; ComfyUI's models make room first."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    with torch.inference_mode(False), torch.enable_grad():
        yield


def device() -> str:
    """The job's device that is ComfyUI's: the CPU where ComfyUI was told to stay on it."""
    return "cpu" if comfy.model_management.get_torch_device().type == "cpu" else "auto"


def precision(choice: str) -> str:
    """The job's precision: `automatic` is bf16 on GPUs that compute in it, and fp32 elsewhere."""
    if choice != "automatic":
        return choice
    device = comfy.model_management.get_torch_device()
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp32"


def left_out(model: Any) -> list[str]:
    """What other nodes put around a MODEL's weights, by ComfyUI's names: learning knows nothing of it."""
    options = model.model_options.get("transformer_options", {})
    ours = __name__.rpartition(".")[0]
    changes = [
        name
        for name, patches in options.get("patches", {}).items()
        if any(not str(getattr(patch, "__module__", "")).startswith(ours) for patch in patches)
    ]
    changes += [f"{name} replaced" for name in options.get("patches_replace", {})]
    wrappers = (key for kinds in model.wrappers.values() for key, there in kinds.items() if there)
    changes += [f"wrapper {key}" for key in wrappers if not str(key).startswith("likeness.")]
    return sorted(set(changes))


def warn_of_left_out(model: Any, observer: "GraphObserver") -> None:
    """Says on the node and in the log what learning leaves out of a MODEL, if there is anything."""
    if left := left_out(model):
        text = f"learning leaves out what other nodes put on this MODEL: {', '.join(left)}"
        log.warning("%s", text)
        observer.on_note(text)


def run_file() -> Path:
    """Where a run writes what `taken` removes as soon as it is read."""
    return temporary_folder("runs") / f"{uuid.uuid4().hex}.safetensors"


def taken(path: Path, kept: bool = True) -> Artifact:
    """What a run learned; its file goes, unless it had to be written elsewhere or is the only one."""
    learned = Artifact.load(path)
    if kept and path.parent == temporary_folder("runs"):
        with suppress(OSError):
            path.unlink()
    return learned


class GraphObserver:
    """Shows a run in its node (bar, pictures, a line of text) and hears ComfyUI's cancel button."""

    def __init__(self, node_id: str | None) -> None:
        self._losses: list[tuple[int, Mapping[str, float]]] = []  # looked at when they are drawn
        self._scores: list[tuple[int, Mapping[str, float]]] = []  # the same, measured now and then
        self.likeness: dict[str, list[tuple[int, float]]] = {}  # scores over the steps, where somebody looks
        self.scores: list[str] = []  # what the last look at it found, in words
        self.previews: list[np.ndarray] = []
        self.notes: list[str] = []
        self.interrupted = False
        self.step = self.total = 0
        self._node_id = node_id
        self._bar = comfy.utils.ProgressBar(1)
        self._said_at = 0.0
        self._began = time.monotonic()
        self._pace: tuple[int, float] | None = None  # the first step seen here, and when it was done
        self.say("reading the model and the pictures")

    def on_step(self, progress: Any, losses: Mapping[str, float]) -> None:
        self.step, self.total = progress.step, progress.total
        if not self._losses:
            log.info("learning: step %d of %d", self.step, self.total)
        self._losses.append((progress.step, losses))
        self._show()
        now = time.monotonic()
        self._pace = self._pace or (self.step, now)
        if now - self._said_at > BETWEEN_LINES:
            self._said_at = now
            self.say(
                " · ".join(
                    (
                        f"step {self.step} of {self.total}",
                        *self._speed(now),
                        f"loss {sum(losses.values()):.4f}",
                    )
                )
            )

    def _speed(self, now: float) -> list[str]:
        """The rate so far, previews included, and the time that is left at it."""
        assert self._pace is not None
        steps, seconds = self.step - self._pace[0], now - self._pace[1]
        if steps < 1 or seconds <= 0:
            return []
        rate = steps / seconds
        shown = f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"
        return [shown, f"{lasting((self.total - self.step) / rate)} left"]

    def ended(self, *results: str) -> None:
        """The last line: how long it took, and what came of it."""
        where = "" if self.step == self.total else f" at step {self.step} of {self.total}"
        took = lasting(time.monotonic() - self._began)
        self.say(" · ".join((f"done{where} in {took}", *results)))

    def on_doing(self, text: str) -> None:
        """What takes time before or between steps."""
        self.say(text)

    @property
    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """Step and value of each loss term by name."""
        by_name: dict[str, list[tuple[int, float]]] = {}
        for step, losses in (*self._losses, *self._scores):
            for name, value in losses.items():
                by_name.setdefault(name, []).append((step, value))
        return by_name

    def on_scores(self, progress: Any, scores: Mapping[str, float]) -> None:
        """What is measured now and then, such as the loss on held-out pictures: a curve beside the losses."""
        self._scores.append((progress.step, scores))

    def on_note(self, text: str) -> None:
        """A sentence about the run, such as its plan or the memory it needs: it stays on the node."""
        self.notes.append(text)
        self.say()

    def on_curve(self, plot: np.ndarray, text: str) -> None:
        """How the likeness grew so far, as a picture (H, W, 3) uint8 and in words."""
        self.say(text)
        self._said_at = time.monotonic() + READING_TIME
        self._show(("JPEG", Image.fromarray(plot), PREVIEW_SIDE))

    def on_preview(self, progress: Any, image: np.ndarray) -> None:
        self.previews.append(image)
        self._show(("JPEG", Image.fromarray(image), PREVIEW_SIDE))

    def should_stop(self) -> bool:
        self.interrupted = self.interrupted or comfy.model_management.processing_interrupted()
        return self.interrupted

    def say(self, text: str = "") -> None:
        """A line on the node, above what was told about the run so far."""
        say_in_node("\n".join([*([text] if text else []), *self.notes]), self._node_id)

    def _show(self, picture: Any = None) -> None:
        try:
            self._bar.update_absolute(self.step, self.total, picture)
        except comfy.model_management.InterruptProcessingException:
            self.interrupted = True  # the bar obeys the button by raising; we end the step and save instead


def stop_graph(observer: GraphObserver, learned: Path | None, name: str) -> NoReturn:
    """Ends the running graph as the cancel button wants it, with what was learned kept in models/likeness."""
    if learned is None:
        text = "stopped before the first step; nothing was learned"
    else:
        kept = unused(inside(FOLDER, f"interrupted/{portable(name)}-step-{observer.step}", ".safetensors"))
        try:
            copy_whole(learned, kept)  # the checkpoint beside it stays, to go on from
            learned.unlink(missing_ok=True)
        except LikenessError as error:
            log.warning("%s", error)
            kept = learned
        text = (
            f"stopped at step {observer.step} of {observer.total}; what was learned is in {kept}; "
            "queue again to go on from there"
        )
    log.warning("%s", text)
    observer.say(text)
    comfy.model_management.interrupt_current_processing(False)
    raise comfy.model_management.InterruptProcessingException()
