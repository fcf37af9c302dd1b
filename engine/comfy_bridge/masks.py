"""Masks and faces of IMAGE batches: the engine's back ends with ComfyUI's folders, device, bar and cancel."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch

from ..config.choices import MEDIAPIPE
from ..data.faces import Face, box_mask, choose, face_of_mask, load_faces, provider_line, upright
from ..data.masks import Mask
from ..data.overlays import veiled, with_faces
from ..data.packs import OR_MASK
from ..data.pictures import open_image
from ..data.segment import Request, find_masks, load_segmenter
from ..data.segmenters.base import Segmenter
from ..errors import LikenessError
from ..files import state_of
from .core_nodes import CORE, load_core, load_core_faces
from .folders import folder
from .pictures import image_of, pictures_of

ANOTHER = 16.0  # grey levels on average between two pictures that are not the same


class FoundFaces(NamedTuple):
    """One face of each picture: crops (B, S, S, 3), boxes (B, H, W), overlays (B, H, W, 3), and words."""

    crops: torch.Tensor
    masks: torch.Tensor
    overlays: torch.Tensor
    said: str


def masks_of(images: torch.Tensor, back_end: str, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
    """MASK (B, H, W) of IMAGE (B, H, W, C), and the pictures with what is outside darkened."""
    pictures = _some_pictures(images)
    segmenter = _segmenter(back_end)
    masks = find_masks(segmenter, pictures, request, _names(pictures), _watched(len(pictures)))
    overlays = [veiled(pixels, mask) for pixels, mask in zip(pictures, masks)]
    return torch.from_numpy(np.stack(masks)), image_of(overlays)


def _segmenter(back_end: str) -> Segmenter:
    """One of the engine's back ends, or one that ComfyUI runs itself."""
    if back_end in CORE:
        return load_core(back_end)
    return load_segmenter(back_end, folder("likeness"), _device())


def faces_of(
    images: torch.Tensor, pack: str | None, masks: torch.Tensor | None, number: int | None, size: int
) -> FoundFaces:
    """The largest face, or the one of a number, of every picture; without a pack, what its mask surrounds."""
    pictures = _some_pictures(images)
    find, lines = _finder(pack, pictures, masks)
    crops, boxes, overlays = [], [], []
    report = _watched(len(pictures))
    for position, (pixels, name) in enumerate(zip(pictures, _names(pictures))):
        faces = find(position)
        face = choose(faces, number, name)
        crops.append(upright(pixels, face, size))
        boxes.append(box_mask(face, pixels.shape[:2]))
        points = [other.landmarks for other in faces if other.landmarks is not None]
        nearest = next(place for place, other in enumerate(faces) if other is face)
        overlays.append(with_faces(pixels, [other.box for other in faces], points, nearest))
        lines.append(_line(name, face, len(faces)))
        report(position + 1, len(pictures), name)
    return FoundFaces(
        image_of(crops), torch.from_numpy(np.stack(boxes)), image_of(overlays), "\n".join(lines)
    )


class Brushed(NamedTuple):
    """MASK (B, H, W) with one mended, IMAGE with what is outside darkened, and what the editor opens."""

    masks: torch.Tensor
    overlays: torch.Tensor
    editable: torch.Tensor  # (1, H, W, 4): transparent where it is marked, as ComfyUI's mask editor has it


def brushed(images: torch.Tensor, masks: torch.Tensor, number: int, painted: str) -> Brushed:
    """The masks of IMAGE, that of picture `number` as it was painted over in the mask editor, if it was.

    painted: the name that the editor gave its file, such as `clipspace/… [input]`; empty before.
    """
    pictures = _some_pictures(images)
    if len(masks) != len(pictures) or masks.shape[1:] != images.shape[1:3]:
        raise LikenessError(
            f"there are {len(pictures)} pictures of {images.shape[2]} x {images.shape[1]} pixels, but "
            f"{len(masks)} masks of {masks.shape[2]} x {masks.shape[1]}; connect the masks of these pictures"
        )
    if number >= len(pictures):
        raise LikenessError(f"there is no picture {number}; choose one from 0 to {len(pictures) - 1}")
    mended = masks.detach().cpu().float().clone()
    if painted.strip():
        mended[number] = torch.from_numpy(_painted(painted.strip(), pictures[number], number))
    overlays = [veiled(pixels, mask) for pixels, mask in zip(pictures, mended.numpy())]
    pixels, mask = image_of([pictures[number]]), mended[number][None, ..., None]
    return Brushed(mended, image_of(overlays), torch.cat([pixels, 1 - mask], -1))


