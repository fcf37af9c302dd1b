"""Models of ComfyUI's own newer nodes as back ends: SAM 3 for any word, BiRefNet for what stands in front,
MediaPipe for faces and their parts.

Older hosts lack the nodes, and nothing is downloaded: either is said before anything is loaded.
"""

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.model_management
import comfy.sd
import folder_paths
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from ..config.choices import MEDIAPIPE
from ..data.faces import SURE, Face
from ..data.masks import SEVERAL, union
from ..data.segmenters.base import Found, Segmenter
from ..errors import LikenessError, nearest
from .pictures import image_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CoreModel:
    """A model that ComfyUI runs itself: the nodes it needs, and where its file lies and comes from."""

    title: str
    nodes: tuple[str, ...]
    folder: str  # in ComfyUI's models/
    like: str  # files whose name holds it are taken for the model's
    file: str
    source: str
    licence: str
    instead: str  # what does the same without it


CORE: dict[str, CoreModel] = {
    "sam3": CoreModel(
        title="SAM 3",
        nodes=("SAM3_Detect",),
        folder="checkpoints",
        like="sam3",
        file="sam3.1_multiplex_fp16.safetensors",
        source="https://huggingface.co/Comfy-Org/sam3.1",
        licence="Meta's SAM License: commercial use allowed, military use and some others not",
        instead="clipseg or grounded-sam2",
    ),
    "birefnet": CoreModel(
        title="BiRefNet",
        nodes=("LoadBackgroundRemovalModel", "RemoveBackground"),
        folder="background_removal",
        like="birefnet",
        file="birefnet.safetensors",
        source="https://huggingface.co/Comfy-Org/BiRefNet",
        licence="MIT",
        instead="clipseg or grounded-sam2",
    ),
    MEDIAPIPE: CoreModel(
        title="MediaPipe's face model",
        nodes=("LoadMediaPipeFaceLandmarker", "MediaPipeFaceLandmarker", "MediaPipeFaceMask"),
        folder="detection",
        like="mediapipe_face",
        file="mediapipe_face_fp32.safetensors",
        source="https://huggingface.co/Comfy-Org/mediapipe",
        licence="Apache-2.0",
        instead="another face model",
    ),
}


# what ComfyUI raises for files that are damaged, of another model, or gone since they were listed
FAILURES = (TypeError, KeyError, AttributeError, ValueError, RuntimeError, OSError, SafetensorError)


class FaceEyes(Protocol):
    """Finds faces, and says on what."""

    provider: str

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]: ...


def load_core(name: str) -> Segmenter:
    """The back end of that name in CORE, loaded once for many pictures."""
    file = _file(CORE[name])
    if name == "sam3":
        return _sam3(file)
    if name == "birefnet":
        return BiRefNet(_run("LoadBackgroundRemovalModel", bg_removal_name=file)[0])
    return MediaPipeParts(MediaPipe(_run("LoadMediaPipeFaceLandmarker", model_name=file)[0]))


def _sam3(file: str) -> "Sam3":
    """SAM 3 from a file of models/checkpoints."""
    again = f"get it again from {CORE['sam3'].source}, or choose {CORE['sam3'].instead}"
    try:
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            folder_paths.get_full_path_or_raise("checkpoints", file), output_vae=False, output_clip=True
        )
    except comfy.model_management.OOM_EXCEPTION:
        raise  # ComfyUI makes room and tries again, or says what to do
    except FAILURES as error:
        raise LikenessError(f"{file} cannot be read as SAM 3 ({_reason(error)}); {again}") from error
    if model is None or clip is None:
        raise LikenessError(f"{file} is no checkpoint of SAM 3; {again}")
    return Sam3(model, clip)


def load_core_faces() -> FaceEyes:
    """Faces by MediaPipe."""
    return MediaPipe(_run("LoadMediaPipeFaceLandmarker", model_name=_file(CORE[MEDIAPIPE]))[0])


def _registry() -> dict[str, Any]:
    """ComfyUI's nodes by their ids; its module of that name is there before any pack is."""
    return importlib.import_module("nodes").NODE_CLASS_MAPPINGS


def _file(model: CoreModel) -> str:
    """The model's file as its folder lists it; else a sentence about the host, or about the file."""
    registry = _registry()
    lacking = [name for name in model.nodes if name not in registry]
    if lacking:
        raise LikenessError(
            f"this ComfyUI has no node {lacking[0]}, which runs {model.title}; update ComfyUI, or choose "
            f"{model.instead}"
        )
    files = [name for name in folder_paths.get_filename_list(model.folder) if model.like in name.lower()]
    if not files:
        raise LikenessError(
            f"{model.file} missing in models/{model.folder}; get it from {model.source} ({model.licence}) "
            f"and put it there, or choose {model.instead}"
        )
    log.info("%s from %s", model.title, files[0])
    return files[0]


