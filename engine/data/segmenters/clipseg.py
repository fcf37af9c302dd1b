"""CLIPSeg: any word, softly. Nine phrasings of each word are averaged, as PersonaMagic does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..helpers import CLIPSEG
from .base import Found, enlarged, network_input

_SIDE = 352  # what the released weights were trained at
PHRASINGS = (
    "a photo of a {}",
    "a photo of the {}",
    "a photo of one {}",
    "a good photo of a {}",
    "a close-up photo of a {}",
    "a cropped photo of a {}",
    "a bright photo of a {}",
    "a rendition of a {}",
    "a photo of my {}",
)


class ClipSeg:
    """The soft mask of a word is the mean of the sigmoids of its phrasings' maps."""

    def __init__(self, model: Any, tokenizer: Any, side: int = _SIDE) -> None:
        self.model, self.tokenizer, self.side = model, tokenizer, side
        self._phrases: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        seen = self.model.clip.get_image_features(
            network_input(pixels, (self.side, self.side)).to(self.model.device),
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
        layers = [seen.hidden_states[number + 1] for number in self.model.extract_layers]
        maps = torch.stack([self._map(layers, word) for word in words])  # (words, side, side)
        scores = tuple(float(score) for score in maps.amax((1, 2)))
        return Found(enlarged(maps, pixels.shape[:2]), scores)

    def _map(self, layers: Sequence[Tensor], word: str) -> Tensor:
        """One image pass serves all phrasings: only the small decoder runs once for each."""
        phrases = self._phrases_of(word)
        many = [layer.expand(len(phrases), -1, -1) for layer in layers]
        return self.model.decoder(many, phrases).logits.float().sigmoid().mean(0)

    def _phrases_of(self, word: str) -> Tensor:
        if word not in self._phrases:
            tokens = self.tokenizer(
                [phrase.format(word) for phrase in PHRASINGS],
                padding="max_length",
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(self.model.device)
            self._phrases[word] = self.model.get_conditional_embeddings(
                len(PHRASINGS), tokens["input_ids"], tokens["attention_mask"]
            )
        return self._phrases[word]


def load(models: Path, device: str = "cpu", side: int = _SIDE) -> ClipSeg:
    folder = CLIPSEG.find(models)
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

    model = CLIPSEG.load(CLIPSegForImageSegmentation, folder)
    return ClipSeg(model.to(device), CLIPSEG.load(CLIPTokenizer, folder), side)
