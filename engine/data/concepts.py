"""Concepts: the pictures, masks and words of one thing to learn, and the folders they are kept in.

Our layout: `images/*.png`, `masks/<same stem>.png`, `concept.json` (class_word, role, token, notes). A folder
with just pictures in it is read too, and so are the layouts of the reference implementations: `mask/` beside
the pictures (PersonaMagic), plain instance and style folders (MagiCapture), `person_a+hair_a/0_person_a0.jpg`
(MagicTailor).
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..config import ROLES, TOKEN, ConceptSpec, check_text, from_json
from ..errors import LikenessError, nearest
from ..files import make_folder, reading, unused_name, write_error
from .pictures import pictures_in, read_mask, read_picture, to_mask_image

DESCRIPTION = "concept.json"
KEYS = ("class_word", "role", "token", "notes")
_PAIR = re.compile(r"(?P<asset>\d+)_(?P<word>[^_]+)_.*")  # MagicTailor: 0_person_a0.jpg


@dataclass(frozen=True)
class Picture:
    """One picture: pixels (H, W, 3) uint8; mask (H, W) float32 in [0, 1], None where nobody masked it."""

    name: str
    pixels: np.ndarray
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Concept:
    """Something to learn: the token that will stand for it, the class it belongs to, and pictures of it."""

    token: str
    class_word: str
    role: str
    pictures: tuple[Picture, ...]
    notes: str = ""


def load_concept(
    source: ConceptSpec | str | Path,
    *,
    token: str | None = None,
    class_word: str | None = None,
    role: str | None = None,
) -> Concept:
    """Reads a concept folder; what is said here goes before what `concept.json` says."""
    if isinstance(source, ConceptSpec):
        told = {"token": source.token, "class_word": source.class_word, "role": source.role}
        if source.asset is not None:
            return _asset(source.folder, source.asset, {key: text for key, text in told.items() if text})
        return load_concept(source.folder, **told)
    folder = _existing_folder(source)
    described = _read_description(folder)
    class_word = class_word or described.get("class_word")
    if not class_word:
        raise LikenessError(
            f"{folder} does not say what it shows; give a class word such as 'woman', "
            f'or write {{"class_word": "woman"}} into {folder / DESCRIPTION}'
        )
    check_text(class_word, "the class word")
    return Concept(
        token=_valid_token(token or described.get("token") or "<v0>", folder),
        class_word=class_word,
        role=_valid_role(role or described.get("role") or "subject", folder),
        pictures=_read_pictures(folder),
        notes=described.get("notes", ""),
    )


def load_pair(folder: str | Path) -> tuple[Concept, ...]:
    """Reads MagicTailor's folder of a subject and its components, one concept per asset: `<v0>`, `<v1>`, …"""
    folder = _existing_folder(folder)
    assets: dict[int, list[Path]] = {}
    words: dict[int, str] = {}
    for path in pictures_in(folder):
        match = _PAIR.fullmatch(path.stem)
        if match is None:
            raise LikenessError(
                f"{path} is not named like 0_person_a0.jpg; rename it or make a folder per concept"
            )
        assets.setdefault(int(match["asset"]), []).append(path)
        word = words.setdefault(int(match["asset"]), match["word"])
        if word != match["word"]:
            raise LikenessError(
                f"{path} calls concept number {match['asset']} {match['word']}, other pictures call it "
                f"{word}; give each concept a number of its own, or one word"
            )
    if not assets:
        raise _no_pictures(folder)
    return tuple(
        Concept(
            token=f"<v{asset}>",
            class_word=words[asset],
            role="subject" if asset == min(assets) else "component",
            pictures=tuple(_read_one(path, _mask_folder(folder)) for path in assets[asset]),
        )
        for asset in sorted(assets)
    )


def assets_in(folder: str | Path) -> list[int]:
    """The numbers of the concepts in MagicTailor's folder; none where the folder is something else."""
    folder = Path(folder)
    if not folder.is_dir() or (folder / "images").is_dir() or (folder / DESCRIPTION).exists():
        return []
    matches = [_PAIR.fullmatch(path.stem) for path in pictures_in(folder)]
    numbers = {int(match["asset"]) for match in matches if match is not None}
    return sorted(numbers) if all(matches) and len(numbers) > 1 else []


def one_of_folder(source: ConceptSpec) -> Concept:
    """The concept a folder holds; raises where it holds several and none of them was chosen."""
    there = assets_in(source.folder)
    if there and source.asset is None:
        raise LikenessError(
            f"{source.folder} holds the concepts number {' and '.join(map(str, there))}; "
            "say which one to read"
        )
    return load_concept(source)


def _asset(folder: str, asset: int, told: Mapping[str, str]) -> Concept:
    """One concept of MagicTailor's folder; what is told goes before what the file names say."""
    there = assets_in(folder)
    if asset not in there:
        hint = (
            f"there are {', '.join(map(str, there))}" if there else "files must be named like 0_person_a0.jpg"
        )
        raise LikenessError(f"{folder} has no pictures of concept number {asset}; {hint}")
    return replace(load_pair(folder)[there.index(asset)], **told)


