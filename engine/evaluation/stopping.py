"""Likeness-based stopping: pictures drawn on the way are scored; training ends when there is no more to gain.

The state that is kept is the one with the highest identity among those that still obey their prompts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import MINIATURE_OPEN_PROMPTS, Job, read
from ..data.concepts import Concept, Picture, load_concept
from ..errors import LikenessError
from ..training.observer import Progress
from .backends import FaceSimilarity, TextJudge, judges_there, load_face_judge
from .metrics import copying, similarity_to_references

MINIATURE_PROMPTS = MINIATURE_OPEN_PROMPTS[:4]  # none is among those that results are reported on
PROMPTS = (
    "a photo of {} on a beach", "a watercolor painting of {}", "a photo of {} wearing a top hat",
    "a photo of {} in a suit, in front of a castle",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LikenessLook:
    """What one look at the pictures found: means, identity over all pictures, 0 for one without a face.

    copying: how much nearer faces are to a training picture than the person's own pictures are to each other
    (WithAnyone, 2510.14975); None where no pictures are held out, or no face was drawn.
    """

    step: int
    identity: float
    prompt: float | None = None
    copying: float | None = None


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When to end."""

    looks: int = 3  # without a better identity
    gain: float = 0.01  # of identity that counts as better
    loss: float = 0.15  # of the prompt score, relative to its best, that counts as disobeying

    def __post_init__(self) -> None:
        if self.looks < 1 or not 0 <= self.loss <= 1 or self.gain < 0:
            raise LikenessError("patience needs one look or more, a gain of 0 or more, a loss from 0 to 1")

    def obeys(self, look: LikenessLook, looks: Sequence[LikenessLook]) -> bool:
        """Whether the prompts are obeyed about as well as they ever were."""
        if look.prompt is None:
            return True
        best = max(other.prompt for other in looks if other.prompt is not None)
        return look.prompt >= best * (1 - self.loss)

    def best(self, looks: Sequence[LikenessLook]) -> LikenessLook:
        """The highest identity among the looks whose prompts were obeyed."""
        return max((look for look in looks if self.obeys(look, looks)), key=lambda look: look.identity)

    def enough(self, looks: Sequence[LikenessLook]) -> bool:
        """Identity stands still, or prompts were disobeyed twice in a row."""
        if len(looks) >= 2 and not any(self.obeys(look, looks) for look in looks[-2:]):
            return True
        if len(looks) <= self.looks:
            return False
        earlier, later = looks[: -self.looks], looks[-self.looks :]
        return max(look.identity for look in later) < max(look.identity for look in earlier) + self.gain


