"""A concept's pictures examined with whoever can look at the faces in them."""

from pathlib import Path
from typing import Any

from ..bases.families import MINIATURE
from ..config.choices import AUTOMATIC, NOBODY
from ..data.concepts import Concept
from ..data.faces import provider_line
from ..data.heads import advice_on_heads, look
from ..data.packs import PACKS, default_root, packs_in
from ..data.quality import Quality, examine_pictures, own_world
from ..errors import LikenessError
from .onlookers import load_face_detector


def examined(
    concept: Concept, faces: str = AUTOMATIC, packs: Path | None = None
) -> tuple[list[Quality], str]:
    """A report per picture, and a word on who looked at the faces, where there is something to say.

    faces: a face pack under `packs`/models, `miniature`, `nobody`, or automatic for whoever is there.
    """
    finder, remark = _who_looks(concept, faces, packs or default_root())
    seen = [] if finder is None else [look(picture.pixels, finder) for picture in concept.pictures]
    if not seen or (faces == AUTOMATIC and not any(one.faces for one in seen)):  # nobody, or a dog, a vase
        return examine_pictures(concept.pictures), remark
    heads = advice_on_heads(seen, [picture.name for picture in concept.pictures])
    return examine_pictures(concept.pictures, [one.side for one in seen], heads=heads), remark


def _who_looks(concept: Concept, faces: str, packs: Path) -> tuple[Any, str]:
    """What finds faces, or None; and what to say of it."""
    if faces == NOBODY or (faces == AUTOMATIC and concept.role != "subject"):
        return None, ""
    if faces != AUTOMATIC:
        finder = load_face_detector(faces, packs=packs)
        return finder, provider_line(faces, finder.provider, "cpu")
    if own_world(concept.pictures):
        return load_face_detector(MINIATURE), ""
    there = sorted(packs_in(packs), key=lambda name: (name not in PACKS, name))
    if not there:
        return None, f"nobody looked at the faces: there is no face pack in {packs / 'models'}"
    try:
        finder = load_face_detector(there[0], packs=packs)
        return finder, provider_line(there[0], finder.provider, "cpu")
    except LikenessError as error:
        return None, f"nobody looked at the faces: {error}"
