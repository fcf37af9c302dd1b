"""Who finds faces, who says whose they are and who outlines them, chosen by one word each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bases.families import MINIATURE
from ..config import one_of
from ..config.choices import NOBODY
from ..data.faces import Face, face_of_mask, load_faces
from ..data.helpers import BISENET, FACE_PARSING, default_models
from ..data.masks import Mask
from ..data.packs import OR_MASK, PACKS, default_root, packs_in
from ..data.segment import load_segmenter
from ..errors import LikenessError
from .restore import Parse, PersonReference, person_references

Find = Callable[[NDArray[np.uint8]], list[Face]]

MASK = "mask"
FINDERS = (MINIATURE, *PACKS, MASK)
OUTLINED = {"face": ["face"], "head": ["face", "hair"]}
OUTLINED_PARTS = tuple(OUTLINED)
JUDGES = (MINIATURE, *PACKS, NOBODY)


@dataclass(frozen=True, kw_only=True)
class FaceTools:
    """What looks at pictures: `eyes` finds and recognises faces, `parse` outlines one in a crop.

    Without eyes a drawn mask says where the face is; without a parser an oval stands for the face.
    """

    eyes: Any | None
    judge: Any | None
    parse: Parse | None
    remark: str = ""

    def faces(self, pixels: NDArray[np.uint8], drawn: Mask | None) -> list[Face]:
        """All faces of a picture (H, W, 3), the largest first; the one that was drawn, where nobody looks."""
        if self.eyes is not None:
            return self.eyes(pixels)
        if drawn is None:
            raise LikenessError("no face model is chosen; give a mask per picture that marks its face")
        if drawn.shape != pixels.shape[:2]:
            raise LikenessError(
                f"the mask is {drawn.shape[1]} x {drawn.shape[0]} pixels, but its picture is "
                f"{pixels.shape[1]} x {pixels.shape[0]}; make both one size"
            )
        return [face_of_mask(drawn)] if drawn.any() else []

    def person(self, references: Sequence[NDArray[np.uint8]]) -> PersonReference | None:
        """Who must stay recognisable; None where nobody judges or there is nothing to compare with."""
        if self.judge is None or not references:
            return None
        return person_references(self.judge, self.judge, references)


def load_face_tools(
    found_by: str,
    judged_by: str | None = None,
    *,
    part: str = "face",
    device: str = "cpu",
    models: Path | None = None,
    packs: Path | None = None,
    eyes: Find | None = None,
) -> FaceTools:
    """Loads what the words ask for; `judged_by` None means whoever finds the faces, or nobody.

    eyes: what looks for faces in photographs, where `found_by` names none of FINDERS; recognises nobody.
    part: what is outlined, the face alone or the head with its hair.
    models: the folder of helper models, with face_parsing in it; packs: the folder with models/<pack> in it.
    """
    one_of("part", part, OUTLINED_PARTS)
    pack_names = packs_in(packs or default_root())
    if eyes is None:
        one_of("way to find faces", found_by, dict.fromkeys((*FINDERS, *pack_names)))
    judged_by = judged_by or (NOBODY if found_by == MASK or eyes is not None else found_by)
    one_of("judge", judged_by, dict.fromkeys((*JUDGES, *pack_names)))
    if eyes is None and found_by != MASK:
        eyes = load_face_detector(found_by, device, packs, OR_MASK)
    judge = None
    if judged_by != NOBODY:
        judge = eyes if judged_by == found_by else load_face_detector(judged_by, device, packs)
    if found_by in (MINIATURE, MASK):
        outlines = _parser("miniature", part, models, device) if found_by == MINIATURE else None
        return FaceTools(eyes=eyes, judge=judge, parse=outlines)
    folder = models or default_models()
    if _has_parser(folder):
        return FaceTools(eyes=eyes, judge=judge, parse=_parser("face-parts", part, folder, device))
    remark = (
        f"no face parser in {folder / FACE_PARSING.folder}, so that an oval stands for each face; "
        f"finer edges need the files from {BISENET.source} ({BISENET.licence})"
    )
    return FaceTools(eyes=eyes, judge=judge, parse=None, remark=remark)


def load_face_detector(
    name: str, device: str = "cpu", packs: Path | None = None, otherwise: str = ""
) -> Any:  # fmt: skip
    """What finds and recognises faces: the Miniature's own, or a pack under `packs`/models."""
    if name == MINIATURE:
        from ..data.miniature_faces import MiniatureFaces

        return MiniatureFaces()
    return load_faces(name, packs or default_root(), device, otherwise=otherwise)


def _has_parser(folder: Path) -> bool:
    places = (folder / FACE_PARSING.folder, folder)
    return any(not helper.missing(place) for helper in (FACE_PARSING, BISENET) for place in places)


def _parser(name: str, part: str, models: Path | None, device: str) -> Parse:
    segmenter = load_segmenter(name, models, device)
    return lambda crop: segmenter(crop, OUTLINED[part]).masks.max(0)
