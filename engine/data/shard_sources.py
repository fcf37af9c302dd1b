"""Where the samples of shards come from: photographs, the reference's folders, the Miniature's world."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import LikenessError
from ..files import reading
from ..identity.references import LEAST
from ..miniature import world
from ..miniature.judges import load_judge, to_tensor
from ..miniature.model import RESOLUTION
from .alignment import ffhq_aligned
from .identity_examples import square
from .layout import left_out_of
from .pictures import grey_in, pictures_in, read_picture
from .segmenters.face_parts import MASTERWEAVER_KEEPS, PARSED_PARTS
from .shards import ShardFace, ShardSample, jpeg, landmarks_in

log = logging.getLogger(__name__)

FACE_SIDE = 512  # pixels of an aligned face (MasterWeaver)
# the world's parts in CelebAMask's numbering, which shards are in
AS_CELEBA = {
    "background": "background", "skin": "skin", "hair": "hair", "brow": "left brow", "eye": "left eye",
    "nose": "nose", "mouth": "mouth", "beard": "skin", "ear": "left ear", "neck": "neck",
    "clothes": "clothes", "glasses": "eyeglasses", "hat": "hat",
}  # fmt: skip
WORLD_LABELS = np.array([PARSED_PARTS.index(AS_CELEBA[part]) for part in world.PARTS], np.uint8)
EDITED_ATTRIBUTES = ("expression", "glasses", "hair_colour", "age", "hair_style", "beard")

Finder = Callable[[NDArray[np.uint8]], list]  # faces with landmarks, the largest first
Labeller = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # an aligned face's parts


# --------------------------------------------------------------------------------------- photographs


def photographs(
    folder: Path, finder: Finder, labels: Labeller, side: int = FACE_SIDE
) -> Iterator[ShardSample]:
    """Every picture of a folder with its faces aligned and parsed; `<stem>.txt` beside it is its caption."""

    def faces(pixels: NDArray[np.uint8]) -> Iterator[ShardFace]:
        for face in finder(pixels):
            if face.landmarks is not None:
                aligned = ffhq_aligned(pixels, face.landmarks.astype(np.float64), side).pixels
                corners = np.asarray(face.box, np.float32).reshape(2, 2)
                yield ShardFace(aligned, labels(aligned), np.concatenate([face.landmarks, corners]))

    return _pictured(folder, faces)


def portraits(folder: Path) -> Iterator[ShardSample]:
    """The same of pictures as the Miniature draws them: one upright face, which its own parser finds."""
    parser = load_judge("parser")

    @torch.no_grad()
    def faces(pixels: NDArray[np.uint8]) -> Iterator[ShardFace]:
        window = square(pixels.shape[:2], [])
        small = Image.fromarray(pixels[window]).resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR)
        parts = parser(to_tensor(np.array(small)[None]))[0].argmax(0).numpy()
        face = np.isin(parts, [world.PART_ID[part] for part in world.FACE_PARTS])
        if face.mean() >= LEAST:
            rows, columns = np.flatnonzero(face.any(1)), np.flatnonzero(face.any(0))
            corners = np.array([(columns[0], rows[0]), (columns[-1], rows[-1])], np.float32)
            scale = min(pixels.shape[:2]) / RESOLUTION
            start = np.array([window[1].start, window[0].start], np.float32)
            yield ShardFace(np.asarray(small), WORLD_LABELS[parts], corners * scale + start)

    return _pictured(folder, faces)


def _pictured(
    folder: Path, faces: Callable[[NDArray[np.uint8]], Iterator[ShardFace]]
) -> Iterator[ShardSample]:
    """A sample of each picture with a face; those without, and those that cannot be read, are counted."""
    none = lost = 0
    for remark in left_out_of(folder, captions=False):
        log.warning("%s", remark)
    for path in pictures_in(folder):
        try:
            pixels = read_picture(path)
        except LikenessError as error:
            lost += 1
            log.warning("%s; it is left out", error)
            continue
        seen = tuple(faces(pixels))
        if not seen:
            none += 1
            log.warning("no face in %s; it is left out", path)
            continue
        beside = path.with_suffix(".txt")
        caption = beside.read_text("utf-8", "replace").strip() if beside.is_file() else ""
        yield ShardSample(path.stem.replace(".", "_"), pixels, caption, seen)
    if none or lost:
        log.warning("%d pictures of %s show no face, %d cannot be read", none, folder, lost)


# ----------------------------------------------------------------------- the reference's own folders


def reference_folder(root: Path) -> Iterator[ShardSample]:
    """Samples of MasterWeaver's layout: images_cropped/<id>.jpg, captions, faces, masks, edited faces."""
    pictures = root / "images_cropped"
    if not pictures.is_dir():
        raise LikenessError(f"{root} has no images_cropped folder; give the folder that holds it")
    lost = 0
    for path in pictures_in(pictures):
        try:
            yield _reference_sample(root, path)
        except LikenessError as error:
            lost += 1
            log.warning("%s; its sample is left out", error)
    if lost:
        log.warning("%d samples of %s could not be read", lost, root)


