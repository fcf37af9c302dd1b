"""Judges of pictures, the Miniature's and real ones: who it is (faces), what was asked (text), how it looks.

The real ones are models in transformers folders and insightface packs that lie on this machine. Nothing is
downloaded: what is missing is named with its source, its licence and its folder.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps

from ..bases.clip_features import MEAN as CLIP_MEAN
from ..bases.clip_features import SPREAD as CLIP_SPREAD
from ..data.faces import Face, load_faces
from ..data.helpers import CLIP_MODEL, DINOV2, Helper, default_models
from ..data.segmenters.miniature import check_own_world
from ..errors import LikenessError
from ..miniature import world
from ..miniature.judges import load_judges
from ..miniature.model import RESOLUTION
from .metrics import unit
from .people import as_many_as, asked_in
from .portraits import PortraitJudges

_MINIATURE = "miniature"
_AT_ONCE = 16  # pictures in one pass
_DINO_SIDE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation
_STRANGERS = 8  # people that calibrate the Miniature's recogniser

Pictures = Sequence[np.ndarray]  # each (H, W, 3) uint8


class FaceSimilarity(Protocol):
    """Says who is in a picture."""

    name: str
    usual: tuple[float, float]  # cosines of strangers, and of pictures of one person

    def faces(self, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (N, D), and whether (N,) there was a face; without one the vector is 0."""
        ...

    def everybody(self, pictures: Pictures) -> np.ndarray:
        """Unit vectors (M, D) of all faces in the pictures, in one of which there may be several."""
        ...


class TextJudge(Protocol):
    """Says how well a picture fits a sentence."""

    name: str

    def text(self, pictures: Pictures, prompts: Sequence[str]) -> np.ndarray:
        """One score (N,) per picture and its own prompt; higher fits better."""
        ...


class LookJudge(Protocol):
    """Says what a picture looks like as a whole."""

    name: str

    def look(self, pictures: Pictures) -> np.ndarray:
        """Unit vectors (N, D)."""
        ...


