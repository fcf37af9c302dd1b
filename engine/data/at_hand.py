"""Concepts that one part of the program has read and another is about to ask for: pictures are decoded once.

A node that looks at a folder keeps it here, the node that learns from it takes it away.
"""

from collections import OrderedDict
from pathlib import Path

from ..config import ConceptSpec
from ..files import state_of
from .concepts import USABLE_SIDE, Concept, load_concept

_ROOM = 1 << 28  # bytes of pictures that wait here; the oldest go first

_kept: OrderedDict[tuple[ConceptSpec, str], Concept] = OrderedDict()


def keep_at_hand(spec: ConceptSpec, concept: Concept) -> None:
    """Holds a concept that was just read, for as long as its folder stays as it is."""
    _kept[_key(spec)] = concept
    while len(_kept) and sum(map(_size, _kept.values())) > _ROOM:
        _kept.popitem(last=False)


def read_at_hand(spec: ConceptSpec) -> Concept:
    """The concept that is at hand, or from its folder."""
    return _kept.get(_key(spec)) or load_concept(spec)


def take_at_hand(spec: ConceptSpec, shorter: int = USABLE_SIDE) -> Concept:
    """The same, for the last who asks: nobody else holds its pictures afterwards. `shorter`: pixels on large
    pictures' shorter side that are enough, where they must be read."""
    return _kept.pop(_key(spec), None) or load_concept(spec, shorter=shorter)


def _key(spec: ConceptSpec) -> tuple[ConceptSpec, str]:
    return spec, state_of(Path(spec.folder))


def _size(concept: Concept) -> int:
    pictures = (*concept.pictures, *concept.class_pictures)
    parts = (part for picture in pictures for part in (picture.pixels, picture.mask))
    return sum(part.nbytes for part in parts if part is not None)
