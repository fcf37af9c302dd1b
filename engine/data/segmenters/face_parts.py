"""Face parsing: CelebAMask-HQ's nineteen parts, by SegFormer or BiSeNet weights, and named sets of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...artifact.tensors import read_pickle, read_tensors
from ...errors import LikenessError, nearest
from ...files import reading
from ..helpers import BISENET, FACE_PARSING
from .base import Found, enlarged, network_input

_SIDE = 512  # what both kinds of weights were trained at
# BiSeNet's numbering, which the methods' label sets use; the left eye is the person's own
PARSED_PARTS = (
    "background", "skin", "left brow", "right brow", "left eye", "right eye", "eyeglasses", "left ear",
    "right ear", "earring", "nose", "mouth", "upper lip", "lower lip", "neck", "necklace", "clothes", "hair",
    "hat",
)  # fmt: skip
# CelebAMask-HQ's own names, as SegFormer weights write them into their config
CELEBA_NAMES = {
    "skin": "skin", "l_brow": "left brow", "r_brow": "right brow", "l_eye": "left eye", "r_eye": "right eye",
    "eye_g": "eyeglasses", "l_ear": "left ear", "r_ear": "right ear", "ear_r": "earring", "nose": "nose",
    "mouth": "mouth", "u_lip": "upper lip", "l_lip": "lower lip", "neck": "neck", "neck_l": "necklace",
    "cloth": "clothes", "hair": "hair", "hat": "hat", "background": "background",
}  # fmt: skip
_FACE = (
    "skin", "left brow", "right brow", "left eye", "right eye", "eyeglasses", "left ear", "right ear", "nose",
    "mouth", "upper lip", "lower lip",
)  # fmt: skip
SETS: dict[str, tuple[str, ...]] = {
    "face": _FACE,  # no earrings: they are not the person (MagiCapture's subject leaks into them)
    "face without ears": tuple(part for part in _FACE if "ear" not in part.split()),
    "head": (*_FACE, "hair", "neck"),
    "person": tuple(part for part in PARSED_PARTS if part != "background"),
    "hair": ("hair",),
    "eyes": ("left eye", "right eye"),
    "brows": ("left brow", "right brow"),
    "ears": ("left ear", "right ear"),
    "lips": ("upper lip", "lower lip"),
    "mouth and lips": ("mouth", "upper lip", "lower lip"),
}
# what a reference picture keeps in MasterWeaver: inference and its reference types 0 and 1
_NEVER_KEPT = ("background", "neck", "necklace", "clothes", "hat")
MASTERWEAVER_KEEPS = {
    "inference": tuple(part for part in PARSED_PARTS if part not in _NEVER_KEPT),
    "type 0": tuple(part for part in PARSED_PARTS if part not in _NEVER_KEPT),
    "type 1": tuple(
        part for part in PARSED_PARTS if part not in (*_NEVER_KEPT, "mouth", "upper lip", "lower lip", "hair")
    ),
}


def parts_of(word: str) -> tuple[str, ...]:
    """The parts that a set's name, or a part's own, stands for."""
    name = word.strip().lower()
    if name in SETS:
        return SETS[name]
    if name in PARSED_PARTS:
        return (name,)
    valid = [*SETS, *PARSED_PARTS]
    hint = nearest(name, valid) or f"; valid are {', '.join(dict.fromkeys(valid))}"
    raise LikenessError(f"the face parser knows no '{word}'{hint}")


class FaceParser:
    """Soft masks are the summed probabilities of a set's parts."""

    def __init__(
        self, network: Callable[[Tensor], Tensor], order: Sequence[str], device: str, side: int
    ) -> None:
        self.network, self.order, self.device, self.side = network, tuple(order), device, side

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        parts_by_word = [parts_of(word) for word in words]
        shares = self._shares(pixels)
        maps = torch.stack(
            [
                shares[[self.order.index(part) for part in parts if part in self.order]].sum(0)
                for parts in parts_by_word
            ]
        )
        scores = tuple(float(score) for score in maps.amax((1, 2)))
        seen = shares.amax((1, 2))
        instead = {part: float(seen[number]) for number, part in enumerate(self.order) if seen[number] > 0.5}
        return Found(enlarged(maps, pixels.shape[:2]), scores, instead)

    def labels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The likeliest part of each pixel, (side, side), as numbers of `PARTS`."""
        numbers = np.array([PARSED_PARTS.index(part) for part in self.order], dtype=np.uint8)
        return numbers[self._shares(pixels).argmax(0).numpy()]

    @torch.no_grad()
    def _shares(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Probabilities (parts, h, w) in the network's order."""
        logits = self.network(network_input(pixels, (self.side, self.side)).to(self.device))
        return logits[0].float().softmax(0).cpu()


def load(models: Path, device: str = "cpu", side: int = _SIDE) -> FaceParser:
    """SegFormer weights where there are some, else BiSeNet's."""
    for place in (models / BISENET.folder, models):
        if FACE_PARSING.missing(place) and not BISENET.missing(place):
            return _bisenet(place, device, side)
    return _segformer(FACE_PARSING.find(models), device, side)


def _segformer(folder: Path, device: str, side: int) -> FaceParser:
    from transformers import SegformerForSemanticSegmentation

    model: Any = FACE_PARSING.load(SegformerForSemanticSegmentation, folder).to(device)
    names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    unknown = [name for name in names if name not in CELEBA_NAMES]
    if unknown:
        raise LikenessError(
            f"{folder / 'config.json'} names a part '{unknown[0]}' that no face parser has; "
            f"use the weights from {FACE_PARSING.source}"
        )
    return FaceParser(lambda x: model(x).logits, [CELEBA_NAMES[name] for name in names], device, side)


def _bisenet(folder: Path, device: str, side: int) -> FaceParser:
    from .bisenet import BiSeNet

    path = next(folder / name for name in BISENET.needs[0] if (folder / name).is_file())
    remedy = f"get it from {BISENET.source}"
    with reading(path, f"holds no BiSeNet weights; {remedy}"):
        weights = read_tensors(path, remedy) if path.suffix == ".safetensors" else read_pickle(path, remedy)
        network = BiSeNet.from_weights(weights)
    return FaceParser(network.to(device), PARSED_PARTS, device, side)