def painted_state(painted: str) -> str:
    """Changes whenever the painted file does."""
    return state_of(painted_file(painted)) if painted.strip() else ""


def painted_file(painted: str) -> Path:
    """Where the mask editor put its file: ComfyUI's input folder, or the folder of clipboards in it."""
    named = Path(folder_paths.get_annotated_filepath(painted))
    beside = named.parent / "clipspace" / named.name
    return beside if beside.is_file() and not named.is_file() else named


def _painted(painted: str, pixels: np.ndarray, number: int) -> np.ndarray:
    """The mask (H, W) that was painted over a picture (H, W, 3): what is transparent is marked."""
    again = "empty the field, run, and open the mask editor again"
    path = painted_file(painted)
    if not path.is_file():
        raise LikenessError(f"the painted mask {path} is gone; {again}")
    height, width = pixels.shape[:2]
    try:
        with open_image(path) as image:
            if image.size != (width, height):  # known before anything is decoded
                raise LikenessError(
                    f"the painted mask is {image.width} x {image.height} pixels, but picture {number} is "
                    f"{width} x {height}; {again}"
                )
            layer = np.asarray(image.convert("RGBA"))
    except LikenessError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like
        raise LikenessError(f"the painted mask {path} cannot be read ({error}); {again}") from error
    seen = layer[..., 3] > 250  # some editors blacken what is transparent
    if seen.any() and np.abs(layer[seen][:, :3].astype(int) - pixels[seen]).mean() > ANOTHER:
        raise LikenessError(f"what was painted over is not picture {number}; {again}")
    return 1 - layer[..., 3].astype(np.float32) / 255


def _finder(
    pack: str | None, pictures: list[np.ndarray], masks: torch.Tensor | None
) -> tuple[Callable[[int], list[Face]], list[str]]:
    """The faces of picture number n, and on what they are found where that can go wrong."""
    if pack == MEDIAPIPE:
        eyes = load_core_faces()
        return lambda position: eyes(pictures[position]), [provider_line(pack, eyes.provider, _device())]
    if pack is not None:
        finder = load_faces(pack, Path(folder_paths.models_dir) / "insightface", _device(), otherwise=OR_MASK)
        return lambda position: finder(pictures[position]), [provider_line(pack, finder.provider, _device())]
    if masks is None or len(masks) != len(pictures):
        raise LikenessError("no face model is chosen; connect a mask per picture that marks its face")
    drawn: list[Mask] = list(masks.cpu().float().numpy())
    return lambda position: [face_of_mask(drawn[position])], []


def _line(name: str, face: Face, count: int) -> str:
    left, top, right, bottom = (round(float(value)) for value in face.box)
    of = f" of {count}" if count > 1 else ""
    return f"{name}: one{of}, from ({left}, {top}) to ({right}, {bottom}), sure {face.score:.2f}"


def _some_pictures(images: torch.Tensor) -> list[np.ndarray]:
    if not len(images):
        raise LikenessError("there are no pictures in the batch; connect a node that gives some")
    return pictures_of(images)


def _names(pictures: list[np.ndarray]) -> list[str]:
    return [f"picture {number}" for number in range(1, len(pictures) + 1)]


def _device() -> str:
    return str(comfy.model_management.get_torch_device())


def _watched(total: int) -> Callable[[int, int, str], None]:
    """Moves the node's bar and hears the cancel button, once a picture."""
    bar = comfy.utils.ProgressBar(total)

    def told(done: int, total: int, _: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return told
