"""Finishing pictures as people type it: `redraw`, `redraw;denoise=0.5`, `GFPGANv1.4.pth;faces=auraface`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact
from ..config.typed import typed
from ..data.layout import look_into
from ..data.masks import Mask
from ..data.pictures import read_picture
from ..errors import LikenessError, nearest
from .detail import Detailer
from .onlookers import FaceTools, load_face_tools
from .restore import (
    Known,
    PersonReference,
    Restoration,
    Restore,
    Restored,
    restore_picture,
    to_pixels,
    to_shades,
)
from .restorers import RESTORER_SUFFIXES, load_restorer, load_upscaler
from .upscale import upscaled

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from ..bases.base import BaseModel

REDRAW = "redraw"
# where nobody says: what a model sees around a face, and that its tones and outlines may be new
_REDRAWN: Mapping[str, Any] = {"around": 1.5, "match_colours": False, "both": True}
_DRAWING = {"denoise": float, "steps": int, "guidance": float, "seed": int}
_BLENDING = {"number": int, "side": int, "around": float, "strength": float, "feather": float,
            "match_colours": bool, "both": bool, "gate": str, "allowed_drop": float}  # fmt: skip
_OTHERS = {
    "faces": str,
    "judge": str,
    "part": str,
    "prompt": str,
    "fidelity": float,
    "non_commercial": bool,
    "enlarge": str,
}
OPTION_TYPES: Mapping[str, type] = {**_BLENDING, **_DRAWING, **_OTHERS}


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """What `--restore` asks for: `redraw` or a restorer's file, and every setting that was typed."""

    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def redraws(self) -> bool:
        return self.what == REDRAW

    def get(self, name: str, otherwise: Any) -> Any:
        return self.settings.get(name, otherwise)

    def among(self, names: Mapping[str, type]) -> dict[str, Any]:
        return {name: value for name, value in self.settings.items() if name in names}


def parse_restore_options(text: str) -> RestoreOptions:
    """`redraw` or a file, then settings, each after a semicolon: NAME=VALUE, or a NAME switched on."""
    what, *rest = (piece.strip() for piece in text.split(";"))
    if what != REDRAW and Path(what).suffix.lower() not in RESTORER_SUFFIXES:
        hint = (
            nearest(what, [REDRAW])
            or f"; write {REDRAW}, or a restorer's file ({', '.join(RESTORER_SUFFIXES)})"
        )
        raise LikenessError(f"unknown way to restore '{what}'{hint}")
    settings = typed(filter(None, rest), OPTION_TYPES, text)
    wish = RestoreOptions(what=what, settings=settings)
    Restoration(**wish.among(_BLENDING))  # mistakes are told before anything is loaded
    return wish


@dataclass(frozen=True, kw_only=True)
class Finisher:
    """A wish with everything loaded that it needs; called with a picture, as often as there are pictures."""

    wish: RestoreOptions
    onlookers: FaceTools
    person: PersonReference | None
    restorer: Restore | None  # None: the base draws again
    drawing: Detailer | None
    upscaler: Any | None

    def __call__(
        self,
        shades: NDArray[np.uint8],
        prompt: str = "",
        drawn: Mask | None = None,
        name: str = "the picture",
    ) -> tuple[NDArray[np.uint8], Restored]:
        """The picture (H, W, 3) of uint8 finished, and what became of it."""
        restore, options = self.restorer, Restoration(**self.wish.among(_BLENDING))
        if restore is None:
            if self.drawing is None:
                raise LikenessError("faces are drawn again by a base model; name one")
            restore = replace(self.drawing, prompt=self.wish.get("prompt", prompt) or self.drawing.prompt)
            settings = {"side": restore.side, **_REDRAWN, **self.wish.among(_BLENDING)}
            options = Restoration(**settings)
        pixels = to_pixels(shades)
        canvas = None if self.upscaler is None else upscaled(pixels, self.upscaler)
        done = restore_picture(
            pixels, self.onlookers.faces(shades, drawn), restore, options, parse=self.onlookers.parse,
            person=self.person, canvas=canvas, drawn=None if self.onlookers.eyes is not None else drawn,
            name=name,
        )  # fmt: skip
        return to_shades(done.pixels), done

    def remarks(self) -> list[str]:
        """What is to be known about all of it."""
        unchecked = self.person is None and self.wish.get("gate", "blend") != "off"
        said = "the likeness was not checked; give pictures of the person with --references"
        return [*filter(None, [self.onlookers.remark]), *([said] if unchecked else [])]


def finisher(
    wish: RestoreOptions,
    base: "BaseModel | None",
    *,
    prompt: str = "",
    negative: str = "",
    artifacts: Sequence[tuple[Artifact, float]] = (),
    references: Path | None = None,
    models: Path | None = None,
    device: str = "cpu",
) -> Finisher:
    """Loads what a wish needs; `references` is a folder of pictures, or a concept folder, of the person."""
    onlookers = load_face_tools(
        wish.get("faces", _eyes_for(base)), wish.get("judge", None), device=device, models=models,
        part=wish.get("part", "head" if wish.redraws else "face"),
    )  # fmt: skip
    pictures = [] if references is None else _pictures(references)
    restorer, drawing = None, None
    if not wish.redraws:
        restorer = load_restorer(
            Path(wish.what), device=device, fidelity=wish.get("fidelity", 0.5),
            non_commercial=wish.get("non_commercial", False),
        )  # fmt: skip
    elif base is not None:
        drawing = Detailer(
            base=base, prompt=wish.get("prompt", prompt), negative=negative, artifacts=artifacts,
            **wish.among(_DRAWING),
        )  # fmt: skip
    enlarge = wish.get("enlarge", None)
    return Finisher(
        wish=wish, onlookers=onlookers, person=onlookers.person(pictures), restorer=restorer,
        drawing=drawing, upscaler=None if enlarge is None else load_upscaler(Path(enlarge), device),
    )  # fmt: skip


def known_of(folder: Path, base: "BaseModel | None", device: str = "cpu") -> Known:
    """Whom a folder's pictures show, in the eyes of what recognises people that this base draws."""
    eyes = _eyes_for(base)
    seen = load_face_tools(eyes, eyes, device=device)
    person = seen.person(_pictures(folder))
    assert person is not None and seen.eyes is not None  # somebody judges, and there are pictures
    return Known(seen.eyes, person)


def _eyes_for(base: "BaseModel | None") -> str:
    return "auraface" if base is None else base.traits.face_judge


def _pictures(folder: Path) -> list[NDArray[np.uint8]]:
    if not folder.is_dir():
        raise LikenessError(f"{folder} is no folder; name one with pictures of the person")
    layout = look_into(folder)
    for remark in layout.remarks:
        log.warning("%s", remark)
    return [read_picture(path) for path in layout.pictures]