def _run(node: str, **inputs: Any) -> tuple[Any, ...]:
    """What a core node gives for these inputs."""
    try:
        return tuple(_registry()[node].execute(**inputs).args)
    except comfy.model_management.OOM_EXCEPTION:
        raise  # ComfyUI makes room and tries again, or says what to do
    except FAILURES as error:
        raise LikenessError(
            f"ComfyUI's node {node} failed ({_reason(error)}); get its file again, or choose another back end"
        ) from error


def _reason(error: BaseException) -> str:
    """What an error of ComfyUI says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Sam3:
    """Any word, with sharp edges: of each the surest object, of things that come in pairs both."""

    def __init__(self, model: Any, clip: Any) -> None:
        self.model, self.clip = model, clip

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        image, masks, scores = image_of([pixels]), [], []
        for word in words:
            each, sure = self._find(image, word, SURE)
            if not sure:  # what it would have been, for the sentence about it
                scores.append(max(self._find(image, word, 0.0)[1], default=0.0))
                each = np.zeros((1, *pixels.shape[:2]), np.float32)
            else:
                scores.append(max(sure))
            masks.append(union(each))
        return Found(np.stack(masks), tuple(scores))

    def _find(
        self, image: torch.Tensor, word: str, threshold: float
    ) -> tuple[NDArray[np.float32], list[float]]:
        """Masks (N, H, W), 0 or 1, and scores of the objects of a word that are surer than a threshold."""
        masks, boxes = _run(
            "SAM3_Detect", model=self.model, image=image, conditioning=self._said(word), threshold=threshold,
            refine_iterations=2 if threshold else 0, individual_masks=True,
        )  # fmt: skip
        return masks.cpu().float().numpy(), [float(box["score"]) for box in boxes[0]]

    def _said(self, word: str) -> Any:
        """The word's conditioning; `:2` asks ComfyUI for two of it, and its own commas would part it."""
        plain = word.strip().replace(":", " ")
        count = SEVERAL.get(plain, 1)
        text = plain if count == 1 else f"{plain}:{count}"
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


class BiRefNet:
    """What stands in front, softly, whatever it is."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        for word in words:
            if word not in ("subject", "background"):
                raise LikenessError(
                    f"BiRefNet knows no '{word}': it tells what stands in front from what is behind; write "
                    f"subject or background, or choose {CORE['birefnet'].instead} for other words"
                )
        (mask,) = _run("RemoveBackground", bg_removal_model=self.model, image=image_of([pixels]))
        front = mask[0].cpu().float().clamp(0, 1).numpy()
        masks = np.stack([front if word == "subject" else 1 - front for word in words])
        return Found(masks, tuple(float(mask.max()) for mask in masks))


# person's own left and right, as MediaPipe and our parser both have it
MEDIAPIPE_PARTS: dict[str, tuple[str, ...]] = {
    "face": ("face_oval",),
    "lips": ("lips",),
    "eyes": ("left_eye", "right_eye"),
    "left eye": ("left_eye",),
    "right eye": ("right_eye",),
}
# of its 478 landmarks: irises as the viewer sees them from left to right, tip of the nose, mouth corners
FIVE = (468, 473, 4, 61, 291)


class MediaPipe:
    """Boxes and five landmarks of all faces, the largest first; it recognises nobody."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.provider = str(getattr(model, "load_device", "cpu")).upper()

    def seen(self, pixels: NDArray[np.uint8]) -> Any:
        """ComfyUI's FACE_LANDMARKS of one picture; near and far faces both."""
        return _run(
            "MediaPipeFaceLandmarker", face_detection_model=self.model, image=image_of([pixels]),
            detector_variant="both", num_faces=0, min_confidence=SURE, missing_frame_fallback="empty",
        )[0]  # fmt: skip

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        faces = [
            Face(
                np.asarray(seen["bbox_xyxy"], np.float32),
                np.asarray(seen["landmarks_xy"], np.float32)[list(FIVE)],
                float(seen["score"]),
            )
            for seen in self.seen(pixels)["frames"][0]
        ]
        return sorted(faces, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))


class MediaPipeParts:
    """The face's outline, lips and eyes, with sharp edges, filled between landmarks."""

    def __init__(self, eyes: MediaPipe) -> None:
        self.eyes = eyes

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        by_word = [self._parts(word) for word in words]
        seen = self.eyes.seen(pixels)
        masks = []
        for parts in by_word:
            regions = {"regions": "custom", **{part: True for part in parts}}
            masks.append(_run("MediaPipeFaceMask", face_landmarks=seen, regions=regions)[0][0])
        sure = max((float(face["score"]) for face in seen["frames"][0]), default=0.0)
        return Found(torch.stack(masks).cpu().float().numpy(), (sure,) * len(words))

    def _parts(self, word: str) -> tuple[str, ...]:
        if word in MEDIAPIPE_PARTS:
            return MEDIAPIPE_PARTS[word]
        hint = nearest(word, MEDIAPIPE_PARTS) or f"; valid are {', '.join(MEDIAPIPE_PARTS)}"
        raise LikenessError(f"MediaPipe marks no '{word}'{hint}")
