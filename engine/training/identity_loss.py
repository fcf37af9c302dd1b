"""Who is in a picture, as a loss: an estimate is cut out by a constant matrix and looked at by a judge.

Judges: a face recogniser for photographs, the Miniature's own, or features of pictures for what is no person.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..artifact.inert_folder import pretrained
from ..bases.base import BaseModel
from ..data.alignment import ARCFACE_SIDE, Points, central_face, similarity, warped
from ..data.faces import load_faces
from ..data.helpers import DINOV2, default_models
from ..data.masks import HALF, Mask
from ..data.packs import PACKS, default_root, find_pack
from ..devices import to_device
from ..errors import LikenessError
from .arcface import load_recogniser
from .capture_losses import identity_distance
from .head_crops import HeadBoxes, head_boxes, moved

log = logging.getLogger(__name__)

MINIATURE_FACE = 0.02  # share of a picture's pixels that the Miniature's parser must call face
# where the face's mask reaches in ArcFace's crop: from above the brows to the chin
MASK_IN_CROP: Points = np.array([[14.0, 10.0], [98.0, 110.0]])
_DINO_SIDE = 224  # pixels a side that DINOv2 is shown; it takes any multiple of its patches
WIDER = 1.2  # how much wider than its mask the crop of a thing is
_WITHOUT_LOSS = "; or set identity to none to learn without the identity loss"


class _Cutting(nn.Module):
    """What embeds pictures that a similarity transform brings into a square.

    `find` gives the matrix (2, 3) that cuts, or None where nobody is; it looks at the picture where `looks`
    says so, else it needs the mask, which an estimate has not.
    """

    side: int

    def cut(self, pixels: Tensor, matrix: Points) -> Tensor:
        """(1, 3, side, side) of pixels (1, 3, H, W)."""
        return warped(pixels, matrix, self.side)


class FaceJudge(_Cutting):
    """A recogniser of photographs; faces are found by a detector, or taken from masks."""

    side = ARCFACE_SIDE

    def __init__(self, recogniser: nn.Module, finder: Any = None) -> None:
        super().__init__()
        self.recogniser = recogniser
        self.looks = finder is not None
        self._finder = finder

    def find(self, pixels: NDArray[np.uint8], mask: Mask | None, name: str) -> Points | None:
        if self._finder is None:
            return None if mask is None else _of_box(mask, MASK_IN_CROP)
        faces = [face for face in self._finder(pixels) if face.landmarks is not None]
        if not faces:
            return None
        if len(faces) > 1:
            log.warning("%s shows %d faces; the large one in the middle is taken", name, len(faces))
        central = central_face(np.stack([face.box for face in faces]), pixels.shape[:2])
        return similarity(faces[central].landmarks.astype(np.float64))

    def forward(self, crops: Tensor) -> Tensor:
        return self.recogniser(crops)


class MiniatureJudge(nn.Module):
    """The Miniature's recogniser, the one that trains: it knows where heads are in its world's portraits."""

    side, looks = 0, True

    def __init__(self) -> None:
        super().__init__()
        from ..miniature.judges import load_judge

        self.recogniser, self.parser = load_judge("recogniser"), load_judge("parser")

    @torch.no_grad()
    def find(self, pixels: NDArray[np.uint8], mask: Mask | None, name: str) -> Points | None:
        from ..miniature import world
        from ..miniature.judges import to_tensor

        device = next(self.parser.parameters()).device
        parts = self.parser(to_tensor(pixels[None]).to(device)).argmax(1)
        face = torch.tensor([world.PART_ID[part] for part in world.FACE_PARTS], device=device)
        share = torch.isin(parts, face).float().mean()
        return np.eye(2, 3) if share >= MINIATURE_FACE else None

    def cut(self, pixels: Tensor, matrix: Points) -> Tensor:
        return pixels

    def forward(self, crops: Tensor) -> Tensor:
        return self.recogniser(crops)


class FeatureJudge(_Cutting):
    """Self-supervised or CLIP features of what a mask marks: for pets, toys and whatever else has no face."""

    looks = False

    def __init__(self, tower: nn.Module, side: int, mean: Sequence[float], spread: Sequence[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.tower, self.side = tower, side
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("spread", torch.tensor(spread).view(1, 3, 1, 1))

    def find(self, pixels: NDArray[np.uint8], mask: Mask | None, name: str) -> Points | None:
        if mask is None:
            mask = np.ones(pixels.shape[:2], np.float32)
        rim = self.side * (1 - 1 / WIDER) / 2
        return _of_box(mask, np.array([[rim, rim], [self.side - 1 - rim, self.side - 1 - rim]]))

    def forward(self, crops: Tensor) -> Tensor:
        pixels = ((crops + 1) / 2 - self.mean) / self.spread
        output = self.tower(pixel_values=pixels)
        return output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output


def _of_box(mask: Mask, goal: Points) -> Points | None:
    """The scale and shift that bring the mask's box into the box `goal` (two corners), as large as fits."""
    rows, columns = np.flatnonzero((mask >= HALF).any(1)), np.flatnonzero((mask >= HALF).any(0))
    if not len(rows):
        return None
    low = np.array([columns[0], rows[0]], np.float64)
    high = np.array([columns[-1], rows[-1]], np.float64)
    scale = ((goal[1] - goal[0]) / np.maximum(high - low, 1)).min()
    shift = goal.mean(0) - scale * (low + high) / 2
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def mirrored_faces(matrix: Points, width: int, side: int) -> Points:
    """The matrix for the mirrored picture of this width: it gives the mirrored crop."""
    (a, b, x), (c, d, y) = matrix
    return np.array([[a, -b, side - 1 - x - a * (width - 1)], [-c, d, y + c * (width - 1)]])


