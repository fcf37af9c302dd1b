"""Concepts: the pictures, masks and words of one thing to learn, and the folders they are kept in.

Our layout: `images/*.png`, `masks/<same stem>.png`, captions as `images/<same stem>.txt`, `concept.json`
(class_word, role, token, notes). A folder with just pictures in it is read too, and so are the layouts of the
reference implementations: `mask/` beside the pictures (PersonaMagic), plain instance and style folders
(MagiCapture), `person_a+hair_a/0_person_a0.jpg` (MagicTailor), and those of other trainers (`layout`).

A folder holds one concept. It holds several only where somebody asks for it: by MagicTailor's folder name, by
`"concepts": "by number"` in concept.json, or with `several`; never by the names of files alone.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from ..config import CAPTION_SOURCES, ROLES, TOKEN, ConceptSpec, Job, check_text, from_json, spoken
from ..errors import LikenessError, nearest
from ..files import check_name, make_folder, portable, read_text, reading, unused_name, write_error
from .captions import Captions, captions_in
from .layout import DESCRIPTION, Layout, look_into
from .pictures import read_mask, read_photograph, to_mask_image

_KEYS = ("class_word", "role", "token", "notes", "concepts")
BY_NUMBER = "by number"  # what "concepts" may be in concept.json
USABLE_SIDE = 1536  # pixels on a picture's shorter side: no base is learned at more
_SPARE = 2  # times the side that is trained at: scaling down from there loses nothing that can be seen
_LARGE = 512  # pixels on the shorter side above which a picture is made smaller as soon as it is read
_PAIR = re.compile(r"(?P<asset>\d+)_(?P<word>[^_]+)_.*")  # MagicTailor: 0_person_a0.jpg


@dataclass(frozen=True)
class Picture:
    """One picture: pixels (H, W, 3) uint8; mask (H, W) float32 in [0, 1], None where nobody masked it."""

    name: str
    pixels: np.ndarray
    mask: np.ndarray | None = None
    original: tuple[int, int] | None = None  # the file's (height, width), where it was read smaller
    captions: tuple[str, ...] = ()  # choices of what is said of it; none: templates say it
    repeats: int = 1  # how often it comes, against the other pictures
    content: str = ""  # a large picture's fingerprint, from before it was made smaller

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the file."""
        return self.original or (self.pixels.shape[0], self.pixels.shape[1])

    def lot(self, seed: int) -> bytes:
        """What it draws where pictures are chosen by chance: by its pixels, for names change."""
        if self.large:
            return hashlib.sha256(f"{seed}/{self.fingerprint.split()[0]}".encode()).digest()
        pixels = np.ascontiguousarray(self.pixels)
        return hashlib.sha256(f"{seed}/{pixels.shape}/".encode() + pixels.tobytes()).digest()

    def within(self, shorter: int) -> "Picture":
        """The picture at this many pixels on its shorter side at most, its mask alike."""
        height, width = self.pixels.shape[:2]
        if min(height, width) <= shorter:
            return self
        scale = shorter / min(height, width)
        size = (round(width * scale), round(height * scale))
        pixels = np.asarray(Image.fromarray(self.pixels).resize(size, Image.Resampling.LANCZOS))
        mask = None if self.mask is None else _scaled(self.mask, (size[1], size[0]))
        content = self.fingerprint if self.large else ""
        return replace(self, pixels=pixels, mask=mask, original=self.size, content=content)

    @property
    def large(self) -> bool:
        """Whether it was read with so many pixels that it need not be held with all of them."""
        return bool(self.content) or min(self.pixels.shape[:2]) > _LARGE

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its pixels, then of its mask where it has one; of a large picture as it was read."""
        return self.content or " ".join(map(_sha256, _arrays(self)))


def _arrays(picture: Picture) -> list[np.ndarray]:
    return [array for array in (picture.pixels, picture.mask) if array is not None]


def _sha256(array: np.ndarray) -> str:
    total = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


@dataclass(frozen=True)
class Concept:
    """Something to learn: the token that will stand for it, the class it belongs to, and pictures of it."""

    token: str
    class_word: str
    role: str
    pictures: tuple[Picture, ...]
    notes: str = ""
    remarks: tuple[str, ...] = ()  # what was guessed or left out while reading it, a sentence each
    held: tuple[Picture, ...] = ()  # pictures of it that are not learned from
    class_pictures: tuple[Picture, ...] = ()  # of others of its class, to be learned beside

    def within(self, shorter: int) -> "Concept":
        """The concept with pictures of this many pixels on their shorter side at most."""
        parts = (self.pictures, self.held, self.class_pictures)
        pictures, held, others = (tuple(one.within(shorter) for one in part) for part in parts)
        return replace(self, pictures=pictures, held=held, class_pictures=others)

    def held_out(self, count: int, seed: int) -> "Concept":
        """The concept with `count` of its pictures not learned from: the same for the same seed and pixels,
        whatever they are called and in whatever order."""
        if not count or self.held:
            return self
        if count >= len(self.pictures):
            raise LikenessError(
                f"{count} of the {len(self.pictures)} pictures of {self.token} cannot be held out: one must "
                "be left to learn from; hold out fewer"
            )
        order = sorted(self.pictures, key=lambda one: one.lot(seed))
        held = {id(picture) for picture in order[:count]}
        return replace(
            self,
            pictures=tuple(picture for picture in self.pictures if id(picture) not in held),
            held=tuple(picture for picture in self.pictures if id(picture) in held),
        )


def usable_side(job: Job, resolution: int | None = None) -> int:
    """Pixels on pictures' shorter side that a job can use; `resolution`: its base's, once that is known."""
    side = job.resolution or resolution
    return USABLE_SIDE if side is None else _SPARE * side


def load_concept(
    source: ConceptSpec | str | Path,
    *,
    token: str | None = None,
    class_word: str | None = None,
    role: str | None = None,
    captions: str = CAPTION_SOURCES[0],
    shorter: int = USABLE_SIDE,
) -> Concept:
    """Reads a concept folder; what is said here goes before what `concept.json` says.

    captions: where they come from, of CAPTION_SOURCES. shorter: pixels on large pictures' shorter side that
    are enough; each is made smaller before the next is read.
    """
    if isinstance(source, ConceptSpec):
        given = {"token": source.token, "class_word": source.class_word, "role": source.role}
        if source.asset is not None:
            stated = {key: text for key, text in given.items() if text}
            concept = _asset(source.folder, source.asset, source.captions, stated, shorter)
        else:
            concept = load_concept(source.folder, **given, captions=source.captions, shorter=shorter)
        return concept if source.regularisation is None else _beside(concept, source.regularisation, shorter)
    folder = _existing_folder(source)
    described = _read_description(folder)
    class_word = class_word or described.get("class_word")
    if not class_word:
        raise LikenessError(
            f"{folder} does not say what it shows; give a class word such as 'woman', "
            f'or write {{"class_word": "woman"}} into {folder / DESCRIPTION}'
        )
    check_text(spoken(class_word), "the class word")
    token = _valid_token(token or described.get("token") or "<v0>", folder)
    role = _valid_role(role or described.get("role") or "subject", folder)
    layout = look_into(folder)
    said, words = captions_in(layout, captions)
    pictures, remarks = _read_all(layout.pictures, layout.masks, said, layout.repeats, shorter)
    return Concept(
        token=token,
        class_word=class_word,
        role=role,
        pictures=pictures,
        notes=described.get("notes", ""),
        remarks=(*_perhaps_several(folder, layout.pictures), *layout.remarks, *words, *remarks),
    )


def _beside(concept: Concept, folder: str, shorter: int) -> Concept:
    """The concept with a folder's pictures of others of its class."""
    layout = look_into(_existing_folder(folder))
    captions, words = captions_in(layout)
    pictures, remarks = _read_all(layout.pictures, {}, captions, shorter=shorter)
    said = f"{folder}: {len(pictures)} pictures of '{concept.class_word}' are learned beside {concept.token}"
    return replace(
        concept, class_pictures=pictures, remarks=(*concept.remarks, said, *layout.remarks, *words, *remarks)
    )


