"""Measures pictures of a learned person against reference pictures, and says in plain words what it means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.concepts import Picture
from ..errors import LikenessError
from .backends import FaceSimilarity, LookJudge, MiniatureBackend, Pictures, TextJudge
from .metrics import distances_within, nearest_correlation, similarity_to_references, unit

CAVEAT = (
    "A picture that copies the pose, light or expression of a reference scores higher than the same face "
    "drawn anew. Read identity beside the prompt score and the nearest reference, over varied prompts."
)
_GREY = 127  # around parts that are looked at alone
COPY = 0.9  # correlation of pixels from which a picture is called a copy


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One number per picture (N,); NaN where there was no face. None where nobody could judge."""

    judge: str
    identity: np.ndarray
    detected: np.ndarray  # bool
    own: float | None  # what the references score against each other, each left out once
    strangers: float | None  # what pictures of other people score
    memorisation: np.ndarray  # pixel correlation with the nearest reference
    text: np.ndarray | None = None
    text_judge: str = ""
    look: dict[str, np.ndarray] | None = None  # by judge: cosine to the references as whole pictures
    style: dict[str, np.ndarray] | None = None  # by judge: cosine to pictures of the style
    diversity: dict[str, np.ndarray] | None = None  # by judge: mean distance (1 - cosine) to the others
    component: dict[str, np.ndarray] | None = None  # by judge: cosine of a part to others; NaN without it
    names: tuple[str, ...] = ()  # what the pictures are called; by default by their numbers
    usual: tuple[float, float] | None = None  # what strangers and the same person usually score by this judge

    @property
    def mean_identity(self) -> float:
        """Over the pictures in which a face was found; 0 where there is none."""
        return float(np.nanmean(self.identity)) if self.detected.any() else 0.0

    @property
    def mean_text(self) -> float:
        return 0.0 if self.text is None else float(self.text.mean())

    @property
    def median_identity(self) -> float:
        """As `mean_identity`; one stranger among the pictures moves it less."""
        return float(np.nanmedian(self.identity)) if self.detected.any() else 0.0

    @property
    def ends(self) -> tuple[float, float] | None:
        """What strangers and the person's own pictures score, measured or, where nobody could, usual."""
        low, high = self.usual or (None, None)
        low = low if self.strangers is None else self.strangers
        high = high if self.own is None else self.own
        return None if low is None or high is None or high <= low else (low, high)

    @property
    def on_the_scale(self) -> float | None:
        """Where identity lies between strangers (0) and the person's own pictures (1)."""
        return self.scale_of(self.mean_identity)

    def scale_of(self, identity: float) -> float | None:
        """Where an identity lies between strangers (0) and the person's own pictures (1)."""
        return None if self.ends is None else (identity - self.ends[0]) / (self.ends[1] - self.ends[0])

    def name(self, number: int) -> str:
        return self.names[number] if self.names else f"Picture {number + 1}"