# -------------------------------------------------------------------------------------------- finding a judge


def find_judge(
    identity: str, landmarks: str, detector: str, base: BaseModel, root: Path | None = None
) -> "nn.Module | None":
    """The judge that the settings ask for, or None for `none`; a missing file is named."""
    small = base.traits.own_world
    if identity == "none":
        return None
    if identity == "features":
        return miniature_feature_judge() if small else dino(DINOV2.find(default_models()))
    if identity == "auto" and small:
        return MiniatureJudge()
    path = Path(os.path.expanduser(identity))
    if path.is_dir() and identity not in PACKS:
        return dino(path)
    root = root or default_root()
    finder = None if landmarks == "mask" else _detector(detector, root)
    return FaceJudge(load_recogniser(_recogniser(identity, path, root)), finder)


def _detector(pack: str, root: Path) -> Any:
    try:
        return load_faces(pack, root)
    except LikenessError as error:
        raise LikenessError(f"{error}{_WITHOUT_LOSS}, or landmarks to mask") from error


def _recogniser(identity: str, path: Path, root: Path) -> Path:
    name = "auraface" if identity == "auto" else identity
    if name not in PACKS:
        return path
    try:
        return find_pack(name, root) / PACKS[name].recogniser
    except LikenessError as error:
        raise LikenessError(f"{error}{_WITHOUT_LOSS}") from error


def miniature_feature_judge() -> FeatureJudge:
    """The Miniature's image tower in the place of DINOv2; it takes pixels as they are."""
    from ..miniature.model import RESOLUTION
    from ..miniature.networks import image_tower

    halves = (0.5, 0.5, 0.5)
    return FeatureJudge(image_tower(), RESOLUTION, halves, halves)