def _assets(layout: Layout) -> dict[int, tuple[str, list[Path]]]:
    """What MagicTailor's files call each number, and the pictures of it."""
    by_number: dict[int, tuple[str, list[Path]]] = {}
    for path in layout.pictures:
        match = _PAIR.fullmatch(path.stem)
        if match is None:
            raise LikenessError(
                f"{path} is not named like 0_person_a0.jpg; rename it or make a folder per concept"
            )
        word, paths = by_number.setdefault(int(match["asset"]), (match["word"], []))
        paths.append(path)
        if word != match["word"]:
            raise LikenessError(
                f"{path} calls concept number {match['asset']} {match['word']}, other pictures call it "
                f"{word}; give each concept a number of its own, or one word"
            )
    return dict(sorted(by_number.items()))


def _numbered(
    layout: Layout, assets: Mapping[int, tuple[str, list[Path]]], asset: int, captions: str, shorter: int
) -> Concept:
    """One of the concepts of MagicTailor's folder: only its pictures are decoded."""
    word, paths = assets[asset]
    said, words = captions_in(layout, captions)
    pictures, remarks = _read_all(paths, layout.masks, said, shorter=shorter)
    remarks = [*(words if asset == min(assets) else []), *remarks]
    role = "subject" if asset == min(assets) else "component"
    return Concept(f"<v{asset}>", word, role, pictures, remarks=tuple(remarks))