def measure(
    pictures: Pictures,
    references: Pictures,
    faces: FaceSimilarity,
    *,
    prompts: Sequence[str] = (),
    text: TextJudge | None = None,
    looks: Sequence[LookJudge] = (),
    strangers: Pictures = (),
    style: Pictures = (),
    component: Sequence[Picture] = (),
    component_masks: Sequence[np.ndarray] = (),
    names: Sequence[str] = (),
) -> Measures:
    """Scores of pictures; `prompts` one per picture with the class word in them, or none.

    `strangers`: pictures of other people of the kind, to see what chance looks like; `style`: pictures of the
    style that was asked for; `component`: pictures of a part that was asked for, masked, with
    `component_masks` (H, W) in [0, 1], which mark that part in each of `pictures`, or nothing where it is
    missing. How much pictures differ is said where all have one prompt. `names`: what to call the pictures.
    """
    if prompts and len(prompts) != len(pictures):
        raise LikenessError(
            f"{len(prompts)} prompts for {len(pictures)} pictures; give one for each, or none"
        )
    if len(style) and not looks:
        raise LikenessError(
            "nobody here can judge a style; put CLIP or DINOv2 into models/likeness/, or leave the style out"
        )
    _check_component(pictures, component, component_masks, looks)
    if isinstance(faces, MiniatureBackend):
        faces.check(references, "the reference pictures")
        faces.check(pictures, "the pictures")
    person = _faces_known(faces, references)
    vectors, detected = faces.faces(pictures)
    identity = np.full(len(vectors), np.nan)
    if detected.any():
        identity[detected] = similarity_to_references(vectors[detected], person)
    if not strangers and isinstance(faces, MiniatureBackend):
        strangers = faces.strangers()
    can_read = text is not None and bool(prompts)
    alike = len(pictures) > 1 and len(set(prompts)) <= 1
    return Measures(
        judge=faces.name,
        identity=identity,
        detected=detected,
        own=_own(person),
        strangers=_strangers(faces, strangers, person),
        memorisation=nearest_correlation(pictures, references),
        text=text.text(pictures, prompts) if text is not None and can_read else None,
        text_judge=text.name if text is not None and can_read else "",
        look={judge.name: _look(judge, pictures, references) for judge in looks} or None,
        style={judge.name: style_similarity(judge, pictures, style) for judge in looks if len(style)} or None,
        diversity={judge.name: distances_within(judge.look(pictures)) for judge in looks if alike} or None,
        component=_component(pictures, component, component_masks, looks),
        names=tuple(names),
        usual=getattr(faces, "usual", None),
    )


def _faces_known(faces: FaceSimilarity, references: Pictures) -> np.ndarray:
    """Vectors (N, D) of the faces in the reference pictures."""
    vectors, there = faces.faces(references)
    if not there.any():
        raise LikenessError(
            f"no face was found in any of the {len(references)} reference pictures; crop closer, turn them "
            "upright, or choose another judge"
        )
    return vectors[there]


def likeness_in_words(measures: Measures) -> str:
    """What the scores say, a line each, with the caveat at the end."""
    return "\n".join([*_identity_in_words(measures), *_rest_in_words(measures), CAVEAT])


def _identity_in_words(measures: Measures) -> list[str]:
    count, seen = len(measures.detected), int(measures.detected.sum())
    lines = [f"A face was found in {seen} of {count} pictures (judge: {measures.judge})."]
    if not seen:
        return [*lines, "Identity cannot be told."]
    low, high = np.nanmin(measures.identity), np.nanmax(measures.identity)
    line = f"Identity {measures.mean_identity:.2f} on average, {low:.2f} to {high:.2f}"
    if seen > 1:
        line += f", median {measures.median_identity:.2f}"
    if measures.own is not None:
        line += f"; the person's own pictures reach {measures.own:.2f} among each other"
    elif measures.ends is not None:
        line += (
            f"; a person's own pictures usually reach {measures.ends[1]:.2f} (there is one reference alone)"
        )
    if measures.strangers is not None:
        line += f", strangers {measures.strangers:.2f}"
    elif measures.ends is not None:
        line += f", strangers usually {measures.ends[0]:.2f}"
    scale = measures.on_the_scale
    if scale is None:
        return [*lines, f"{line}."]
    return [*lines, f"{line}: {scale:.0%} of the way from a stranger to the person, {_verdict(scale)}."]


def _verdict(scale: float) -> str:
    words = [(0.85, "the same person"), (0.6, "clearly like them"), (0.3, "a resemblance")]
    return next((word for least, word in words if scale >= least), "hardly them")


# ---- picture by picture


def rows(measures: Measures) -> list[dict[str, Any]]:
    """What was found in each picture, as plain values: its name, whether there is a face, whose it is."""
    values_by_picture = []
    for number, seen in enumerate(measures.detected.tolist()):
        scale = measures.scale_of(float(measures.identity[number])) if seen else None
        row: dict[str, Any] = {
            "picture": measures.name(number),
            "face": seen,
            "identity": _plain(measures.identity[number]),
            "verdict": "no face" if not seen else "" if scale is None else _verdict(scale),
            "copy": bool(measures.memorisation[number] >= COPY),
        }
        if measures.text is not None:
            row["prompt"] = _plain(measures.text[number])
        for kind in ("look", "style", "diversity", "component"):
            for name, values in (getattr(measures, kind) or {}).items():
                row[f"{kind} ({name})"] = _plain(values[number])
        values_by_picture.append(row)
    return values_by_picture