class LikenessCritic:
    """A `training.observer.Critic` that scores identity and prompts with the judges of this machine."""

    def __init__(
        self,
        concept: Concept,
        faces: FaceSimilarity,
        text: TextJudge | None,
        prompts: Sequence[str],
        *,
        every: int,
        seed: int = 0,
        patience: Patience | None = None,
        on_look: Callable[[Sequence[LikenessLook]], None] | None = None,
    ) -> None:
        self.every = every
        self.enough = False
        self.looks: list[LikenessLook] = []
        self.shots = [(prompt.format(concept.token), seed + n) for n, prompt in enumerate(prompts)]
        self._spoken = [prompt.format(f"a {concept.class_word}") for prompt in prompts]
        self._faces, self._text = faces, text
        self._patience = patience or Patience()
        self._on_look = on_look
        self._held = tuple(picture.name for picture in concept.held)
        self._learned = self._vectors(concept, concept.pictures)
        self._references = self._vectors(concept, concept.held) if concept.held else self._learned
        self._real = np.concatenate([self._learned, self._references])

    def _vectors(self, concept: Concept, pictures: Sequence[Picture]) -> np.ndarray:
        """The faces (N, D) in pictures of the concept."""
        vectors, detected = self._faces.faces([picture.pixels for picture in pictures])
        if not detected.any():
            which = "held-out pictures" if pictures is concept.held else "pictures"
            raise LikenessError(
                f"no face was found in the {which} of {concept.token}; learn without stopping by likeness, "
                "or choose another judge"
            )
        return vectors[detected]

    @property
    def best(self) -> LikenessLook:
        """The look whose state is kept."""
        return self._patience.best(self.looks)

    @property
    def scores(self) -> dict[str, float]:
        """The best look's scores by name, and its step."""
        if not self.looks:
            return {}
        return {**scores_of(self.best), "step": self.best.step}

    @property
    def ending(self) -> str:
        """Why the run ended, in words."""
        if not self.enough:
            return "the likeness still grew at the last step"
        stood = self._patience.obeys(self.looks[-1], self.looks)
        return "the likeness stood still" if stood else "the prompts were obeyed less and less"

    def consider(self, progress: Progress, pictures: Sequence[np.ndarray]) -> bool:
        """Scores one picture per shot; whether this is the best state so far."""
        vectors, detected = self._faces.faces(pictures)
        identity = np.where(detected, similarity_to_references(vectors, self._references), 0.0).mean()
        prompt = None if self._text is None else float(self._text.text(pictures, self._spoken).mean())
        copied = None
        if self._held and detected.any():
            copied = float(copying(vectors[detected], self._learned, self._real).mean())
        look = LikenessLook(step=progress.step, identity=float(identity), prompt=prompt, copying=copied)
        self.looks.append(look)
        self.enough = self._patience.enough(self.looks)
        if self._on_look is not None:
            self._on_look(self.looks)
        return self._patience.best(self.looks) is look

    def memory(self) -> Mapping[str, Any]:
        """The looks so far, and what was drawn and asked for them."""
        return {**self._asked(), "looks": [asdict(look) for look in self.looks]}

    def recall(self, memory: Mapping[str, Any]) -> bool:
        """Takes over another's looks where the same was drawn for it and asked of the same judges."""
        asked = self._asked()
        if {key: memory.get(key) for key in asked} != asked:
            return False
        looks = [read(LikenessLook, look, "look") for look in memory["looks"]]
        if not all(math.isfinite(score) for look in looks
                   for score in (look.identity, look.prompt or 0.0, look.copying or 0.0)):  # fmt: skip
            raise LikenessError("a look found what is no number")
        if any((look.prompt is None) != (self._text is None) for look in looks):
            raise LikenessError("a look found what nobody judged")
        self.looks = looks
        return True

    def _asked(self) -> dict[str, Any]:
        text = None if self._text is None else self._text.name
        return {"shots": [list(shot) for shot in self.shots], "faces": self._faces.name, "text": text,
                **({"held_out": list(self._held)} if self._held else {})}  # fmt: skip


def critic_for(
    job: Job,
    every: int,
    *,
    faces: str = "auto",
    packs: Path | None = None,
    models: Path | None = None,
    miniature: bool | None = None,
    concept: Concept | None = None,
    on_look: Callable[[Sequence[LikenessLook]], None] | None = None,
) -> LikenessCritic:
    """The critic for a job's first concept, which `concept` is where somebody has read it.

    `faces`: a judge's name, auto for one that fits the base.
    """
    if job.method == "masterweaver":
        raise LikenessError("an adapter for everybody has no likeness to stop by; leave it to its steps")
    small = job.base.own_world if miniature is None else miniature
    judge = load_face_judge(("miniature" if small else "auraface") if faces == "auto" else faces, packs)
    text, _ = judges_there(judge, models)
    concept = (concept or load_concept(job.concepts[0])).held_out(job.hold_out, job.seed)
    prompts = MINIATURE_PROMPTS if small else PROMPTS
    return LikenessCritic(concept, judge, text, prompts, every=every, seed=job.seed, on_look=on_look)


def scores_of(look: LikenessLook) -> dict[str, float]:
    """A look's scores by name, those that somebody judged."""
    prompt = {} if look.prompt is None else {"prompts": look.prompt}
    copying = {} if look.copying is None else {"copying": look.copying}
    return {"likeness": look.identity, **copying, **prompt}


def look_in_words(looks: Sequence[LikenessLook]) -> str:
    """The latest look in one line."""
    look = looks[-1]
    prompt = "" if look.prompt is None else f", prompt {look.prompt:.2f}"
    copying = "" if look.copying is None else f", copying {look.copying:+.2f}"
    return f"step {look.step}: identity {look.identity:.2f}{copying}{prompt}"


def curves(looks: Sequence[LikenessLook]) -> dict[str, list[tuple[int, float]]]:
    """Both scores over the steps, as the loss plot draws them."""
    scores = {"identity": [(look.step, look.identity) for look in looks]}
    prompts = [(look.step, look.prompt) for look in looks if look.prompt is not None]
    return {**scores, "prompt": prompts} if prompts else scores
