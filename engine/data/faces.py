"""Faces in photographs: boxes, five landmarks and embeddings by insightface, or a user's mask in its place.

Nothing is downloaded: insightface is only started on packs whose files are all there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import LikenessError
from ..telemetry import silence_onnxruntime
from .alignment import arcface_crop, ffhq_aligned, largest_face
from .masks import HALF, Mask
from .packs import check_own_weights, default_root, models_of

DETECTOR_SIZE = 640  # pixels a side the detector sees; faces smaller than a thirtieth of it are lost
SURE = 0.5  # detections below it are no faces
TASKS = {"detection": "face detector", "recognition": "face recogniser"}  # insightface's names and ours
DETECTOR_OUTPUTS = (6, 9, 10, 15)  # of SCRFD: scores, boxes, and landmarks, at three or five sizes
AROUND = 1.5  # how much wider than its box a crop without landmarks is


@dataclass(frozen=True)
class Face:
    """A face in a picture: box (4,) as x1, y1, x2, y2; landmarks (5, 2); embedding of unit length."""

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None
    score: float
    embedding: NDArray[np.float32] | None = None

    @property
    def side(self) -> float:
        """The shorter side of its box in pixels."""
        return float((self.box[2:] - self.box[:2]).min())


class FaceFinder:
    """insightface's detector and recogniser of one pack; `provider` says what they really run on."""

    def __init__(self, detector: Any, recogniser: Any, detector_size: int = DETECTOR_SIZE) -> None:
        self._detector, self._recogniser = detector, recogniser
        detector.prepare(0, det_thresh=SURE, input_size=(detector_size, detector_size))

    @property
    def provider(self) -> str:
        return self._detector.session.get_providers()[0].removesuffix("ExecutionProvider")

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """All faces of a picture (H, W, 3), the largest first."""
        with _naming(self._detector, "finds no faces here"):
            boxes, points = self._detector.detect(np.ascontiguousarray(pixels[..., ::-1]))
        landmarks = (
            [None] * len(boxes) if points is None else [np.asarray(five, np.float32) for five in points]
        )
        faces = [
            Face(np.asarray(box[:4], np.float32), five, float(box[4]))
            for box, five in zip(boxes, landmarks)
            if np.isfinite(box).all() and (five is None or np.isfinite(five).all())  # else it is nowhere
        ]
        embedded = [
            face if face.landmarks is None else replace(face, embedding=self.embed(pixels, face))
            for face in faces
        ]
        return sorted(embedded, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))

    def embed(self, pixels: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
        """The unit vector (D,) of a face in a picture (H, W, 3), found there or before it was changed."""
        if face.landmarks is None:
            raise LikenessError("a face without landmarks cannot be recognised; find it with a face model")
        crop = arcface_crop(pixels, face.landmarks.astype(np.float64))
        with _naming(self._recogniser, "recognises no faces here"):
            features = self._recogniser.get_feat(np.ascontiguousarray(crop[..., ::-1]))
        vector = np.asarray(features, np.float32).ravel()
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


@contextmanager
def _naming(model: Any, fails: str) -> Iterator[None]:
    """Whatever a model file raises while it runs becomes a sentence that names it."""
    try:
        yield
    except LikenessError:
        raise
    except Exception as error:  # onnxruntime's and insightface's have no common type
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise LikenessError(f"{model.model_file} {fails} ({reason}); get the file again") from error


def provider_line(pack: str, provider: str, device: str) -> str:
    """On what a pack finds faces; a CPU beside a GPU that was asked for is worth a word."""
    said = f"{pack} finds faces on {provider}"
    if device.startswith("cuda") and "CUDA" not in provider:
        return f"{said}, although there is a GPU: `likeness doctor` says how to mend that"
    return said


def load_faces(
    pack: str = "auraface",
    root: Path | None = None,
    device: str = "cpu",
    detector_size: int = DETECTOR_SIZE,
    otherwise: str = "",
) -> FaceFinder:
    """The finder of a pack under root/models; every reason why it cannot be is said, and names the file.

    otherwise: what else whoever asks can do, such as `OR_MASK`.
    """
    paths = models_of(pack, root or default_root(), otherwise)
    silence_onnxruntime()
    try:
        import onnxruntime
        from insightface.model_zoo import get_model
    except ImportError as error:
        raise LikenessError(
            f"faces are found with insightface, which does not load ({error}); "
            f'run `pip install ".[faces]"`{otherwise}'
        ) from error
    onnxruntime.set_default_logger_severity(3)  # errors; warnings on initialisers help nobody
    providers = [*(["CUDAExecutionProvider"] if device.startswith("cuda") else []), "CPUExecutionProvider"]
    does: dict[str, Any] = {}
    for path in paths:
        model = _model(get_model, path, providers)
        if model is not None:
            does.setdefault(model.taskname, model)
    for task, what in TASKS.items():
        if task not in does:
            raise LikenessError(
                f"none of {', '.join(path.name for path in paths)} in {paths[0].parent} is a {what}; get the "
                "pack's files again, each under its own name"
            )
    return FaceFinder(does["detection"], does["recognition"], detector_size)


def _model(get_model: Callable[..., Any], path: Path, providers: Sequence[str]) -> Any:
    """One file as insightface takes it by its shape; None where it does something that nobody asked for."""
    check_own_weights(path)
    try:
        model = get_model(str(path), providers=list(providers))
    except Exception as error:  # protobuf's, onnxruntime's and insightface's have no common type
        raise LikenessError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as a face model; it is damaged or was "
            "cut short: get it again"
        ) from error
    outputs = [] if model is None else model.session.get_outputs()
    if getattr(model, "taskname", "") == "detection" and len(outputs) not in DETECTOR_OUTPUTS:
        raise LikenessError(
            f"{path} gives {len(outputs)} outputs, where SCRFD's detectors give 6, 9 or 15; use a detector "
            "of insightface's packs, such as scrfd_10g_bnkps.onnx"
        )
    return model