def assets_in(folder: str | Path, several: bool = False) -> list[int]:
    """The numbers of the concepts in a folder that is to be read as several; none where it is one concept.

    It is where somebody says so (`several`, or concept.json), or where its name is MagicTailor's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    asked = several or _read_description(folder).get("concepts") == BY_NUMBER
    words = _words_by_number(look_into(folder).pictures) if asked or "+" in folder.name else {}
    if not asked and not _is_named_for(folder.name, words):
        return []
    if len(words) < 2:
        raise LikenessError(
            f"{folder} is to be read as several concepts, but its files are not named so; name them like "
            "0_person_a0.jpg and 1_hair_a0.jpg, a number and a word for each concept"
        )
    return sorted(words)


def one_of_folder(source: ConceptSpec) -> Concept:
    """The concept a folder holds; raises where it holds several and none of them was chosen."""
    there = assets_in(source.folder)
    if there and source.asset is None:
        raise LikenessError(
            f"{source.folder} holds the concepts number {' and '.join(map(str, there))}; "
            "say which one to read"
        )
    return load_concept(source)


def _words_by_number(pictures: Sequence[Path]) -> dict[int, set[str]]:
    """What the files call each number; nothing where not all of them are named like 0_person_a0.jpg."""
    words: dict[int, set[str]] = {}
    for path in pictures:
        match = _PAIR.fullmatch(path.stem)
        if match is None:
            return {}
        words.setdefault(int(match["asset"]), set()).add(match["word"])
    return words


def _is_named_for(name: str, words: Mapping[int, set[str]]) -> bool:
    """Whether a folder's name is MagicTailor's for these concepts: person_k+hair_c for 0_person…, 1_hair…"""
    parts = name.split("+")
    return 1 < len(words) == len(parts) and all(
        any(part == word or part.startswith(f"{word}_") for word in words[number])
        for part, number in zip(parts, sorted(words))
    )


def _perhaps_several(folder: Path, pictures: Sequence[Path]) -> list[str]:
    """A word on a folder read as one concept whose files look as if they were several."""
    words = _words_by_number(pictures)
    each = [next(iter(word)) for word in words.values() if len(word) == 1]
    if len(words) < 2 or len(each) < len(words) or len(set(each)) < len(words):
        return []
    return [
        f"{folder} is read as one concept, although its files are numbered for {', '.join(each)}; --several, "
        f'or "concepts": "{BY_NUMBER}" in {DESCRIPTION}, reads several'
    ]


def _asset(folder: str, asset: int, captions: str, given: Mapping[str, str], shorter: int) -> Concept:
    """One concept of MagicTailor's folder; what is told goes before what the file names say."""
    layout = look_into(_existing_folder(folder))
    there = sorted(_words_by_number(layout.pictures))
    if asset not in there:
        hint = (
            f"there are {', '.join(map(str, there))}" if there else "files must be named like 0_person_a0.jpg"
        )
        raise LikenessError(f"{folder} has no pictures of concept number {asset}; {hint}")
    concept = _numbered(layout, _assets(layout), asset, captions, shorter)
    said = f"{folder}: number {asset} of its {len(there)} concepts, {concept.class_word}, has "
    said += f"{len(concept.pictures)} pictures"
    shared = layout.remarks if asset == there[0] else ()
    return replace(concept, remarks=(said, *shared, *concept.remarks), **given)


