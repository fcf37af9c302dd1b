"""IMAGE and MASK as pictures, and as concept folders."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..bases.families import MINIATURE
from ..config import ConceptSpec
from ..config.choices import AUTOMATIC
from ..data.captions import caption_lines, in_words
from ..data.concepts import Concept, Picture, digest, write_concept
from ..data.packs import PACKS, packs_in
from ..data.pictures import picture_in
from ..data.quality import advice_in_words
from ..data.segmenters.miniature import FOREIGN, certainty
from ..errors import LikenessError
from ..inference.heads import examined
from .folders import packs_folder, temporary_folder


def pictures_of(images: torch.Tensor | Sequence[torch.Tensor]) -> list[np.ndarray]:
    """IMAGE (B, H, W, C) in [0, 1] as B arrays (H, W, 3) uint8; grey becomes colour, transparency is left.

    A list of such batches, each of its own size, gives the pictures of all of them.
    """
    if isinstance(images, Sequence):
        return [picture for batch in images for picture in pictures_of(batch)]
    coloured = images if images.shape[-1] >= 3 else images[..., :1].expand(-1, -1, -1, 3)
    return list((coloured[..., :3].detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def decoded_image(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """IMAGE (B, H, W, C) out of latents; autoencoders for video give pictures as videos of one frame."""
    pixels = vae.decode(latents)
    return pixels.flatten(0, 1) if pixels.ndim == 5 else pixels


def image_of(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Arrays (H, W, 3) uint8 of one size as IMAGE (B, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255)


def pictures_and_masks_of(concept: Concept) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Each picture of a concept as IMAGE (1, H, W, 3) and its mask as MASK (1, H, W), white without one."""
    images = [image_of([picture.pixels]) for picture in concept.pictures]
    white = [np.ones(picture.pixels.shape[:2], np.float32) for picture in concept.pictures]
    masks = [
        torch.from_numpy(np.asarray(all_of_it if picture.mask is None else picture.mask, np.float32))[None]
        for picture, all_of_it in zip(concept.pictures, white)
    ]
    return images, masks


def opened(jpeg: bytes) -> np.ndarray | None:
    """The picture (H, W, 3) uint8 in a file's bytes; None where there is none that can be read."""
    try:
        return picture_in(jpeg, "the thumbnail") if jpeg else None
    except LikenessError:
        return None


def masks_of_tensor(masks: torch.Tensor | Sequence[torch.Tensor]) -> list[np.ndarray]:
    """MASK (B, H, W) or (H, W), or a list of such, as arrays (H, W) float32 in [0, 1]."""
    if isinstance(masks, Sequence):
        return [mask for batch in masks for mask in masks_of_tensor(batch)]
    return [mask.detach().cpu().float().clamp(0, 1).numpy() for mask in masks.reshape(-1, *masks.shape[-2:])]


def concept_on_disk(
    spec: ConceptSpec,
    images: torch.Tensor | Sequence[torch.Tensor],
    masks: torch.Tensor | Sequence[torch.Tensor] | None,
    captions: Sequence[str] = (),
) -> tuple[ConceptSpec, Concept]:
    """Writes IMAGE and MASK, without loss, into a concept folder named after its content; `spec` with it.

    Captions: one per picture where there are any; its lines are choices. Beside the specification comes what
    was written, so that nobody need read it again.
    """
    pixels = pictures_of(images)
    coverage = [None] * len(pixels) if masks is None else _masks_for(pixels, masks)
    if captions and len(captions) != len(pixels):
        raise LikenessError(
            f"there are {len(pixels)} pictures but {len(captions)} captions; connect one per picture"
        )
    said = [caption_lines(text, f"caption {n}") for n, text in enumerate(captions, start=1)] or [()] * len(
        pixels
    )
    pictures = tuple(
        Picture(f"{i:03d}", pixels[i], coverage[i], captions=said[i]) for i in range(len(pixels))
    )
    concept = Concept(spec.token, spec.class_word or "", spec.role or "subject", pictures)
    target = temporary_folder("concepts", digest([concept])[:16])
    if not target.exists():
        write_concept(target, concept)
    if captions:
        concept = dataclasses.replace(concept, remarks=(in_words(len(pictures), sum(map(bool, said))),))
    return dataclasses.replace(spec, folder=str(target)), concept


def advice_on(concept: Concept, faces: str = AUTOMATIC) -> str:
    """What was left out of a concept, and what is to be done about its pictures before learning, in words.

    faces: who looks at the faces, `nobody`, or automatic for whoever is there.
    """
    reports, remark = examined(concept, faces, packs_folder())
    return "\n".join(line for line in (*concept.remarks, advice_in_words(reports), remark) if line)


def face_model_for(pictures: Sequence[np.ndarray], faces: str) -> str:
    """Who looks at the faces in pictures; automatic: the Miniature at its own, else a pack that is there."""
    if faces != AUTOMATIC:
        return faces
    if certainty(pictures) >= FOREIGN:
        return MINIATURE
    there = sorted(packs_in(packs_folder()), key=lambda name: (name not in PACKS, name))
    return there[0] if there else next(iter(PACKS))  # which says where to get it


def _masks_for(
    pixels: Sequence[np.ndarray], masks: torch.Tensor | Sequence[torch.Tensor]
) -> list[np.ndarray]:
    """One mask (H, W) in [0, 1] per picture, or a sentence that says what is wrong with them."""
    arrays = masks_of_tensor(masks)
    if len(arrays) != len(pixels):
        raise LikenessError(
            f"there are {len(pixels)} pictures but {len(arrays)} masks; connect one mask per picture"
        )
    for number, (picture, mask) in enumerate(zip(pixels, arrays), start=1):
        if mask.shape != picture.shape[:2]:
            raise LikenessError(
                f"mask {number} is {mask.shape[1]} x {mask.shape[0]} pixels, but its picture is "
                f"{picture.shape[1]} x {picture.shape[0]}; make both one size or leave masks unconnected"
            )
        if not mask.any():
            raise LikenessError(
                f"mask {number} marks nothing; paint the subject white or leave masks unconnected"
            )
    return arrays
