"""What all nodes share: the sockets of our own, the menu's category, the names of face packs."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..engine.config import ConceptSpec
from ..engine.errors import LikenessError

Concept = io.Custom("LIKENESS_CONCEPT")  # engine.config.ConceptSpec: a folder of pictures and what it shows
Likeness = io.Custom("LIKENESS")  # engine.artifact.Artifact
Identity = io.Custom("LIKENESS_IDENTITY")  # engine.identity.conditioning.Identity: a person seen in pictures

CATEGORY = "Likeness"
FACE_PACKS = ("auraface", "antelopev2", "buffalo_l")  # insightface's, as engine.data.faces knows them
MEDIAPIPE = "mediapipe"  # newer ComfyUI's own face model, which recognises nobody
NO_MODEL = "my mask"  # instead of a pack: somebody marked the face


def single(values: Sequence[Any], what: str) -> Any:
    """The one value of an input of a node that takes lists; a list of different values is refused."""
    first, *others = values
    told = isinstance(first, str | ConceptSpec)  # what can be compared; models are one or not
    if any(other is not first and not (told and other == first) for other in others):
        raise LikenessError(f"{what} is a list of different values; connect a single one")
    return first
