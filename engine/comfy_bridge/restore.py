"""Restoring and enlarging IMAGE batches: ComfyUI's folders, models, device, bar and cancel button."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sample
import comfy.utils
import folder_paths
import numpy as np
import torch

from ..config import ConceptSpec
from ..config.choices import MEDIAPIPE
from ..data.at_hand import read_at_hand
from ..errors import LikenessError
from ..files import state_of
from ..inference.onlookers import MASK, FaceTools, load_face_tools
from ..inference.restore import (
    PersonReference,
    Pixels,
    Restoration,
    Restore,
    Restored,
    before_and_after,
    restore_picture,
    to_shades,
)
from ..inference.restorer_files import found_file
from ..inference.restorers import check_upscaler, load_restorer
from ..inference.upscale import upscaled
from .core_nodes import load_core_faces
from .folders import RESTORERS, folder
from .pictures import image_of, pictures_of


class Finished(NamedTuple):
    """IMAGE of the restored pictures, IMAGE of before beside after, MASK of what changed, and words."""

    images: torch.Tensor
    before_after: torch.Tensor
    masks: torch.Tensor
    report: str


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Where the faces are and who they are to be: words of `onlookers`, and what is connected."""

    found_by: str
    judged_by: str | None = None
    part: str = "face"
    masks: torch.Tensor | None = None
    references: torch.Tensor | None = None
    concept: ConceptSpec | None = None


# --- restorer files ----------------------------------------------------------------------------------


def restorer(name: str, fidelity: float, non_commercial: bool) -> Restore:
    """The restorer in a file of models/facerestore_models, on ComfyUI's device."""
    path = _restorer_path(name)
    found_file(path)
    comfy.model_management.free_memory(path.stat().st_size * 3, comfy.model_management.get_torch_device())
    return load_restorer(path, device=_device(), fidelity=fidelity, non_commercial=non_commercial)


def restorer_state(name: str) -> str:
    return state_of(_restorer_path(name))


def _restorer_path(name: str) -> Path:
    path = folder_paths.get_full_path(RESTORERS, name)
    return folder(RESTORERS) / name if path is None else Path(path)


# --- faces -------------------------------------------------------------------------------------------


def restored_faces(
    images: torch.Tensor,
    faces: Faces,
    restore: Restore,
    options: Restoration,
    background: Any | None = None,
) -> Finished:
    """Every picture of IMAGE (B, H, W, C) with its faces restored, in its background enlarged by a model."""
    if not len(images):
        raise LikenessError("there are no pictures in the batch; connect a node that gives some")
    several = faces.found_by == MASK and faces.masks is not None and len(faces.masks) > len(images)
    masks = _masks_of_each(faces.masks, len(images), options.number if several else None)
    if several:
        options = replace(options, number=None)  # it has chosen among the masks
    onlookers = load_face_tools(
        faces.found_by, faces.judged_by, part=faces.part, device=_device(), models=folder("likeness"),
        packs=Path(folder_paths.models_dir) / "insightface",
        eyes=load_core_faces() if faces.found_by == MEDIAPIPE else None,
    )  # fmt: skip
    person = onlookers.person(_references(faces))
    report, made, shown = _watched(len(images)), [], []
    for number, image in enumerate(images, start=1):
        pixels = image[..., :3].detach().cpu().float().numpy()
        canvas = None if background is None else _enlarged(pixels, background)
        done = _one(
            pixels, onlookers, masks[number - 1], restore, options, person, canvas, f"picture {number}"
        )
        made.append(done)
        shown.append(before_and_after(pixels, done.pixels))
        report(number)
    remarks = [onlookers.remark] if onlookers.remark else []
    if person is None and options.gate != "off":
        remarks.append("the likeness was not checked: connect references or a concept")
    return Finished(
        torch.from_numpy(np.stack([done.pixels for done in made])),
        image_of(shown),
        torch.from_numpy(np.stack([done.mask for done in made])),
        "\n".join([*(done.report for done in made), *remarks]),
    )


def _masks_of_each(masks: torch.Tensor | None, pictures: int, number: int | None) -> list[list[np.ndarray]]:
    """Each picture's masks (H, W): one, or as many as there are for each, or the chosen one of those."""
    if masks is None:
        return [[] for _ in range(pictures)]
    each, over = divmod(len(masks), pictures)
    if over or not each:
        raise LikenessError(
            f"there are {pictures} pictures but {len(masks)} masks; connect one mask per picture, or equally "
            "many for each"
        )
    if number is not None and number >= each:
        raise LikenessError(
            f"there are {each} masks for each picture, but face number {number} is wanted; choose 0 to "
            f"{each - 1}, or -1 for all"
        )
    drawn = masks.detach().cpu().float().numpy().reshape(pictures, each, *masks.shape[-2:])
    return [list(part if number is None else part[number : number + 1]) for part in drawn]


