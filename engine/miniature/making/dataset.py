"""Pictures, captions and labels to train the Miniature's networks on, rendered once and kept on disk."""

import logging
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import model, world

log = logging.getLogger(__name__)
PICTURES_EACH = 6
CAPTIONS_EACH = 4
ATTRIBUTE_NAMES = tuple(world.ATTRIBUTES)


@dataclass(frozen=True)
class Dataset:
    """pixels, labels (N, S, S, ...) uint8; person (N,); targets (N, A) value indices; tokens (N, C, 77)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    person: Tensor
    targets: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.person)

    def first(self, count: int) -> "Dataset":
        """Its first pictures."""
        return Dataset(*(part[:count] for part in vars(self).values()))

    def images(self, index: NDArray[np.int64], device: torch.device | str = "cpu") -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1]."""
        return torch.from_numpy(self.pixels[index]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def parts(self, index: NDArray[np.int64], device: torch.device | str = "cpu") -> Tensor:
        """Part labels (B, S, S)."""
        return torch.from_numpy(self.labels[index]).to(device).long()


def targets_of(identity: world.Character, context: world.Context) -> list[int]:
    """The index of every attribute's value, in the order of `world.ATTRIBUTES`."""
    values = world.attributes(identity, context)
    return [world.ATTRIBUTES[name].index(values[name]) for name in ATTRIBUTE_NAMES]


def _render_person(person: int) -> tuple[list, list, list, list]:
    identity = world.sample_identity(person)
    pixels, labels, targets, captions = [], [], [], []
    for number in range(PICTURES_EACH):
        seed = person * PICTURES_EACH + number
        context = world.sample_context(seed)
        portrait = world.render(identity, context)
        rng = np.random.default_rng([seed, 7])
        pixels.append(portrait.pixels)
        labels.append(portrait.labels)
        targets.append(targets_of(identity, context))
        captions.append([world.caption(identity, context, rng) for _ in range(CAPTIONS_EACH)])
    return pixels, labels, targets, captions


def prepare_dataset(folder: Path, people: range, processes: int = 1) -> Dataset:
    """Renders `people` into `folder` unless it is there already, and maps it into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "done").exists():
        _render(folder, people, processes)
    return Dataset(
        pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy", mmap_mode="r"),
        person=torch.from_numpy(np.load(folder / "person.npy")),
        targets=torch.from_numpy(np.load(folder / "targets.npy")),
        tokens=torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64)),
    )


def _render(folder: Path, people: range, processes: int) -> None:
    count, side = len(people) * PICTURES_EACH, model.RESOLUTION
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (count, side, side, 3))
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, (count, side, side))
    targets, captions = [], []
    with multiprocessing.Pool(processes) as pool:
        for number, person in enumerate(pool.imap(_render_person, people, chunksize=16)):
            place = slice(number * PICTURES_EACH, (number + 1) * PICTURES_EACH)
            pixels[place], labels[place] = np.stack(person[0]), np.stack(person[1])
            targets += person[2]
            captions += person[3]
            if number % 500 == 0:
                log.info("rendered %d of %d people", number, len(people))
    tokenizer = model.tokenizer()
    flat = [text for texts in captions for text in texts]
    tokens = tokenizer(flat, padding="max_length", max_length=model.MAX_TOKENS, truncation=True)["input_ids"]
    np.save(folder / "tokens.npy", np.asarray(tokens, np.int16).reshape(count, CAPTIONS_EACH, -1))
    np.save(folder / "targets.npy", np.asarray(targets, np.int64))
    np.save(folder / "person.npy", np.repeat(np.asarray(people, np.int64), PICTURES_EACH))
    (folder / "done").touch()