# --- without any face model -------------------------------------------------------------------------


def face_of_mask(mask: Mask) -> Face:
    """What the user's mask (H, W) surrounds, as a face without landmarks."""
    rows, columns = np.flatnonzero((mask >= HALF).any(1)), np.flatnonzero((mask >= HALF).any(0))
    if not len(rows):
        raise LikenessError("the mask marks nothing; paint the face white")
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    return Face(box, None, 1.0)


def choose(faces: Sequence[Face], number: int | None, name: str) -> Face:
    """The largest of the faces, or the one of that number, counted from 0 by size, in picture `name`."""
    if not faces:
        raise LikenessError(
            f"no face in {name}; crop closer, turn it upright, mask the face yourself or drop it"
        )
    if number is None:
        return faces[largest_face(np.stack([face.box for face in faces]))]
    if not 0 <= number < len(faces):
        raise LikenessError(f"{name} has {len(faces)} faces; choose one from 0 to {len(faces) - 1}")
    return faces[number]


def upright(pixels: NDArray[np.uint8], face: Face, size: int) -> NDArray[np.uint8]:
    """The face (size, size, 3) as FFHQ aligns it; without landmarks the square around its box, unturned."""
    if face.landmarks is not None:
        return ffhq_aligned(pixels, face.landmarks.astype(np.float64), size).pixels
    middle, half = (face.box[:2] + face.box[2:]) / 2, AROUND * float((face.box[2:] - face.box[:2]).max()) / 2
    left, top = (int(value) for value in np.floor(middle - half))
    right, bottom = (int(value) for value in np.ceil(middle + half))
    height, width = pixels.shape[:2]
    margins = ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0))
    wide = np.pad(pixels, margins, mode="edge")
    part = wide[max(top, 0) : max(top, 0) + bottom - top, max(left, 0) : max(left, 0) + right - left]
    return np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.LANCZOS))


def box_mask(face: Face, size: tuple[int, int]) -> Mask:
    """1 inside the face's box, (H, W)."""
    mask = np.zeros(size, np.float32)
    left, top, right, bottom = (max(int(round(float(value))), 0) for value in face.box)
    mask[top:bottom, left:right] = 1
    return mask
