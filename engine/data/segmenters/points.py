"""SAM 2 by clicks: what lies under points of the picture, without any word.

A word of this back end is a list of points, each as shares of the picture's width and height: `0.5:0.4`; more
after a blank, with a minus before those that do not belong to it: `0.5:0.4 0.6:0.5 -0.1:0.9`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import LikenessError
from ..helpers import SAM2
from .base import Found, enlarged, network_input

Clicks = list[tuple[float, float, int]]  # x, y as shares, 1 belongs or 0 does not


def clicks_of(word: str) -> Clicks:
    """The points of a word; a sentence with an example where it names none."""
    clicks: Clicks = []
    for piece in word.split():
        x, colon, y = piece.removeprefix("-").partition(":")
        try:
            place = float(x), float(y)
        except ValueError:
            place = (-1.0, -1.0)
        if not colon or not all(0 <= share <= 1 for share in place):
            raise LikenessError(
                f"'{piece}' is no point; write shares of width and height such as 0.5:0.4, and -0.1:0.9 for "
                "what does not belong to it"
            )
        clicks.append((*place, 0 if piece.startswith("-") else 1))
    if not any(belongs for *_, belongs in clicks):
        raise LikenessError("no point says what to mark; write one such as 0.5:0.4")
    return clicks


class PointedSam:
    """Of SAM 2's three proposals for a set of points, the one it thinks best, with edges as sure as it is."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        side = int(self.model.config.prompt_encoder_config.image_size)
        image = network_input(pixels, (side, side)).to(self.model.device)
        embeddings = self.model.get_image_embeddings(image)  # once, for all words
        maps, scores = [], []
        for word in words:
            clicks = clicks_of(word)
            points = torch.tensor([[[[x * side, y * side] for x, y, _ in clicks]]]).to(image)
            labels = torch.tensor([[[belongs for *_, belongs in clicks]]]).to(image.device)
            out = self.model(
                image_embeddings=embeddings, input_points=points, input_labels=labels, multimask_output=True
            )
            best = int(out.iou_scores[0, 0].argmax())
            maps.append(out.pred_masks[0, 0, best].float().sigmoid())
            scores.append(float(out.iou_scores[0, 0, best].clamp(0, 1)))
        return Found(enlarged(torch.stack(maps), pixels.shape[:2]), tuple(scores))


def load(models: Path, device: str = "cpu") -> PointedSam:
    folder = SAM2.find(models)
    from transformers import Sam2Model

    return PointedSam(SAM2.load(Sam2Model, folder).to(device))