def rows_in_words(measures: Measures) -> str:
    """A line for each picture: what it is called, how like the person its face is, and what that means."""
    width = max(len(measures.name(number)) for number in range(len(measures.detected)))
    lines = []
    for row in rows(measures):
        score = "     " if row["identity"] is None else f"{row['identity']:5.2f}"
        copy = ", a copy of a reference" if row["copy"] else ""
        lines.append(f"{row['picture']:<{width}}  {score}  {row['verdict']}{copy}".rstrip())
    return "\n".join(lines)


def report(measures: Measures) -> str:
    """Picture by picture, then what the scores say together."""
    return f"{rows_in_words(measures)}\n\n{likeness_in_words(measures)}"


def in_numbers(measures: Measures) -> dict[str, Any]:
    """Everything as plain values, for programs; None where there is no number."""
    scores: dict[str, Any] = {
        "judge": measures.judge,
        "faces_found": int(measures.detected.sum()),
        "identity": {
            "mean": _plain(measures.mean_identity) if measures.detected.any() else None,
            "median": _plain(measures.median_identity) if measures.detected.any() else None,
            "own": _plain(measures.own),
            "strangers": _plain(measures.strangers),
            "usual": None if measures.usual is None else list(measures.usual),
            "scale": _plain(measures.on_the_scale) if measures.detected.any() else None,
        },
    }
    if measures.text is not None:
        scores["prompt"] = {"judge": measures.text_judge, "mean": _plain(measures.mean_text)}
    return {**scores, "pictures": rows(measures)}


