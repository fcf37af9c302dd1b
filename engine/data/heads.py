"""Who is in the pictures that somebody wants to learn from: several people, a stranger, heads not upright.

A face model looks at each picture. Whose face belongs to the others is told by how alike they are: faces that
are linked by likeness, one by one, are one person's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .faces import Face

UPRIGHT = 0.9  # a detector this sure of a face sees it upright; else the picture is looked at turned, too
SURER = 0.05  # by how much a turned picture's face must be surer to be the upright one
BESIDE = 0.2  # of the largest face's side: what is smaller stands in the background
_ALIKE = 0.3  # cosine: strangers are below it in every recogniser tried (0.27 and less)
PART_OF = 0.5  # of how alike the person's faces usually are: what is below belongs to somebody else
NEAR = 0.03  # of a face's side: nearer to the border it is taken for cut off
TURNED = {1: "lies on its side", 2: "is upside down", 3: "lies on its side"}


@dataclass(frozen=True)
class HeadsSeen:
    """What a face model sees in one picture (H, W): faces, the largest first, after `turns` quarter turns."""

    size: tuple[int, int]
    faces: tuple[Face, ...] = ()
    vectors: tuple[NDArray[np.float32], ...] = ()  # whose each face is
    turns: int = 0  # to the left, after which the heads are upright

    @property
    def side(self) -> float | None:
        """The largest face's shorter side in pixels; None where there is none."""
        return self.faces[0].side if self.faces else None


def look(pixels: NDArray[np.uint8], finder: Any) -> HeadsSeen:
    """The faces of a picture (H, W, 3), turned upright where the detector is surer of them then."""
    best, turns = finder(pixels), 0
    if getattr(finder, "turns", True) and _surest(best) < UPRIGHT:
        for quarter in TURNED:
            faces = finder(np.ascontiguousarray(np.rot90(pixels, quarter)))
            if _surest(faces) > _surest(best) + SURER:
                best, turns = faces, quarter
    upright = np.ascontiguousarray(np.rot90(pixels, turns))
    vectors = tuple(
        finder.embed(upright, face) if face.embedding is None else face.embedding for face in best
    )
    return HeadsSeen((upright.shape[0], upright.shape[1]), tuple(best), vectors, turns)


def advice_on_heads(seen: Sequence[HeadsSeen], names: Sequence[str]) -> list[list[str]]:
    """What to do about each picture's faces, in sentences."""
    group = people(seen)
    largest = max(set(group) - {-1}, key=group.count, default=-1)
    advice = []
    for number, one in enumerate(seen):
        several = _several(one, group[number] == largest, _belongs(one, seen, group, largest))
        stranger = _stranger(number, seen, names, group, largest)
        advice.append([*_turned(one), *several, *_cut_off(one), *stranger])
    return advice


def people(seen: Sequence[HeadsSeen]) -> list[int]:
    """Which person the largest face of each picture is, numbered from 0; -1 where there is no face."""
    there = [n for n, one in enumerate(seen) if one.faces]
    group = [-1] * len(seen)
    if not there:
        return group
    vectors = np.stack([seen[n].vectors[0] for n in there])
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -1)
    least = max(_ALIKE, PART_OF * float(np.median(alike.max(1))))
    for number, first in enumerate(there):
        if group[first] >= 0:
            continue
        group[first], open_ = number, [there.index(first)]
        while open_:
            row = open_.pop()
            for column in np.flatnonzero(alike[row] >= least):
                if group[there[column]] < 0:
                    group[there[column]] = number
                    open_.append(int(column))
    return group


def _surest(faces: Sequence[Face]) -> float:
    return max((face.score for face in faces), default=0.0)


def _turned(one: HeadsSeen) -> list[str]:
    if not one.turns:
        return []
    return [f"its head {TURNED[one.turns]}; turn it by {_degrees(one.turns)}"]


def _degrees(turns: int) -> str:
    return {1: "90 degrees to the left", 2: "180 degrees", 3: "90 degrees to the right"}[turns]


def _several(one: HeadsSeen, is_person: bool, person: int) -> list[str]:
    """A word on a picture of several people: which face is used, and whether that is the person."""
    count = sum(face.side >= BESIDE * one.faces[0].side for face in one.faces) if one.faces else 0
    if count < 2:
        return []
    used = f"shows {count} faces, of which the largest is used, {_place(one, 0)}"
    if not is_person and person > 0:
        return [
            f"{used}, but the person of the other pictures is {_place(one, person)}; crop it to that face"
        ]
    return [f"{used}; crop it to the one person, or mask them"]


def _belongs(one: HeadsSeen, seen: Sequence[HeadsSeen], group: Sequence[int], largest: int) -> int:
    """Which of a picture's faces is most like the person of the other pictures; -1 where none is."""
    others = [other.vectors[0] for other, whose in zip(seen, group) if whose == largest and other is not one]
    if not others or not one.vectors or group.count(largest) < 2:
        return -1
    alike = np.stack(one.vectors) @ np.stack(others).T
    best = int(alike.max(1).argmax())
    return best if alike[best].max() >= _ALIKE else -1


def _place(one: HeadsSeen, number: int) -> str:
    """Where in its picture a face is, in words."""
    middle = float(one.faces[number].box[0] + one.faces[number].box[2]) / 2 / one.size[1]
    return "at the left" if middle < 0.4 else "at the right" if middle > 0.6 else "in the middle"


def _cut_off(one: HeadsSeen) -> list[str]:
    if not one.faces:
        return []
    left, top, right, bottom = (float(value) for value in one.faces[0].box)
    if max(-left, -top, right - one.size[1], bottom - one.size[0]) < -NEAR * one.faces[0].side:
        return []
    return ["its face is cut off by the picture's border; take one that shows it whole"]


def _stranger(
    number: int, seen: Sequence[HeadsSeen], names: Sequence[str], group: Sequence[int], largest: int
) -> list[str]:
    """A word on a picture whose face is not that of the others."""
    if group[number] in (-1, largest):
        return []
    others = [n for n, whose in enumerate(group) if whose == largest]
    alike = float(np.mean([seen[number].vectors[0] @ seen[n].vectors[0] for n in others]))
    if len(others) < 2:
        return [f"may show somebody else than {names[others[0]]} (their faces are {alike:.2f} alike)"]
    usual = np.stack([seen[n].vectors[0] for n in others])
    between = (usual @ usual.T)[np.triu_indices(len(usual), 1)].mean()
    return [
        f"shows somebody else: its face is {alike:.2f} like those of {len(others)} other pictures, which are "
        f"{between:.2f} like each other; drop it, or make a concept of its own of it"
    ]
