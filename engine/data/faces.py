"""Faces in photographs: boxes, five landmarks and embeddings by insightface, or a user's mask in its place.

Nothing is downloaded: insightface is only started on packs whose files are all there.
"""

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import LikenessError, nearest
from .alignment import arcface_crop, ffhq_aligned, largest_face
from .helpers import default_models
from .masks import HALF, Mask

DETECTOR_SIZE = 640  # pixels a side the detector sees; faces smaller than a thirtieth of it are lost
SURE = 0.5  # detections below it are no faces
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


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A set of insightface models, the files we need of it, and on what terms it comes."""

    detector: str
    recogniser: str
    source: str
    licence: str


_RELEASES = "https://github.com/deepinsight/insightface/releases/tag/v0.7"
PACKS = {
    "auraface": Pack(
        detector="scrfd_10g_bnkps.onnx",
        recogniser="glintr100.onnx",
        source="https://huggingface.co/fal/AuraFace-v1",
        licence="Apache-2.0",
    ),
    "antelopev2": Pack(
        detector="scrfd_10g_bnkps.onnx",
        recogniser="glintr100.onnx",
        source=_RELEASES,
        licence="non-commercial research only",
    ),
    "buffalo_l": Pack(
        detector="det_10g.onnx",
        recogniser="w600k_r50.onnx",
        source=_RELEASES,
        licence="non-commercial research only",
    ),
}


def default_root() -> Path:
    """Where packs lie when nobody says: ComfyUI's models/insightface, else that folder here."""
    return default_models().with_name("insightface")


def find_pack(name: str, root: Path) -> Path:
    """root/models/<name> with its files in it; an archive or a folder in a folder is put right first."""
    if name not in PACKS:
        hint = nearest(name, PACKS) or f"; use one of {', '.join(PACKS)}"
        raise LikenessError(f"unknown face pack '{name}'{hint}")
    pack, folder = PACKS[name], root / "models" / name
    _flatten(folder)
    missing = [file for file in (pack.detector, pack.recogniser) if not (folder / file).is_file()]
    if missing:
        raise LikenessError(
            f"{' and '.join(missing)} missing in {folder}; get the files from {pack.source} "
            f"({pack.licence}) and put them there, or mask the face yourself"
        )
    return folder


def _flatten(folder: Path) -> None:
    """Brings models up that lie deeper, as in antelopev2's archive, or still in <name>.zip beside it."""
    archive = folder.with_name(f"{folder.name}.zip")
    if archive.is_file() and not folder.is_dir():
        _unpack(archive, folder)
    if not folder.is_dir() or any(folder.glob("*.onnx")):
        return
    for path in sorted(folder.rglob("*.onnx")):
        path.rename(folder / path.name)


def _unpack(archive: Path, folder: Path) -> None:
    """Only models leave the archive, and only into the folder."""
    fresh = folder.with_name(f".{folder.name}-unpacking")
    fresh.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if entry.filename.endswith(".onnx"):
                    with (
                        packed.open(entry) as source,
                        open(fresh / Path(entry.filename).name, "wb") as target,
                    ):
                        shutil.copyfileobj(source, target)
        fresh.rename(folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise LikenessError(
            f"{archive} cannot be unpacked ({error}); get it again or unpack it yourself"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class FaceFinder:
    """insightface on one pack; `provider` says what it really runs on."""

    def __init__(self, analysis: Any, detector_size: int = DETECTOR_SIZE) -> None:
        self._analysis = analysis
        self._analysis.prepare(ctx_id=0, det_thresh=SURE, det_size=(detector_size, detector_size))

    @property
    def provider(self) -> str:
        return self._analysis.det_model.session.get_providers()[0].removesuffix("ExecutionProvider")

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """All faces of a picture (H, W, 3), the largest first."""
        blue_first = np.ascontiguousarray(pixels[..., ::-1])
        found = [_face(face) for face in self._analysis.get(blue_first)]
        return sorted(found, key=lambda face: -float((face.box[2:] - face.box[:2]).prod()))

    def embed(self, pixels: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
        """The unit vector (D,) of a face in a picture (H, W, 3), found there or before it was changed."""
        if face.landmarks is None:
            raise LikenessError("a face without landmarks cannot be recognised; find it with a face model")
        crop = arcface_crop(pixels, face.landmarks.astype(np.float64))
        found = self._analysis.models["recognition"].get_feat(np.ascontiguousarray(crop[..., ::-1]))
        vector = np.asarray(found, np.float32).ravel()
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def provider_line(pack: str, provider: str, device: str) -> str:
    """On what a pack finds faces; a CPU beside a GPU that was asked for is worth a word."""
    said = f"{pack} finds faces on {provider}"
    if device.startswith("cuda") and "CUDA" not in provider:
        return f"{said}, although there is a GPU: `likeness doctor` says how to mend that"
    return said


def _face(found: Any) -> Face:
    embedding = found.normed_embedding
    return Face(
        np.asarray(found.bbox, np.float32),
        None if found.kps is None else np.asarray(found.kps, np.float32),
        float(found.det_score),
        None if embedding is None else np.asarray(embedding, np.float32),
    )


def load_faces(
    pack: str = "auraface",
    root: Path | None = None,
    device: str = "cpu",
    detector_size: int = DETECTOR_SIZE,
) -> FaceFinder:
    """The finder of a pack under root/models; every reason why it cannot be is said before it is tried."""
    root = root or default_root()
    find_pack(pack, root)
    try:
        from insightface.app import FaceAnalysis
    except ImportError as error:
        raise LikenessError(
            f"faces are found with insightface, which does not load ({error}); "
            'run `pip install ".[faces]"`, or mask the face yourself'
        ) from error
    providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    analysis = FaceAnalysis(
        name=pack,
        root=str(root),
        allowed_modules=["detection", "recognition"],
        providers=[*providers, "CPUExecutionProvider"],
    )
    return FaceFinder(analysis, detector_size)


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