def says_class_word(folder: str | Path) -> bool:
    """Whether concept.json says what a folder shows."""
    return bool(_read_description(_existing_folder(folder)).get("class_word"))


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
        if concept.class_pictures:
            total.update(f"beside {len(concept.class_pictures)}".encode())
        for picture in (*concept.pictures, *concept.class_pictures):
            if picture.large:
                total.update(picture.fingerprint.encode())
            for array in () if picture.large else _arrays(picture):
                total.update(f"{array.dtype}{array.shape}".encode())
                total.update(np.ascontiguousarray(array).tobytes())
            if picture.repeats != 1:
                total.update(f"{picture.repeats} times".encode())
            if picture.captions:
                total.update(json.dumps(picture.captions).encode())
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
        described = from_json(read_text(path), path)
    if not isinstance(described, dict):
        raise LikenessError(f'{path} must look like {{"class_word": "woman"}}; mend or delete it')
    for key, value in described.items():
        if key not in _KEYS:
            keys = ", ".join(_KEYS)
            raise LikenessError(
                f"{path} has an unknown key '{key:.80}'{nearest(key, _KEYS)}; known are {keys}"
            )
        if not isinstance(value, str):
            raise LikenessError(f"{path}: {key} must be text in quotation marks")
    if described.get("concepts", BY_NUMBER) != BY_NUMBER:
        raise LikenessError(f'{path}: "concepts" can only be "{BY_NUMBER}"; mend it or leave it out')
    return described


def _valid_role(role: str, folder: Path) -> str:
    if role not in ROLES:
        roles = ", ".join(ROLES)
        raise LikenessError(f"{folder}: unknown role '{role:.80}'{nearest(role, ROLES)}; use one of {roles}")
    return role


def _valid_token(token: str, folder: Path) -> str:
    if not TOKEN.fullmatch(token):
        raise LikenessError(
            f"{folder}: '{token:.80}' cannot be a token; write it like <v0>, in angle brackets"
        )
    check_name(token[1:-1])  # exported, its file is named so
    return token


def _read_all(
    paths: Sequence[Path],
    masks: Mapping[Path, Path],
    captions: Captions,
    repeats: Mapping[Path, int] = MappingProxyType({}),
    shorter: int = USABLE_SIDE,
) -> tuple[tuple[Picture, ...], list[str]]:
    """The pictures with their masks, no larger than training can use, and remarks on reading them."""
    pictures, remarks = [], []
    for path in paths:
        photo = read_photograph(path, USABLE_SIDE)
        remarks += [f"{path} {remark}" for remark in photo.remarks]
        mask = None if path not in masks else read_mask(masks[path], photo.size)
        seen = (photo.pixels.shape[0], photo.pixels.shape[1])
        mask = mask if mask is None or mask.shape == seen else _scaled(mask, seen)
        size = None if photo.size == seen else photo.size
        picture = Picture(path.stem, photo.pixels, mask, size, captions.get(path, ()), repeats.get(path, 1))
        pictures.append(picture.within(shorter) if picture.large else picture)
    return tuple(pictures), remarks


def _scaled(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) in [0, 1] at another, smaller size."""
    image = Image.fromarray(mask.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX)
    return np.array(image).clip(0, 1)


def _fill(folder: Path, concept: Concept) -> None:
    (folder / "images").mkdir()
    taken: set[str] = set()  # as systems see them that do not tell Ann from ann
    for index, picture in enumerate(concept.pictures):
        name = portable(re.sub(r"[^\w.-]", "_", picture.name))
        while name.casefold() in taken:
            name = f"{name}_{index:02d}"
        taken.add(name.casefold())
        Image.fromarray(picture.pixels).save(folder / "images" / f"{name}.png")
        if picture.mask is not None:
            (folder / "masks").mkdir(exist_ok=True)
            to_mask_image(picture.mask).save(folder / "masks" / f"{name}.png")
        if picture.captions:
            (folder / "images" / f"{name}.txt").write_text("\n".join(picture.captions) + "\n", "utf-8")
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
