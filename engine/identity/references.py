"""Reference pictures of a person for an identity adapter: found, upright, cut out, seen by an image tower.

A reference is a square picture, black outside what is kept. What a tower sees is normalised as that tower was
trained; a place without a picture is 0 there, which is a flat grey, not black (MasterWeaver, spec 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..bases.clip_features import MEAN, SPREAD, load_tower
from ..data.faces import Face, choose, face_of_mask, upright
from ..data.masks import HALF, Mask
from ..data.segmenters.face_parts import MASTERWEAVER_KEEPS, PARSED_PARTS
from ..data.segmenters.miniature import check_own_world
from ..errors import LikenessError, nearest
from ..miniature import model as miniature
from ..miniature import world
from ..miniature.judges import load_judge, to_tensor
from ..miniature.networks import image_tower

ReferencePicture = NDArray[np.uint8]  # (H, W, 3)
_SIDE = 512  # of an aligned face
FACE_AND_HAIR, FACE = "face and hair", "face"
_KEEPS = (FACE_AND_HAIR, FACE)  # what may stay of a picture
_PHOTOGRAPH_KEEPS = {
    FACE_AND_HAIR: MASTERWEAVER_KEEPS["inference"],
    FACE: tuple(part for part in MASTERWEAVER_KEEPS["inference"] if part != "hair"),
}
MINIATURE_KEEPS = {  # as of photographs: neither background, neck, clothes nor hat
    FACE_AND_HAIR: (*world.FACE_PARTS, "ear", "glasses", "hair"),
    FACE: (*world.FACE_PARTS, "ear", "glasses"),
}
LEAST = 0.005  # share of a picture that its face must fill


@dataclass(frozen=True)
class Reference:
    """One picture of a person, (S, S, 3) and black around them; `face` (F,): how a recogniser knows them."""

    pixels: ReferencePicture
    face: NDArray[np.float32] | None = None


class Preparation(Protocol):
    """Makes references of pictures; loaded once, used for many."""

    def __call__(self, pixels: ReferencePicture, name: str, mask: Mask | None = None) -> Reference:
        """`mask` (H, W), where the user drew one, says what to keep; LikenessError where no face is."""
        ...


def references_of(
    pictures: Sequence[ReferencePicture],
    names: Sequence[str],
    prepare: Preparation,
    masks: Sequence[Mask | None] | None = None,
) -> list[Reference]:
    """A reference of each picture; `names` are what errors call them."""
    drawn = [None] * len(pictures) if masks is None else masks
    return [prepare(pixels, name, mask) for pixels, name, mask in zip(pictures, names, drawn, strict=True)]


def kept(pixels: ReferencePicture, mask: Mask) -> ReferencePicture:
    """The picture with black where the mask, of the same size, is less than a half."""
    return np.where((mask >= HALF)[..., None], pixels, np.uint8(0))


def check_keep(keep: str) -> None:
    if keep not in _KEEPS:
        raise LikenessError(f"unknown '{keep}'{nearest(keep, _KEEPS) or f'; keep one of {list(_KEEPS)}'}")


class OfPhotographs:
    """Finds the largest face, turns it upright (FFHQ), and keeps the parts that a face parser names."""

    def __init__(
        self,
        faces: Callable[
            [], Callable[[ReferencePicture], list[Face]]
        ],  # loads a finder when a picture needs one
        labels: Callable[
            [], Callable[[ReferencePicture], NDArray[np.uint8]]
        ],  # the same, of numbers of PARTS
        keep: str = FACE_AND_HAIR,
    ) -> None:
        check_keep(keep)
        self._load_faces, self._load_labels = faces, labels
        self._keep = [PARSED_PARTS.index(part) for part in _PHOTOGRAPH_KEEPS[keep]]

    @cached_property
    def _faces(self) -> Callable[[ReferencePicture], list[Face]]:
        return self._load_faces()

    @cached_property
    def _labels(self) -> Callable[[ReferencePicture], NDArray[np.uint8]]:
        return self._load_labels()

    def __call__(self, pixels: ReferencePicture, name: str, mask: Mask | None = None) -> Reference:
        if mask is not None:
            return self._as_drawn(pixels, name, mask)
        face = choose(self._faces(pixels), None, name)
        crop = upright(pixels, face, _SIDE)
        inside = np.isin(self._labels(crop), self._keep)
        _check_face(inside, name)
        whole = Image.fromarray(inside).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        return Reference(kept(crop, np.asarray(whole, np.float32)), face.embedding)

    def _as_drawn(self, pixels: ReferencePicture, name: str, mask: Mask) -> Reference:
        """What the user's mask marks, in a square around it; no model is needed."""
        _check_mask(pixels, name, mask)
        face = face_of_mask(mask)
        drawn = np.repeat((mask >= HALF).astype(np.uint8)[..., None] * 255, 3, axis=2)
        drawn[[0, -1]], drawn[:, [0, -1]] = 0, 0  # beyond its edges the crop repeats a picture's rim
        inside = upright(drawn, face, _SIDE)[..., 0] >= HALF * 255
        return Reference(kept(upright(pixels, face, _SIDE), inside.astype(np.float32)))


