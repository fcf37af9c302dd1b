"""Identities from picture files: what `likeness generate --identity` means, from reading to tokens."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..config.typed import typed
from ..data.concepts import load_concept
from ..data.faces import load_faces
from ..data.helpers import default_models
from ..data.masks import Mask
from ..data.packs import OR_MASK
from ..data.pictures import read_picture
from ..data.segmenters.face_parts import load as load_parser
from ..errors import LikenessError
from .adapter import check_count, encode_identity, factors_of, id_adapter, miniature_adapter, read_adapter
from .conditioning import IdAdapter, IdentityConditioning, IdentityTokens
from .references import (
    FACE,
    FACE_AND_HAIR,
    ImageTower,
    OfPhotographs,
    OfTheMiniature,
    Preparation,
    clip_tower,
    miniature_tower,
    references_of,
)

log = logging.getLogger(__name__)

# pictures (H, W, 3), what errors call them, and the masks that say what of them to keep
Seen: TypeAlias = tuple[list[NDArray[np.uint8]], list[str], list[Mask | None]]


@dataclass(frozen=True, kw_only=True)
class IdentityOptions:
    """How people's pictures are looked at and shown; all of it may be left as it is on the Miniature."""

    adapter: Path | None = None  # None: the Miniature's own
    image_encoder: Path | None = None  # a CLIP image tower's folder, for photographs
    faces: str = "auraface"  # insightface's pack that finds them in photographs
    models: Path | None = None  # models/likeness
    without_hair: bool = False
    start: float = 0.0
    end: float = 1.0
    layers: str = ""
    regions: Sequence[Path] = field(default_factory=tuple)  # pictures, white where each person is


HOW: dict[str, Callable[[str], Any]] = {  # of Look, what may be typed behind an adapter
    "image_encoder": Path, "faces": str, "models": Path, "start": float, "end": float, "layers": str,
    "without_hair": bool,
}  # fmt: skip


def people_of(texts: Sequence[str], look: IdentityOptions) -> list[IdentityConditioning]:
    """Everybody named as FILE, FILE,FILE or FOLDER, each with :WEIGHT behind where it is not 1."""
    if look.regions and len(look.regions) != len(texts):
        raise LikenessError(
            f"{len(look.regions)} regions are given for {len(texts)} people; give one for each, or none"
        )
    adapter = _adapter(look)
    tower, prepare = _eyes(adapter, look)
    people = []
    for number, text in enumerate(texts):
        files, weight = _with_weight(text)
        identity = _identity(adapter, _pictures(files), tower, prepare)
        region = _region(look.regions[number]) if look.regions else None
        people.append(_shown(identity, weight, look, region))
    return people


def people_on(texts: Sequence[str], folders: Sequence[str]) -> list[IdentityConditioning]:
    """Whom identity adapters show while something is learned, as `likeness train --on` names them.

    ADAPTER, or ADAPTER=PICTURES as in `people_of`, then settings of `Look`, each after a semicolon. ADAPTER
    is a file or `miniature`. Without pictures it looks at the first in `folders`, which are learned from.
    """
    people = []
    for text in texts:
        assignment, *rest = (piece.strip() for piece in text.split(";"))
        name, equals, files = (piece.strip() for piece in assignment.partition("="))
        look = _look(rest, text, None if name == "miniature" else Path(name))
        if equals:
            people += people_of([files], look)
            continue
        adapter = _adapter(look)
        pictures, names, masks = _pictures([Path(folder) for folder in folders])
        first = pictures[: adapter.slots], names[: adapter.slots], masks[: adapter.slots]
        identity = _identity(adapter, first, *_eyes(adapter, look))
        people.append(_shown(identity, 1.0, look, None))
    return people


def _look(pieces: Sequence[str], whole: str, adapter: Path | None) -> IdentityOptions:
    return IdentityOptions(adapter=adapter, **typed(pieces, HOW, whole))


def _adapter(look: IdentityOptions) -> IdAdapter:
    return id_adapter(miniature_adapter() if look.adapter is None else read_adapter(look.adapter))


def _identity(adapter: IdAdapter, seen: Seen, tower: ImageTower, prepare: Preparation) -> IdentityTokens:
    pictures, names, masks = seen
    check_count(len(pictures), adapter.slots)
    return encode_identity(adapter, references_of(pictures, names, prepare, masks), tower)


def _shown(
    identity: IdentityTokens, weight: float, look: IdentityOptions, region: torch.Tensor | None
) -> IdentityConditioning:
    return IdentityConditioning(
        identity=identity, weight=weight, start=look.start, end=look.end, layers=factors_of(look.layers),
        region=region,
    )  # fmt: skip


def _eyes(adapter: IdAdapter, look: IdentityOptions) -> tuple[ImageTower, Preparation]:
    """The image tower, and what makes references, for this adapter's kind of pictures."""
    keep = FACE if look.without_hair else FACE_AND_HAIR
    if adapter.image_encoder == "miniature":
        return miniature_tower(), OfTheMiniature(keep, checked=True)
    if look.image_encoder is None:
        raise LikenessError(
            f"this adapter looks through {adapter.image_encoder}; give its folder as --image-encoder, or "
            "behind --on as ;image_encoder=FOLDER"
        )
    models = look.models or default_models()
    prepare = OfPhotographs(
        lambda: load_faces(look.faces, models.with_name("insightface"), otherwise=OR_MASK),
        lambda: load_parser(models).labels,
        keep,
    )
    return clip_tower(look.image_encoder), prepare


def _with_weight(text: str) -> tuple[list[Path], float]:
    """`a.png,b.png:0.8` as paths and a number."""
    files, _, weight = text.rpartition(":")
    try:
        number = float(weight) if files else 1.0
    except ValueError:
        files, number = text, 1.0
    return [Path(file.strip()) for file in (files or text).split(",") if file.strip()], number


def _pictures(files: Sequence[Path]) -> Seen:
    """Pictures, what errors call them, and the masks of a concept folder's."""
    pictures, names, masks = [], [], []
    for file in files:
        if file.is_dir():
            concept = load_concept(file, class_word="person")
            pictures += [picture.pixels for picture in concept.pictures]
            names += [f"{file / picture.name}" for picture in concept.pictures]
            masks += [picture.mask for picture in concept.pictures]
            for remark in concept.remarks:
                log.warning("%s", remark)
        else:
            pictures.append(read_picture(file))
            names.append(str(file))
            masks.append(None)
    if not pictures:
        listed = ", ".join(map(str, files)) or "nothing"
        raise LikenessError(f"there are no pictures in {listed}; give a picture of the person")
    return pictures, names, masks


def _region(path: Path) -> torch.Tensor:
    """(H, W) in [0, 1]: how bright a picture is."""
    grey = read_picture(path).astype(np.float32).mean(-1) / 255
    return torch.from_numpy(grey)
