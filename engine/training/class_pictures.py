"""Pictures of a concept's class, which the untouched base draws in rounds when a step first needs them.

Which pictures make a round depends on the job alone, for a pass of other rows rounds otherwise: a run that
goes on after a stop finds the same pictures.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log as log_of
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data.buckets import nearest_size
from ..data.captions import has_place, with_placeholder
from ..data.concepts import Picture
from ..data.examples import mixed_seed
from ..errors import LikenessError
from ..files import write_atomically
from .drawing import PreviewDrawing
from .host import content_of_host
from .latents import AT_ONCE

if TYPE_CHECKING:
    from .methods.base import Method

log = logging.getLogger(__name__)

# drawn together on a CPU, where few are as fast as many and the first step need not wait for more; on a GPU,
# as many as are read together (a CPU rounds another number otherwise, by a shade in one byte of 10,000)
ROUND_ON_CPU = 2


class ClassPictures:
    """`count` pictures of a class in one (height, width)."""

    def __init__(self, method: "Method", class_word: str, size: tuple[int, int], count: int) -> None:
        settings, job = method.job.settings, method.job
        self._method, self._class_word, self._size = method, class_word, size
        self._round = ROUND_ON_CPU if method.base.device.type == "cpu" else AT_ONCE
        templates = settings.prior_templates
        self.prompts = [templates[number % len(templates)].format(class_word) for number in range(count)]
        side = size[0] if size[0] == size[1] else size
        hosts = [content_of_host(text) for text in job.on]
        recipe = (method.base.identity, hosts, class_word, side, templates, count,
                  settings.prior_steps, settings.prior_guidance, job.seed)  # fmt: skip
        name = f"class-{mixed_seed(*recipe):016x}.safetensors"
        self._kept = Path(os.path.expanduser(job.cache)) / name if job.cache else None
        self._rounds: dict[int, np.ndarray] = {}  # those that are drawn, (n, H, W, 3) uint8
        if self._kept is not None and self._kept.exists():
            pictures = _read(self._kept, (count, *size, 3))
            self._rounds = {
                first // self._round: pictures[first : first + self._round] for first in self._firsts()
                if pictures is not None
            }  # fmt: skip

    def __len__(self) -> int:
        return len(self.prompts)

    def _firsts(self) -> range:
        return range(0, len(self), self._round)

    def around(self, number: int) -> range:
        """The pictures that are drawn together with this one."""
        first = number // self._round * self._round
        return range(first, min(first + self._round, len(self)))

    def drawn(self, numbers: range, check: Callable[[], None]) -> Tensor:
        """A round's pictures (n, 3, H, W) in [-1, 1]; `check` is called often, and raises to stop."""
        turn = numbers.start // self._round
        if turn not in self._rounds:
            done = sum(map(len, self._rounds.values()))
            text = f"drawing pictures of '{self._class_word}' for prior preservation: {done} of {len(self)}"
            log.info("%s", text)
            self._method.say(text)
            settings, job = self._method.job.settings, self._method.job
            seeds = [mixed_seed("prior", self._class_word, job.seed, number) for number in numbers]
            prompts = [self.prompts[number] for number in numbers]
            how = PreviewDrawing(
                seeds=seeds, check=check, steps=settings.prior_steps, guidance=settings.prior_guidance,
                size=self._size,
            )  # fmt: skip
            self._rounds[turn] = self._method.pictures(prompts, how)
            self._keep()
        return torch.from_numpy(self._rounds[turn]).permute(0, 3, 1, 2).float() / 127.5 - 1

    def all(self, check: Callable[[], None]) -> Tensor:
        """All pictures, (N, 3, H, W) in [-1, 1]."""
        return torch.cat([self.drawn(self.around(first), check) for first in self._firsts()])

    def _keep(self) -> None:
        """Writes the pictures for later runs once all are there."""
        if self._kept is not None and len(self._rounds) == len(self._firsts()):
            try:
                _write(self._kept, np.concatenate([self._rounds[turn] for turn in sorted(self._rounds)]))
            except LikenessError as error:  # a full disk: what is learned is worth more
                log.warning("%s; later runs draw these pictures again", error)


@dataclass(frozen=True)
class GivenPictures:
    """Pictures of a class that somebody gave: their prompts; nothing is drawn."""

    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def of(cls, pictures: Sequence[Picture], class_word: str, templates: Sequence[str]) -> "GivenPictures":
        """Each with its first caption, else one of the templates."""
        plain = [templates[number % len(templates)].format(class_word) for number in range(len(pictures))]
        spoken = [picture.captions[0] if picture.captions else "" for picture in pictures]
        named = [with_placeholder(text, class_word) if has_place(text) else text for text in spoken]
        return cls(tuple(text or words for text, words in zip(named, plain)))


def by_size(
    pictures: Sequence[Picture], sizes: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], list[Picture]]:
    """Each picture in the (height, width) nearest to its proportions; none of the sizes stays empty.

    Nothing where there are no pictures.
    """
    if not pictures:
        return {}
    places: dict[tuple[int, int], list[Picture]] = {size: [] for size in sizes}
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        places[nearest_size(height, width, sizes)].append(picture)
    for (height, width), inside in places.items():
        if not inside:  # the one that loses least by being cut to it
            proportions = log_of(width / height)
            shapes = [(one.pixels.shape[1] / one.pixels.shape[0], one) for one in pictures]
            inside.append(min(shapes, key=lambda shape: abs(log_of(shape[0]) - proportions))[1])
    return places


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The kept pictures; None, and a word about it, where the file is damaged: they are drawn again."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        pictures = load_file(path)["pictures"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        log.warning("%s is damaged (%s); the pictures are drawn again", path, error)
        return None
    if pictures.shape != shape or pictures.dtype != np.uint8:
        log.warning("%s holds other pictures; they are drawn again", path)
        return None
    with suppress(OSError):  # what is used is not swept
        os.utime(path)
    return pictures


def _write(path: Path, pictures: np.ndarray) -> None:
    from safetensors.numpy import save_file

    with write_atomically(path) as temporary:
        save_file({"pictures": pictures}, temporary)