def _one(
    pixels: Pixels, onlookers: FaceTools, masks: Sequence[np.ndarray], restore: Restore,
    options: Restoration, person: PersonReference | None, canvas: Pixels | None, name: str,
) -> Restored:  # fmt: skip
    """A picture with its faces restored, or, where nobody looks for them, what each of its masks marks."""
    given: list[np.ndarray | None] = [None] if onlookers.eyes is not None else list(masks) or [None]
    made: list[Restored] = []
    for drawn in given:
        done = restore_picture(
            pixels, onlookers.faces(to_shades(pixels), drawn), restore, options, parse=onlookers.parse,
            person=person, canvas=canvas, drawn=drawn, name=name,
        )  # fmt: skip
        made.append(done)
        pixels, canvas = (done.pixels, None) if canvas is None else (pixels, done.pixels)
    return Restored(
        made[-1].pixels, np.maximum.reduce([done.mask for done in made]),
        tuple(outcome for done in made for outcome in done.outcomes), "\n".join(done.report for done in made),
    )  # fmt: skip


def _references(faces: Faces) -> list[np.ndarray]:
    pictures = [] if faces.references is None else pictures_of(faces.references)
    if faces.concept is not None:
        pictures += [picture.pixels for picture in read_at_hand(faces.concept).pictures]
    return pictures


# --- drawing faces again -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """What draws faces again: a model with its words, and how a KSampler is set; called with a crop."""

    model: Any
    positive: Any
    negative: Any
    vae: Any
    denoise: float
    steps: int
    guidance: float
    seed: int
    sampler: str
    scheduler: str

    def __call__(self, face: Pixels) -> Pixels:
        """A crop (S, S, 3), partly noised and denoised by the model."""
        latent = self.vae.encode(torch.from_numpy(np.ascontiguousarray(face))[None])
        latent = comfy.sample.fix_empty_latent_channels(self.model, latent)
        bar = comfy.utils.ProgressBar(self.steps)
        drawn = comfy.sample.sample(
            self.model, comfy.sample.prepare_noise(latent, self.seed), self.steps, self.guidance,
            self.sampler, self.scheduler, self.positive, self.negative, latent, denoise=self.denoise,
            callback=lambda step, clean, noisy, total: bar.update_absolute(step + 1, total),
            disable_pbar=True, seed=self.seed,
        )  # fmt: skip
        pixels = self.vae.decode(drawn)
        return pixels.reshape(-1, *pixels.shape[-3:])[0, ..., :3].float().cpu().clamp(0, 1).numpy()


# --- enlarging ---------------------------------------------------------------------------------------


def enlarge_images(images: torch.Tensor, model: Any, shrink: int, tile: int, margin: int) -> torch.Tensor:
    """IMAGE (B, H, W, C) enlarged by an UPSCALE_MODEL, picture by picture and tile by tile."""
    if not len(images):
        raise LikenessError("there are no pictures in the batch; connect a node that gives some")
    pictures = [image[..., :3].detach().cpu().float().numpy() for image in images]
    network, device = _ready(model)
    tiles = -(-images.shape[1] // tile) * -(-images.shape[2] // tile)
    bar = comfy.utils.ProgressBar(tiles * len(pictures))

    def told(number: int) -> Callable[[int, int], None]:
        def on_tile(done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(number * total + done, total * len(pictures))

        return on_tile

    made = [
        upscaled(pixels, network, shrink=shrink, tile=tile, margin=margin, device=device,
                 on_tile=told(number))
        for number, pixels in enumerate(pictures)
    ]  # fmt: skip
    return torch.from_numpy(np.stack(made))


def _enlarged(pixels: Pixels, model: Any) -> Pixels:
    network, device = _ready(model)
    heard = comfy.model_management.throw_exception_if_processing_interrupted
    return upscaled(pixels, network, device=device, on_tile=lambda done, total: heard())


def _ready(model: Any) -> tuple[Any, Any]:
    """The UPSCALE_MODEL on the device it is to run on; newer ComfyUI manages its memory by a patcher."""
    check_upscaler(model, "the connected model")
    management = comfy.model_management
    patcher = getattr(model, "patcher", None)
    if patcher is not None:
        management.load_models_gpu([patcher], force_full_load=True)
        return model, patcher.load_device
    device = management.get_torch_device()
    if hasattr(model, "to"):
        management.free_memory(management.module_size(model.model), device)
        model.to(device)
    return model, device


def _device() -> str:
    return str(comfy.model_management.get_torch_device())


def _watched(total: int) -> Callable[[int], None]:
    """Moves the node's bar and hears the cancel button, once a picture."""
    bar = comfy.utils.ProgressBar(total)

    def told(done: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return told
