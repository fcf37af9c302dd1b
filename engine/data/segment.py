"""Finding the subject in a picture: masks for concept folders. For now by the Miniature's own parser."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import LikenessError, nearest
from ..files import make_folder, write_atomically
from ..miniature import world
from .pictures import pictures_in, read_picture, to_mask_image

SUBJECTS = {  # what a mask may mark, as parts of the Miniature's world
    "face": world.FACE_PARTS,
    "head": (*world.FACE_PARTS, "hair", "ear", "neck"),
    "hair": ("hair",),
    "person": tuple(part for part in world.PARTS if part != "background"),
}
Segmenter = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 -> (H, W) float32 in [0, 1]


def miniature_segmenter(subject: str) -> Segmenter:
    """Marks a subject of SUBJECTS in pictures that look like the Miniature's world."""
    if subject not in SUBJECTS:
        hint = nearest(subject, SUBJECTS) or f"; valid are {', '.join(SUBJECTS)}"
        raise LikenessError(f"unknown subject '{subject}'{hint}")
    from ..miniature.judges import load_judges

    judges = load_judges()
    wanted = [world.PART_ID[part] for part in SUBJECTS[subject]]

    def segment(pixels: np.ndarray) -> np.ndarray:
        labels = judges.parse(pixels[None])[0]
        inside = Image.fromarray(np.isin(labels, wanted).astype(np.uint8) * 255, "L")
        height, width = pixels.shape[:2]
        smooth = np.asarray(inside.resize((width, height), Image.Resampling.BILINEAR))
        return (smooth >= 128).astype(np.float32)

    return segment


def mask_folder(folder: Path, segment: Segmenter, overwrite: bool = False) -> list[Path]:
    """Writes `masks/<stem>.png` for every picture of a concept folder; all or, on an error, none of them."""
    inner = folder / "images"
    pictures = pictures_in(inner if inner.is_dir() else folder) if folder.is_dir() else []
    if not pictures:
        raise LikenessError(f"no pictures in {folder}; put some .png, .jpg or .webp files there")
    targets = [folder / "masks" / f"{path.stem}.png" for path in pictures]
    taken = [path for path in targets if path.exists()]
    if taken and not overwrite:
        raise LikenessError(f"{taken[0]} exists; allow overwriting, or move it away to keep it")
    masks = [segment(read_picture(path)) for path in pictures]
    _refuse_empty(pictures, masks)
    make_folder(folder / "masks")
    for target, mask in zip(targets, masks):
        with write_atomically(target) as temporary:
            to_mask_image(mask).save(temporary, format="PNG")
    return targets


def _refuse_empty(pictures: Sequence[Path], masks: Sequence[np.ndarray]) -> None:
    for path, mask in zip(pictures, masks):
        if not mask.any():
            raise LikenessError(
                f"nothing to mark was found in {path}; crop closer, draw its mask yourself or drop it"
            )