class OfTheMiniature:
    """Keeps what the Miniature's own parser sees; its faces are upright and in the middle already."""

    def __init__(self, keep: str = FACE_AND_HAIR, checked: bool = False) -> None:
        """`checked`: photographs are refused, as somebody gives them who takes it for a real adapter."""
        check_keep(keep)
        self._checked = checked
        self._keep = [world.PART_ID[part] for part in MINIATURE_KEEPS[keep]]
        self._parser, self._recogniser = load_judge("parser"), load_judge("recogniser")

    @torch.no_grad()
    def __call__(self, pixels: ReferencePicture, name: str, mask: Mask | None = None) -> Reference:
        if self._checked:
            check_own_world([pixels], name, "load an identity adapter that was trained on photographs")
        small = _squared(Image.fromarray(pixels), Image.Resampling.BILINEAR)
        values = to_tensor(small[None])
        if mask is None:
            inside = np.isin(self._parser(values)[0].argmax(0).numpy(), self._keep)
            _check_face(inside, name)
        else:
            _check_mask(pixels, name, mask)
            drawn = Image.fromarray((mask * 255).astype(np.uint8))
            inside = _squared(drawn, Image.Resampling.BILINEAR) >= HALF * 255
        face = self._recogniser(values)[0].numpy()
        return Reference(kept(small, inside.astype(np.float32)), face)


def _squared(image: Image.Image, resampling: Image.Resampling) -> NDArray[np.uint8]:
    """The middle square of a picture at the Miniature's size."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    size = (miniature.RESOLUTION, miniature.RESOLUTION)
    return np.array(image.crop((left, top, left + side, top + side)).resize(size, resampling))


def _check_face(inside: NDArray[np.bool_], name: str) -> None:
    if inside.mean() < LEAST:
        raise LikenessError(
            f"no face in {name}; crop closer, turn it upright, mask the face yourself or drop it"
        )


def _check_mask(pixels: ReferencePicture, name: str, mask: Mask) -> None:
    if mask.shape != pixels.shape[:2]:
        raise LikenessError(
            f"the mask of {name} is {mask.shape[1]} x {mask.shape[0]} pixels, the picture "
            f"{pixels.shape[1]} x {pixels.shape[0]}; make both one size"
        )
    if not (mask >= HALF).any():
        raise LikenessError(f"the mask of {name} marks nothing; paint the face white or leave masks away")


# --- what a tower sees ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageTower:
    """An image tower up to its last layer but one: every token, the class token too, without a last norm."""

    name: str  # what adapters call it
    side: int  # pixels
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    network: Callable[[Tensor], Tensor]  # normalised pixels (N, 3, side, side) to states (N, T, W)

    def to(self, device: torch.device) -> "ImageTower":
        """The same tower, whose network now works there."""
        if isinstance(self.network, nn.Module):  # ComfyUI's moves by itself
            nn.Module.to(self.network, device)
        return self

    def values(self, pictures: Sequence[ReferencePicture] | ReferencePicture) -> Tensor:
        """Square pictures as the tower takes them, (N, 3, side, side); bilinear, as in training."""
        sized = [
            np.asarray(Image.fromarray(picture).resize((self.side, self.side), Image.Resampling.BILINEAR))
            for picture in pictures
        ]
        shades = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 255
        mean, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.spread))
        return (shades - mean) / spread

    @torch.no_grad()
    def states(self, values: Tensor) -> Tensor:
        """(N, T, W) of normalised pixels (N, 3, side, side)."""
        return self.network(values).float()

    def nothing(self) -> Tensor:
        """(T, W): what it sees where there is no picture."""
        return self.states(torch.zeros(1, 3, self.side, self.side))[0]


def miniature_tower() -> ImageTower:
    """The Miniature's own image tower; it was trained on pixels in [-1, 1]."""
    tower = image_tower()
    half = (0.5,) * 3
    return ImageTower("miniature", tower.config.image_size, half, half, _Penultimate(tower))


def clip_tower(folder: str | Path) -> ImageTower:
    """A CLIP image tower from a transformers folder; MasterWeaver's is openai/clip-vit-large-patch14."""
    tower = load_tower(folder)
    return ImageTower("clip", tower.config.image_size, MEAN, SPREAD, _Penultimate(tower))


class _Penultimate(nn.Module):
    """A tower without its last layer."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, values: Tensor) -> Tensor:
        return self.tower(pixel_values=values, output_hidden_states=True).hidden_states[-2]
