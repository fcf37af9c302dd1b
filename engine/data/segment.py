"""From words to masks: which back ends there are, masks of pictures in hand, and masks of whole folders."""

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import LikenessError, nearest
from ..files import make_folder, write_atomically
from .helpers import default_models
from .layout import look_into
from .masks import HALF, Mask, Refinement, union, without
from .overlays import contact_sheet, thumbnail, veiled
from .pictures import read_picture, to_mask_image
from .segmenters.base import Found, Segmenter

BACK_ENDS = {  # name -> (module in segmenters, what it is for)
    "clipseg": ("clipseg", "any word, softly (CLIPSeg)"),
    "grounded-sam2": ("grounded", "any word, with sharp edges (GroundingDINO and SAM 2)"),
    "sam2-points": ("points", "what lies under points of the picture (SAM 2)"),
    "face-parts": ("face_parts", "face, hair, eyes, lips … of photographs (face parsing)"),
    "face-oval": ("face_oval", "an oval for each face of photographs (a face pack's detector)"),
    "selfie": ("selfie", "a photographed person, by 213 KB (MediaPipe's selfie network)"),
    "miniature": ("miniature", "pictures of the Miniature's world, without any download"),
}
_TRACE = 0.25  # a soft mask that nowhere reaches this has found nothing
# of the share of a picture that a part usually has: on fourteen bald heads the Miniature's parser marked up
# to 23 pixels as hair, where hair has 1200 and more
SPECK = 0.02

OnPicture = Callable[[int, int, str], None]  # done, total, the picture's name


def load_segmenter(name: str, models: Path | None = None, device: str = "cpu") -> Segmenter:
    """The back end of that name, with weights from `models`: models/likeness, or the folder they lie in."""
    if name not in BACK_ENDS:
        hint = nearest(name, BACK_ENDS) or f"; use one of {', '.join(BACK_ENDS)}"
        raise LikenessError(f"unknown back end '{name}'{hint}")
    module = importlib.import_module(f".segmenters.{BACK_ENDS[name][0]}", __package__)
    return module.load(models or default_models(), device)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to mark: any of the words, none of the others, and what to do to the found mask."""

    words: tuple[str, ...]
    but_not: tuple[str, ...] = ()
    refine: Refinement = Refinement(level=HALF)

    def __post_init__(self) -> None:
        if not self.words or not all(word.strip() for word in (*self.words, *self.but_not)):
            raise LikenessError("no word says what to mark; write what the pictures show, such as face")


def words_of(text: str) -> tuple[str, ...]:
    """Words divided by commas, as people type them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def find_mask(
    segmenter: Segmenter,
    pixels: NDArray[np.uint8],
    request: Request,
    name: str,
    *,
    strict: bool = False,
) -> Mask:
    """The mask (H, W) of one picture (H, W, 3); finding none of the words is an error that names both.

    strict: somebody picked the back end for the picture, so that its doubt about the picture is an error too.
    """
    parts = segmenter(pixels, [*request.words, *request.but_not])
    mask = _marked(parts, request)
    if mask is None:
        raise _nothing(parts, request.words, name)
    if strict and parts.doubt:
        raise LikenessError(f"{name} {parts.doubt}")
    if not mask.any():
        raise LikenessError(
            f"nothing is left of the mask of {name}; exclude less, grow it or lower the level"
        )
    return mask


def find_masks(
    segmenter: Segmenter, pictures: Iterable[NDArray[np.uint8]], request: Request, names: Sequence[str],
    on_picture: OnPicture | None = None,
) -> list[Mask]:  # fmt: skip
    """A mask for each picture, with one loaded back end; `names` are what errors and progress call them."""
    masks = []
    for number, (pixels, name) in enumerate(zip(pictures, names), start=1):
        masks.append(find_mask(segmenter, pixels, request, name, strict=True))
        if on_picture is not None:
            on_picture(number, len(names), name)
    return masks


def find_parts(
    segmenter: Segmenter, pictures: Iterable[NDArray[np.uint8]], request: Request, names: Sequence[str],
    others: Sequence[Mask] = (),
) -> list[Mask]:  # fmt: skip
    """As `find_masks`, for pictures in which a part may be missing: its mask (H, W) is empty there.

    others: masks of the part in other pictures, beside which a speck is told from the part.
    """
    masks = []
    least = SPECK * float(np.median([mask.mean() for mask in others])) if others else 0.0
    for pixels, name in zip(pictures, names):
        parts = segmenter(pixels, [*request.words, *request.but_not])
        if parts.doubt:
            raise LikenessError(f"{name} {parts.doubt}")
        mask = _marked(parts, request)
        missing = mask is None or mask.mean() < least
        masks.append(np.zeros(pixels.shape[:2], np.float32) if missing else mask)
    return masks


def _marked(parts: Found, request: Request) -> Mask | None:
    """The mask (H, W) of what was asked for; None where none of the words was found."""
    count, level = len(request.words), request.refine.level
    mask = union(parts.masks[:count])
    if mask.max() < (_TRACE if level is None else level):
        return None
    return request.refine(without(mask, parts.masks[count:]))


def _nothing(parts: Found, words: Sequence[str], name: str) -> LikenessError:
    best = max(parts.scores[: len(words)], default=0.0)
    others = {word: score for word, score in parts.instead.items() if word not in words}
    surest = sorted(others.items(), key=lambda entry: -entry[1])[:4]
    instead = ", ".join(f"{word} {score:.2f}" for word, score in surest)
    saw = f"; what was found: {instead}" if instead else ""
    return LikenessError(
        f"no {' or '.join(words)} found in {name} (best score {best:.2f}{saw}); "
        "crop closer, use another word, draw its mask yourself or drop it"
    )


# --- folders ----------------------------------------------------------------------------------------


def mask_folder(
    folder: Path,
    segmenter: Segmenter,
    request: Request,
    *,
    overwrite: bool = False,
    sheet: Path | None = None,
    on_picture: OnPicture | None = None,
) -> list[Path]:
    """Writes `masks/<stem>.png` for every picture of a concept folder, all or none, and a contact sheet."""
    pictures, targets = _pictures_and_targets(folder, overwrite)
    masks: list[Image.Image] = []  # eight bits a pixel: twenty large pictures stay in memory
    cells: list[tuple[str, Image.Image]] = []
    for number, path in enumerate(pictures, start=1):
        pixels = read_picture(path)
        mask = find_mask(segmenter, pixels, request, str(path), strict=True)
        masks.append(to_mask_image(mask))
        cells.append((path.name, thumbnail(veiled(pixels, mask))))
        if on_picture is not None:
            on_picture(number, len(pictures), path.name)
    make_folder(folder / "masks")
    for target, mask in zip(targets, masks):
        with write_atomically(target) as temporary:
            mask.save(temporary, format="PNG")
    if sheet is not None:
        with write_atomically(sheet) as temporary:
            contact_sheet(cells).save(temporary)
    return targets


def _pictures_and_targets(folder: Path, overwrite: bool) -> tuple[list[Path], list[Path]]:
    if not folder.is_dir():
        raise LikenessError(f"no pictures in {folder}; it is no folder that is there")
    pictures = list(look_into(folder).pictures)
    targets = [folder / "masks" / f"{path.stem}.png" for path in pictures]
    taken = [path for path in targets if path.exists()]
    if taken and not overwrite:
        raise LikenessError(f"{taken[0]} exists; allow overwriting, or move it away to keep it")
    return pictures, targets