def _plain(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def _rest_in_words(measures: Measures) -> list[str]:
    lines = []
    if measures.text is not None:
        what = (
            f"Of what the prompts ask for, {measures.mean_text:.0%} is seen"
            if measures.text_judge == MiniatureBackend.name
            else f"Picture and prompt agree at {measures.mean_text:.3f} ({measures.text_judge} cosine; "
            "compare runs, not absolute numbers)"
        )
        lines.append(
            f"{what}; worst is {measures.name(int(measures.text.argmin()))} with {measures.text.min():.2f}."
        )
    for name, values in (measures.look or {}).items():
        lines.append(f"As whole pictures they are {values.mean():.2f} like the references ({name}).")
    for name, values in (measures.style or {}).items():
        lines.append(f"They are {values.mean():.2f} like the pictures of the style ({name}).")
    lines += [_component_in_words(values, name) for name, values in (measures.component or {}).items()]
    for name, values in (measures.diversity or {}).items():
        lines.append(f"Among each other they differ by {values.mean():.2f}; 0 is one picture ({name}).")
    copies = [measures.name(int(number)) for number in np.flatnonzero(measures.memorisation >= COPY)]
    if copies:
        look = "look like copies" if len(copies) > 1 else "looks like a copy"
        lines.append(f"{', '.join(copies)} {look} of a reference.")
    return lines


def _component_in_words(values: np.ndarray, name: str) -> str:
    there = values[~np.isnan(values)]
    where = f"found in {len(there)} of {len(values)} pictures"
    if not len(there):
        return f"The component was {where}; how like it is cannot be told."
    return f"The component was {where} and is {there.mean():.2f} like its own pictures there ({name})."


def _own(vectors: np.ndarray) -> float | None:
    """Mean cosine of each reference to the others' mean direction: what the same person scores at best."""
    if len(vectors) < 2:
        return None
    rest = [np.delete(vectors, number, axis=0) for number in range(len(vectors))]
    each = [similarity_to_references(vectors[[n]], others)[0] for n, others in enumerate(rest)]
    return float(np.mean(each))


def _strangers(faces: FaceSimilarity, strangers: Pictures, person: np.ndarray) -> float | None:
    if not len(strangers):
        return None
    vectors = faces.everybody(strangers)
    return float(similarity_to_references(vectors, person).mean()) if len(vectors) else None


def _look(judge: LookJudge, pictures: Pictures, references: Pictures) -> np.ndarray:
    """Mean cosine (N,) of each picture to every reference, as CLIP-I and DINO are usually given."""
    return (unit(judge.look(pictures)) @ unit(judge.look(references)).T).mean(1)


def style_similarity(judge: LookJudge, pictures: Pictures, style: Pictures) -> np.ndarray:
    """Mean cosine (N,) of pictures to pictures of a style (CLIP-I, DINO); what they show should differ."""
    return _look(judge, pictures, style)


def _check_component(
    pictures: Pictures,
    component: Sequence[Picture],
    masks: Sequence[np.ndarray],
    looks: Sequence[LookJudge],
) -> None:
    """Raises where a component cannot be measured as it was given."""
    if not len(component) and not len(masks):
        return
    if not len(component):
        raise LikenessError(
            "masks of a component were given, but no pictures of it to compare with; give both or neither"
        )
    if not looks:
        raise LikenessError(
            "nobody here can judge a component; put CLIP or DINOv2 into models/likeness/, or leave the "
            "component out"
        )
    bare = next((picture.name for picture in component if picture.mask is None), None)
    if bare is not None:
        raise LikenessError(
            f"picture {bare} of the component has no mask; mark the component in each of its pictures"
        )
    if len(masks) != len(pictures):
        raise LikenessError(
            f"{len(masks)} masks of the component for {len(pictures)} pictures; give one for each, empty "
            "where the component is missing"
        )
    for number, (pixels, mask) in enumerate(zip(pictures, masks), start=1):
        if mask.shape != pixels.shape[:2]:
            raise LikenessError(
                f"the component's mask {number} is {mask.shape[1]} x {mask.shape[0]} pixels, but its picture "
                f"is {pixels.shape[1]} x {pixels.shape[0]}; make both one size"
            )


def _component(
    pictures: Pictures,
    component: Sequence[Picture],
    masks: Sequence[np.ndarray],
    looks: Sequence[LookJudge],
) -> dict[str, np.ndarray] | None:
    """Component fidelity (N,) by judge, None where no component was given."""
    parts = [(picture.pixels, picture.mask) for picture in component if picture.mask is not None]
    if not parts:
        return None
    shown, marked = zip(*parts)
    return {judge.name: part_similarity(judge, pictures, masks, shown, marked) for judge in looks}


def part_similarity(
    judge: LookJudge, pictures: Pictures, masks: Pictures, others: Pictures, known_masks: Pictures
) -> np.ndarray:
    """Component fidelity (N,): mean cosine of a part cut out of each picture to the same part of others.

    Masks (H, W) in [0, 1] mark the part; NaN where one marks nothing. As in MagicTailor (arXiv 2410.13370).
    """
    references = [cut for cut in map(cut_out_faces, others, known_masks) if cut is not None]
    if not references:
        raise LikenessError("no mask of the component's pictures marks anything; mark the part white")
    cuts = [cut_out_faces(pixels, mask) for pixels, mask in zip(pictures, masks)]
    similarities = np.full(len(cuts), np.nan)
    there = [number for number, cut in enumerate(cuts) if cut is not None]
    if there:
        similarities[there] = _look(judge, [cuts[number] for number in there], references)  # type: ignore[misc]
    return similarities


def cut_out_faces(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The part alone on grey, in a square around it, (S, S, 3) uint8; None where the mask marks nothing."""
    marked = mask >= 0.5
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    if not len(rows):
        return None
    part = np.where(marked[..., None], pixels, _GREY)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(part.shape[:2])
    square = np.full((side, side, 3), _GREY, np.uint8)
    top, left = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
    square[top : top + part.shape[0], left : left + part.shape[1]] = part
    return square