def _reference_sample(root: Path, path: Path) -> ShardSample:
    beside = root / "captions" / f"{path.stem}.txt"
    caption = beside.read_text("utf-8", "replace").partition("\n")[0].strip() if beside.is_file() else ""
    inner = root / "images_cropped_face" / path.stem
    faces = pictures_in(inner) if inner.is_dir() else []
    edits = root / "images_cropped_face_aug" / path.stem
    return ShardSample(
        key=path.stem.replace(".", "_"),
        pixels=read_picture(path),
        caption=caption,
        faces=tuple(
            ShardFace(
                read_picture(face),
                _reference_labels(root / "images_cropped_face_mask" / path.stem / f"{face.stem}.png"),
                _reference_landmarks(face.with_suffix(".npy")),
                _reference_edits(edits / face.stem),
            )
            for face in faces
        ),
    )


def _reference_labels(path: Path) -> NDArray[np.uint8] | None:
    if not path.is_file():
        return None
    with reading(path, "is damaged"):
        return grey_in(path.read_bytes(), str(path))


def _reference_landmarks(path: Path) -> NDArray[np.float32] | None:
    if not path.is_file():
        return None
    with reading(path, "is damaged"):
        return landmarks_in(path.read_bytes()).astype(np.float32)


def _reference_edits(folder: Path) -> tuple[NDArray[np.uint8] | bytes, ...]:
    if not folder.is_dir():
        return ()
    return tuple(
        path.read_bytes() if path.suffix.lower() in (".jpg", ".jpeg") else jpeg(read_picture(path))
        for path in pictures_in(folder)
    )


# ----------------------------------------------------------------------------- the Miniature's world


def rendered(people: range, each: int = 2, twins: int = 3, size: int = 128) -> Iterator[ShardSample]:
    """`each` portraits of every person, with `twins` copies of the head that differ in an attribute."""
    for person in people:
        for number in range(each):
            yield portrait(person, number, twins, size)


def portrait(person: int, number: int, twins: int, size: int = 128) -> ShardSample:
    """One sample of the person; deterministic."""
    seed = person * 64 + number
    rng = np.random.default_rng([seed, 21])
    who, context = world.sample_identity(person), context_of(person, number)
    shown = world.render(who, context, size)
    edits = (
        [rng.choice(EDITED_ATTRIBUTES, replace=False, size=min(twins, len(EDITED_ATTRIBUTES)))]
        if twins
        else []
    )
    return ShardSample(
        key=f"{person:07d}-{number:02d}",
        pixels=shown.pixels,
        caption=words(who, context, rng),
        faces=(
            ShardFace(
                shown.pixels,
                WORLD_LABELS[shown.labels],
                outline(shown),
                tuple(jpeg(head(world.render(*edited(who, context, str(name), rng), size)))
                      for names in edits for name in names),
            ),
        ),
    )  # fmt: skip


def context_of(person: int, number: int) -> world.Context:
    """Where and how the `number`-th portrait of a person shows them."""
    return world.sample_context(1_000_000 + person * 64 + number)


def words(who: world.Character, context: world.Context, rng: np.random.Generator) -> str:
    """A caption as captions of photographs are: mostly about the scene, now and then about the person."""
    detail = float(rng.choice([0.0, 0.0, 0.3, 1.0]))

    def keep(probability: float) -> bool:
        return bool(rng.random() < probability)

    text = f"{rng.choice(world.STYLE_WORDS[context.style])} a "
    if context.expression != "neutral" and keep(0.9):
        text += f"{context.expression} "
    text += who.gender if keep(0.95) else "person"
    looks = world.identity_phrases(who, lambda probability: keep(detail * probability))
    if looks:
        text += " with " + " and ".join(looks)
    return text + world.context_phrase(context, keep)


def edited(
    who: world.Character, context: world.Context, name: str, rng: np.random.Generator
) -> tuple[world.Character, world.Context]:
    """The person with one attribute changed: the world's stand-in for a face editor."""
    if name == "age":  # grey hair is the only age that this world knows
        return replace(who, hair_colour="gray", hair_rgb=world.HAIR_COLOURS["gray"]), context
    present = getattr(who if name in world.IDENTITY_ATTRIBUTES else context, name)
    value = str(rng.choice([other for other in world.ATTRIBUTES[name] if other != present]))
    if name == "hair_colour":
        return replace(who, hair_colour=value, hair_rgb=world.HAIR_COLOURS[value]), context
    if name in world.IDENTITY_ATTRIBUTES:
        return replace(who, **{name: value}), context
    return who, replace(context, **{name: value})


def head(shown: world.Portrait) -> NDArray[np.uint8]:
    """The portrait with what a reference keeps, all else black."""
    keep = np.isin(
        WORLD_LABELS[shown.labels], [PARSED_PARTS.index(part) for part in MASTERWEAVER_KEEPS["type 0"]]
    )
    return shown.pixels * keep[..., None].astype(np.uint8)


def outline(shown: world.Portrait) -> NDArray[np.float32]:
    """Landmarks and the face's extent (9, 2): five points alone would give too small a box."""
    face = shown.mask()
    rows, columns = np.flatnonzero(face.any(1)), np.flatnonzero(face.any(0))
    corners = [(x, y) for x in (columns[0], columns[-1]) for y in (rows[0], rows[-1])]
    return np.concatenate([shown.landmarks, np.array(corners, np.float32)])
