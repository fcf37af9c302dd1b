"""GroundingDINO finds boxes for words, SAM 2 draws what is in them: MagicTailor's way to masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...errors import LikenessError
from ..helpers import GROUNDING_DINO, SAM2
from ..masks import kept_boxes, union
from .base import Found, network_input

SHORT_SIDE, LONG_SIDE = 800, 1333  # the detector's picture
BOX_THRESHOLD, TEXT_THRESHOLD = 0.25, 0.25
_DOUBLES = 0.8  # boxes that overlap more show the same thing


class Detections(NamedTuple):
    """N boxes in pixels, how sure each is and the word it was taken for; and each word's best score."""

    boxes: NDArray[np.float32]  # (N, 4) as x1, y1, x2, y2
    confidence: NDArray[np.float32]  # (N,)
    words: tuple[str, ...]
    best: tuple[float, ...]  # of every word asked for, also where no box reached the threshold


class GroundedSam:
    """A detector and a segmenter, each given; see `load`."""

    def __init__(
        self,
        detector: Any,
        tokenizer: Any,
        segmenter: Any,
        *,
        short_side: int = SHORT_SIDE,
        box_threshold: float = BOX_THRESHOLD,
        text_threshold: float = TEXT_THRESHOLD,
    ) -> None:
        self.detector, self.segmenter = detector, segmenter
        self.tokenizer, self.short_side = tokenizer, short_side
        self.box_threshold, self.text_threshold = box_threshold, text_threshold

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        seen = self.detect(pixels, words)
        kept = kept_boxes(seen.boxes, seen.confidence, seen.words, _DOUBLES)
        masks = np.zeros((len(words), *pixels.shape[:2]), dtype=np.float32)
        if len(kept):
            drawn = self.draw(pixels, seen.boxes[kept])
            for number, mask in zip(kept, drawn):
                place = masks[words.index(seen.words[number])]
                place[:] = union([place, mask])
        confidence = {word: float(seen.confidence[i]) for i, word in reversed(list(enumerate(seen.words)))}
        return Found(masks, seen.best, confidence)

    @torch.no_grad()
    def detect(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Detections:
        """Every box that is surely enough one of the words."""
        tokens, owners = self._question(words)
        height, width = pixels.shape[:2]
        scale = min(self.short_side / min(height, width), LONG_SIDE / max(height, width))
        image = network_input(pixels, (max(round(height * scale), 32), max(round(width * scale), 32)))
        device = self.detector.device
        out = self.detector(pixel_values=image.to(device), input_ids=tokens.to(device))
        sure = out.logits[0].float().sigmoid().cpu()[:, : len(owners)]  # (queries, tokens)
        per_word = torch.stack(
            [sure[:, owners == number].amax(1) for number in range(len(words))], dim=1
        )  # (queries, words)
        confidence, word = per_word.max(1)
        kept = (confidence > self.box_threshold) & (confidence > self.text_threshold)
        middle, size = out.pred_boxes[0].float().cpu()[kept].split(2, dim=1)
        boxes = torch.cat([middle - size / 2, middle + size / 2], 1).clamp(0, 1)
        boxes = boxes * torch.tensor([width, height, width, height])
        return Detections(
            boxes.numpy(),
            confidence[kept].numpy(),
            tuple(str(words[number]) for number in word[kept].tolist()),
            tuple(per_word.amax(0).tolist()),
        )

    def _question(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (1, T) of `word. word.` and, for each of the T tokens, its word's number or -1."""
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        stop = self.tokenizer.convert_tokens_to_ids(".")
        ids, owners = [start], [-1]
        for number, word in enumerate(words):
            pieces = self.tokenizer(word.lower().strip(" ."), add_special_tokens=False)["input_ids"]
            if not pieces:
                raise LikenessError(
                    "a word to look for is empty; write what the picture shows, such as person"
                )
            ids += [*pieces, stop]
            owners += [number] * len(pieces) + [-1]
        return torch.tensor([[*ids, end]]), torch.tensor([*owners, -1])

    @torch.no_grad()
    def draw(self, pixels: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Masks (N, H, W), 0 or 1, of what is in boxes (N, 4): of three proposals for each, the best."""
        side = int(self.segmenter.config.prompt_encoder_config.image_size)
        height, width = pixels.shape[:2]
        image = network_input(pixels, (side, side)).to(self.segmenter.device)
        places = torch.from_numpy(boxes) * torch.tensor([side / width, side / height] * 2)
        out = self.segmenter(pixel_values=image, input_boxes=places[None].to(image), multimask_output=True)
        best = out.iou_scores[0].argmax(1)  # (N,)
        logits_of_best = out.pred_masks[0][torch.arange(len(boxes)), best]  # (N, h, w) logits
        # enlarging the logits, then asking for their sign, draws smoother edges than enlarging the answer
        return np.stack([_inside(logits, (height, width)) for logits in logits_of_best])


def _inside(logits: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    whole = F.interpolate(logits[None, None].float(), size=size, mode="bilinear", align_corners=False)
    return (whole[0, 0] > 0).float().cpu().numpy()


def load(models: Path, device: str = "cpu", short_side: int = SHORT_SIDE) -> GroundedSam:
    boxes, outlines = GROUNDING_DINO.find(models), SAM2.find(models)
    from transformers import BertTokenizer, GroundingDinoForObjectDetection, Sam2Model

    return GroundedSam(
        GROUNDING_DINO.load(GroundingDinoForObjectDetection, boxes).to(device),
        GROUNDING_DINO.load(BertTokenizer, boxes),
        SAM2.load(Sam2Model, outlines).to(device),
        short_side=short_side,
    )