def dino(folder: Path) -> FeatureJudge:
    """DINOv2 or another image tower of transformers, from a folder on this machine."""
    from transformers import AutoModel

    if not (folder / "config.json").is_file():
        raise LikenessError(
            f"{folder} holds no image model; get {DINOV2.source} ({DINOV2.licence}) and put its files there"
        )
    tower = pretrained(AutoModel, folder)
    tower = getattr(tower, "vision_model", tower)
    side = tower.config.image_size if tower.config.model_type == "clip_vision_model" else _DINO_SIDE
    return FeatureJudge(tower, side, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# ------------------------------------------------------------------------------------------------- the loss


class IdentityLoss(nn.Module):
    """How far estimates are from the subject, in the judge's eyes; who had no face to compare is counted."""

    def __init__(self, judge: Any, average: bool, each_step: bool) -> None:
        super().__init__()
        self.judge = judge
        self.average = average
        self.each_step = each_step and judge.looks
        self.places: list[Points | None] = []  # of all pictures, then of all of them mirrored
        self.register_buffer("wanted", torch.zeros(0))  # (pictures, D) of unit length, 0 where nobody is
        self._known: set[int] = set()  # the pictures with somebody in `wanted`
        self.asked = self.skipped = 0

    def look(self, pixels: Tensor, masks: Tensor, names: Sequence[str], subjects: Sequence[int]) -> None:
        """Finds everybody in pixels (N, 3, S, S); remembers what the pictures number `subjects` embed to."""
        width, device = pixels.shape[-1], pixels.device
        images = to_images(pixels)
        places = [
            self.judge.find(image, mask, name)
            for image, mask, name in zip(images, masks[:, 0].cpu().numpy(), names)
        ]
        self.places = places + [
            None if place is None else mirrored_faces(place, width, self.judge.side) for place in places
        ]
        for number, place in enumerate(places):
            if place is None:
                log.warning("no face in %s; the identity loss goes without it", names[number])
        seen = [number for number in subjects if places[number] is not None]
        if not seen:
            raise LikenessError(
                f"no face in {', '.join(names[number] for number in subjects)}; crop closer, turn them "
                "upright or drop them; identity: features learns what is no person" + _WITHOUT_LOSS
            )
        with torch.no_grad():
            embedded = F.normalize(self._embed(pixels[seen], seen, self.places), dim=-1)
        targets = torch.zeros(len(pixels), embedded.shape[1], device=device)
        targets[seen] = embedded
        if self.average:
            targets[list(subjects)] = F.normalize(embedded.mean(0), dim=-1)
        self.wanted = targets
        self._known = set(subjects if self.average else seen)

    def _embed(self, pixels: Tensor, numbers: Sequence[int], places: Sequence[Points | None]) -> Tensor:
        crops = [self.judge.cut(pixels[row : row + 1], places[number]) for row, number in enumerate(numbers)]
        return self.judge(torch.cat(crops))

    @property
    def cuts(self) -> bool:
        """Whether it looks at faces that are cut out of where they were found beforehand."""
        return isinstance(self.judge, _Cutting) and not self.each_step

    def heads(self, pictures: Tensor, size: tuple[int, int], cell: int) -> HeadBoxes:
        """Where in latents of this size the heads of pictures (B,) are, as numbers in `places`."""
        return head_boxes([self.places[n] for n in pictures.tolist()], self.judge.side, size, cell)

    def forward(
        self, estimates: Tensor, subjects: Tensor, pictures: Tensor, corners: Points | None = None
    ) -> Tensor:
        """Distances (B,) in 0 to 2 of estimates (B, 3, S, S) in [-1, 1] from subject pictures (B,).

        pictures (B,): whose layout each estimate has, as a number in `places`. 0 where there is nobody. Both
        lie on the CPU, so that who is compared is known without waiting for the estimates. `corners` (B, 2):
        where in those pictures (x, y) the estimates begin, where they are parts of them.
        """
        places = self._seen_now(estimates) if self.each_step else [self.places[n] for n in pictures.tolist()]
        if corners is not None:
            places = [
                None if place is None else moved(place, corner) for place, corner in zip(places, corners)
            ]
        has_target = [number in self._known for number in subjects.tolist()]
        rows = [row for row, place in enumerate(places) if place is not None and has_target[row]]
        self.asked += len(places)
        self.skipped += len(places) - len(rows)
        distances = estimates.new_zeros(len(places))
        if not rows:
            return distances
        index = to_device(torch.tensor(rows), estimates.device)
        embeddings = self._embed(estimates[index], rows, places)
        targets = self.wanted[to_device(subjects[rows], estimates.device)]
        return distances.index_add(0, index, identity_distance(embeddings, targets))

    def _seen_now(self, estimates: Tensor) -> list[Points | None]:
        return [self.judge.find(image, None, "an estimate") for image in to_images(estimates.detach())]


def to_images(pixels: Tensor) -> NDArray[np.uint8]:
    """(N, S, S, 3) uint8 of pixels (N, 3, S, S) in [-1, 1]."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()