class MiniatureBackend:
    """The Miniature's reporting recogniser, reader and image tower; only for its own cartoons."""

    name = _MINIATURE
    usual = (0.0, 0.95)  # twelve people: -0.01 and 0.96

    @cached_property
    def portraits(self) -> PortraitJudges:
        return PortraitJudges(load_judges())

    def check(self, pictures: Pictures, what: str) -> None:
        """Raises LikenessError where pictures are photographs: it would score them with confidence."""
        right_size = all(picture.shape[:2] == (RESOLUTION, RESOLUTION) for picture in pictures)
        if not right_size:  # what the Miniature draws may be as broken as it likes
            check_own_world(list(pictures), what, "choose another face model, such as auraface")

    def faces(self, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        small = _small(pictures)
        detected = self.portraits.detect(small)
        return self.portraits.judges.embed_reporting(small) * detected[:, None], detected

    def everybody(self, pictures: Pictures) -> np.ndarray:
        vectors, detected = self.faces(pictures)
        return vectors[detected]

    def text(self, pictures: Pictures, prompts: Sequence[str]) -> np.ndarray:
        """Share of the attributes named in the prompt that the reader sees; 1 where none is named."""
        read = self.portraits.judges.read(_small(pictures))
        shares = []
        for number, prompt in enumerate(prompts):
            hits = [read[name][number] == value for name, value in asked_in(prompt).items()]
            shares.append(np.mean(hits) if hits else 1.0)
        return np.asarray(shares, np.float64)

    def look(self, pictures: Pictures) -> np.ndarray:
        return unit(self.portraits.look(_small(pictures)))

    def strangers(self) -> list[np.ndarray]:
        """Pictures of people nobody learns, to compare with."""
        return [world.example_pictures(seed, 1)[0].pixels for seed in world.TUNING_SEEDS[-_STRANGERS:]]


class InsightFaces:
    """An insightface pack: the largest face of each picture, or everybody in them."""

    usual = (0.1, 0.65)  # recognisers trained with ArcFace's loss, on photographs

    def __init__(self, finder: Callable[[np.ndarray], list[Face]], name: str) -> None:
        self._finder = finder
        self.name = name

    def faces(self, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        by_picture = [self._finder(np.asarray(pixels)) for pixels in pictures]
        vectors = [faces[0].embedding if faces else None for faces in by_picture]
        width = next((len(vector) for vector in vectors if vector is not None), 1)
        filled = [np.zeros(width, np.float32) if vector is None else vector for vector in vectors]
        return np.stack(filled), np.array([vector is not None for vector in vectors])

    def everybody(self, pictures: Pictures) -> np.ndarray:
        faces = (face for pixels in pictures for face in self._finder(np.asarray(pixels)))
        embeddings = [face.embedding for face in faces if face.embedding is not None]
        return np.stack(embeddings) if embeddings else np.zeros((0, 1), np.float32)


class Clip:
    """CLIP from a transformers folder: CLIP-T (cosine of picture and prompt) and CLIP-I."""

    name = "CLIP"

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        self._model: Any = CLIP_MODEL.load(CLIPModel, folder)
        self._tokenizer: Any = CLIP_MODEL.load(CLIPTokenizer, folder)

    @torch.no_grad()
    def look(self, pictures: Pictures) -> np.ndarray:
        side = self._model.config.vision_config.image_size
        parts = [
            _features(self._model.get_image_features(pixel_values=part))
            for part in normalised(pictures, side, CLIP_MEAN, CLIP_SPREAD).split(_AT_ONCE)
        ]
        return unit(torch.cat(parts).numpy())

    @torch.no_grad()
    def text(self, pictures: Pictures, prompts: Sequence[str]) -> np.ndarray:
        tokens = self._tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        words = unit(_features(self._model.get_text_features(**tokens)).numpy())
        return (self.look(pictures) * words).sum(1)


class Dino:
    """DINOv2 from a transformers folder: likeness of whole pictures, finer than CLIP-I."""

    name = "DINOv2"

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        self._model: Any = DINOV2.load(AutoModel, folder)

    @torch.no_grad()
    def look(self, pictures: Pictures) -> np.ndarray:
        parts = [
            self._model(pixel_values=part).last_hidden_state[:, 0].float()
            for part in normalised(pictures, _DINO_SIDE, *IMAGENET).split(_AT_ONCE)
        ]
        return unit(torch.cat(parts).numpy())


def load_face_judge(name: str, packs: Path | None = None) -> FaceSimilarity:
    """`miniature`, or an insightface pack under `packs`/models."""
    return MiniatureBackend() if name == _MINIATURE else InsightFaces(load_faces(name, packs), name)


def load_clip(models: Path | None = None) -> Clip:
    """CLIP from the folder `clip` of the helper models."""
    return Clip(CLIP_MODEL.find(models or default_models()))


def load_dino(models: Path | None = None) -> Dino:
    """DINOv2 from the folder `dinov2` of the helper models."""
    return Dino(DINOV2.find(models or default_models()))


def there(helper: Helper, models: Path | None = None) -> bool:
    """Whether a helper model's files are all there."""
    try:
        helper.find(models or default_models())
    except LikenessError:
        return False
    return True


def normalised(pictures: Pictures, side: int, mean: Sequence[float], spread: Sequence[float]) -> torch.Tensor:
    """The middle squares of pictures as a network takes them: (N, 3, side, side)."""
    squares = [
        np.asarray(ImageOps.fit(Image.fromarray(pixels), (side, side), Image.Resampling.BICUBIC))
        for pixels in pictures
    ]
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(spread).view(3, 1, 1)


def _small(pictures: Pictures) -> np.ndarray:
    from ..miniature.model import RESOLUTION

    return as_many_as(pictures, RESOLUTION)


def _features(output: Any) -> torch.Tensor:
    """transformers 5 gives an output object where earlier versions gave the tensor."""
    return (output if isinstance(output, torch.Tensor) else output.pooler_output).float()


def judges_there(
    faces: FaceSimilarity, models: Path | None = None
) -> tuple[TextJudge | None, Sequence[LookJudge]]:
    """Who judges text and looks beside `faces`: the Miniature itself, or CLIP and DINOv2 where they lie."""
    if isinstance(faces, MiniatureBackend):
        return faces, [faces]
    clip = load_clip(models) if there(CLIP_MODEL, models) else None
    dino = load_dino(models) if there(DINOV2, models) else None
    return clip, [judge for judge in (clip, dino) if judge is not None]
