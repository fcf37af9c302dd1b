"""Scores of a learned person's pictures on the Miniature, by judges to whom nothing there is unknown.

Per picture of a test prompt:
    identity           cosine to the person's pictures by the reporting recogniser, which no training uses
    identity_training  the same by the recogniser that training losses may use
    prompt             share of the attributes asked for that the reader sees
    text               cosine of picture and prompt, class word for placeholder, in the image tower's space
    detected           1 where the parser sees a face, else 0
    memorisation       correlation with the nearest training picture
Per picture whose prompt asks for nothing:
    leakage            share of scene, clothes and their colour that equals one training picture's
    diversity          mean distance (1 - cosine, image tower) to the others of the same prompt
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.concepts import Concept
from ..miniature import model, world
from ..miniature.judges import Judges, to_tensor
from .metrics import (
    attributes_kept,
    context_leakage,
    distances_within,
    nearest_correlation,
    similarity_to_references,
    unit,
)
from .people import Shot, as_many_as

if TYPE_CHECKING:
    from ..miniature.making.clip import Pair

LEAKING = ("scene", "clothes", "clothes_colour")  # what a training picture may bring along unasked
LEAST_SKIN = 0.04  # of the picture; renders have 0.10 to 0.30


class PortraitJudges:
    """The Miniature's judges with its image tower and text encoder beside them."""

    def __init__(self, judges: Judges) -> None:
        self.judges = judges

    @cached_property
    def pair(self) -> "Pair":
        """Image tower and text encoder, aligned."""
        from ..miniature.making.clip import load_pair

        return load_pair()

    @torch.no_grad()
    def look(self, pictures: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D) of the image tower."""
        return self.pair.embed_images(to_tensor(pictures)).numpy()

    @torch.no_grad()
    def listen(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, D) of prompts, comparable with those of pictures."""
        tokens: Any = model.tokenizer()(list(prompts), padding="longest")["input_ids"]
        return self.pair.embed_texts(torch.tensor(tokens)).numpy()

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """Whether (N,) the parser sees a face: skin, and eyes or glasses, and a mouth or beard."""
        parts = self.judges.parse(pictures)

        def share(*names: str) -> np.ndarray:
            return np.isin(parts, [world.PART_ID[name] for name in names]).mean((1, 2))

        return (share("skin") > LEAST_SKIN) & (share("eye", "glasses") > 0) & (share("mouth", "beard") > 0)

    def score(
        self, pictures: np.ndarray, shots: Sequence[Shot], unasked: np.ndarray, concept: Concept
    ) -> dict[str, Any]:
        """All metrics as lists of numbers, one per picture; see the head of this file."""
        references = as_many_as([picture.pixels for picture in concept.pictures], model.RESOLUTION)
        judges, asked = self.judges, [shot.asked for shot in shots]
        reference_read, open_read = judges.read(references), judges.read(unasked)
        spoken = [shot.prompt.replace(concept.token, f"a {concept.class_word}") for shot in shots]
        scores = {
            "identity": similarity_to_references(
                judges.embed_reporting(pictures), judges.embed_reporting(references)
            ),
            "identity_training": similarity_to_references(judges.embed(pictures), judges.embed(references)),
            "prompt": attributes_kept(judges.read(pictures), asked),
            "text": (unit(self.look(pictures)) * unit(self.listen(spoken))).sum(1),
            "detected": self.detect(pictures).astype(float),
            "memorisation": nearest_correlation(pictures, references),
            "leakage": context_leakage(open_read, reference_read, LEAKING),
            "diversity": distances_within(self.look(unasked)),
        }
        return {name: [round(float(value), 5) for value in values] for name, values in scores.items()}
