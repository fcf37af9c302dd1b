"""Identities from picture files: what `likeness generate --identity` means, from reading to tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.concepts import load_concept
from ..data.faces import load_faces
from ..data.helpers import default_models
from ..data.masks import Mask
from ..data.pictures import pictures_in, read_picture
from ..data.references import (
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
from ..data.segmenters.face_parts import load as load_parser
from ..errors import LikenessError
from ..networks.shown import IdAdapter, Shown
from .id_adapter import (
    check_count,
    encode_identity,
    factors_of,
    id_adapter,
    miniature_adapter,
    read_adapter,
)


@dataclass(frozen=True, kw_only=True)
class Look:
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


def people_of(texts: Sequence[str], look: Look) -> list[Shown]:
    """Everybody named as FILE, FILE,FILE or FOLDER, each with :WEIGHT behind where it is not 1."""
    if look.regions and len(look.regions) != len(texts):
        raise LikenessError(
            f"{len(look.regions)} regions are given for {len(texts)} people; give one for each, or none"
        )
    adapter = id_adapter(miniature_adapter() if look.adapter is None else read_adapter(look.adapter))
    tower, prepare = _eyes(adapter, look)
    found = []
    for number, text in enumerate(texts):
        files, weight = _with_weight(text)
        pictures, names, masks = _pictures(files)
        check_count(len(pictures), adapter.slots)
        identity = encode_identity(adapter, references_of(pictures, names, prepare, masks), tower)
        region = _region(look.regions[number]) if look.regions else None
        found.append(
            Shown(identity=identity, weight=weight, start=look.start, end=look.end,
                  layers=factors_of(look.layers), region=region)
        )  # fmt: skip
    return found


def _eyes(adapter: IdAdapter, look: Look) -> tuple[ImageTower, Preparation]:
    """The image tower, and what makes references, for this adapter's kind of pictures."""
    keep = FACE if look.without_hair else FACE_AND_HAIR
    if adapter.image_encoder == "miniature":
        return miniature_tower(), OfTheMiniature(keep)
    if look.image_encoder is None:
        raise LikenessError(
            f"this adapter looks through {adapter.image_encoder}; give its folder as --image-encoder"
        )
    models = look.models or default_models()
    prepare = OfPhotographs(
        lambda: load_faces(look.faces, models.with_name("insightface")),
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


def _pictures(files: Sequence[Path]) -> tuple[list[NDArray[np.uint8]], list[str], list[Mask | None]]:
    """Pictures, what errors call them, and the masks of a concept folder's."""
    pictures, names, masks = [], [], []
    for file in files:
        if file.is_dir() and ((file / "images").is_dir() or (file / "masks").is_dir()):
            concept = load_concept(file, class_word="person")
            pictures += [picture.pixels for picture in concept.pictures]
            names += [f"{file / picture.name}" for picture in concept.pictures]
            masks += [picture.mask for picture in concept.pictures]
            continue
        for path in pictures_in(file) if file.is_dir() else [file]:
            pictures.append(read_picture(path))
            names.append(str(path))
            masks.append(None)
    if not pictures:
        told = ", ".join(map(str, files)) or "nothing"
        raise LikenessError(f"there are no pictures in {told}; give a picture of the person")
    return pictures, names, masks


def _region(path: Path) -> torch.Tensor:
    """(H, W) in [0, 1]: how bright a picture is."""
    grey = read_picture(path).astype(np.float32).mean(-1) / 255
    return torch.from_numpy(grey)