def write_concept(folder: str | Path, concept: Concept) -> Path:
    """Writes a concept folder, whole or not at all; replaces an earlier concept of that name."""
    target = Path(folder)
    foreign = (
        target.is_file() or target.is_dir() and any(target.iterdir()) and not (target / DESCRIPTION).exists()
    )
    if foreign:
        raise LikenessError(f"{target} exists and is no concept; choose another name so that nothing is lost")
    parent = make_folder(target.absolute().parent)
    fresh = unused_name(parent / target.name)
    try:
        fresh.mkdir()
        _fill(fresh, concept)
        _replace_folder(fresh, target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def digest(concepts: Iterable[Concept]) -> str:
    """SHA-256 over everything that training sees; equal digests mean equal training sets."""
    total = hashlib.sha256()
    for concept in concepts:
        total.update(json.dumps([concept.token, concept.class_word, concept.role]).encode())
        for picture in concept.pictures:
            for array in (picture.pixels, picture.mask):
                if array is not None:
                    total.update(f"{array.dtype}{array.shape}".encode())
                    total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _existing_folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if folder.is_file():
        raise LikenessError(f"{folder} is a file; give the folder that holds the pictures")
    if not folder.is_dir():
        raise LikenessError(f"{folder} does not exist; give a folder that holds the pictures")
    return folder


def _read_description(folder: Path) -> dict[str, str]:
    path = folder / DESCRIPTION
    if not path.exists():
        return {}
    with reading(path, "is not readable JSON; mend or delete it"):
        described = from_json(path.read_text("utf-8"), path)
    if not isinstance(described, dict):
        raise LikenessError(f'{path} must look like {{"class_word": "woman"}}; mend or delete it')
    for key, value in described.items():
        if key not in KEYS:
            known = ", ".join(KEYS)
            raise LikenessError(f"{path} has an unknown key '{key}'{nearest(key, KEYS)}; known are {known}")
        if not isinstance(value, str):
            raise LikenessError(f"{path}: {key} must be text in quotation marks")
    return described


def _valid_role(role: str, folder: Path) -> str:
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise LikenessError(f"{folder}: unknown role '{role}'{nearest(role, ROLES)}; use one of {known}")
    return role


def _valid_token(token: str, folder: Path) -> str:
    if not TOKEN.fullmatch(token):
        raise LikenessError(f"{folder}: '{token}' cannot be a token; write it like <v0>, in angle brackets")
    return token


def _read_pictures(folder: Path) -> tuple[Picture, ...]:
    inner = folder / "images"
    where = inner if inner.is_dir() else folder
    paths = pictures_in(where)
    if not paths:
        raise _no_pictures(where)
    _refuse_twins(paths)
    return tuple(_read_one(path, _mask_folder(folder)) for path in paths)


def _read_one(path: Path, masks: Path | None) -> Picture:
    pixels = read_picture(path)
    mask_path = _mask_of(path, masks)
    return Picture(path.stem, pixels, None if mask_path is None else read_mask(mask_path, pixels.shape[:2]))


def _mask_folder(folder: Path) -> Path | None:
    return next((folder / name for name in ("masks", "mask") if (folder / name).is_dir()), None)


def _mask_of(picture: Path, masks: Path | None) -> Path | None:
    if masks is None:
        return None
    same_stem = [path for path in pictures_in(masks) if path.stem == picture.stem]
    return same_stem[0] if same_stem else None


def _refuse_twins(paths: Sequence[Path]) -> None:
    """Two pictures of one stem would share a mask and a file name."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise LikenessError(f"{other} and {path.name} have the same name; rename or remove one of them")


def _no_pictures(folder: Path) -> LikenessError:
    others = sum(1 for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = f" ({others} other file{'s' * (others != 1)} in it)" if others else ""
    return LikenessError(f"no pictures in {folder}{found}; put some .png, .jpg or .webp files there")


def _fill(folder: Path, concept: Concept) -> None:
    (folder / "images").mkdir()
    for index, picture in enumerate(concept.pictures):
        name = re.sub(r"[^\w.-]", "_", picture.name)
        if not name or (folder / "images" / f"{name}.png").exists():
            name = f"{name}_{index:02d}"
        Image.fromarray(picture.pixels).save(folder / "images" / f"{name}.png")
        if picture.mask is not None:
            (folder / "masks").mkdir(exist_ok=True)
            to_mask_image(picture.mask).save(folder / "masks" / f"{name}.png")
    described = {"class_word": concept.class_word, "role": concept.role, "token": concept.token}
    if concept.notes:
        described["notes"] = concept.notes
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _replace_folder(fresh: Path, target: Path) -> None:
    """Renames `fresh` to `target`; an earlier `target` is set aside first and removed last."""
    if not target.exists():
        fresh.rename(target)
        return
    aside = unused_name(fresh)
    target.rename(aside)
    fresh.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
