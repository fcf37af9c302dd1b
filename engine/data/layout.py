"""What lies in a folder of pictures: the pictures, the masks that belong to them, and what is left out.

Masks are known by their names: `masks/<name>.png` (ours), and `<name>-masklabel.png` (OneTrainer) or
`<name>.mask.png` beside the pictures or under masks/. A folder `10_anna woman` inside (kohya) is gone into;
several of one name are one, with their repeats.
Captions are known by their names too (`captions`). Nothing is passed over unsaid: every file that is no
picture, and every mask and caption that belongs to none, is named.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path

from ..errors import LikenessError
from .pictures import FILMS, HEIC, HOW_FOR_HEIC, PICTURE_SUFFIXES, RAW, is_picture, pictures_in

DESCRIPTION = "concept.json"
MASK_FOLDERS = ("masks", "mask")
NAMED = 12  # files that a remark names one by one; `Layout.left_out` has all
_MASK = re.compile(r"(?P<of>.+)(?P<sure>[-_. ]masklabel|\.mask)|(?P<perhaps>.+)[-_ ]mask", re.IGNORECASE)
_KOHYA = re.compile(r"(?P<repeats>\d+)_(?P<name>.+)")  # 10_anna woman
_SIDECARS = (DESCRIPTION, "thumbs.db", "desktop.ini")  # nobody misses them
_CAPTIONS = (".txt", ".caption")  # the former goes before
CAPTION_TABLES = ("captions.json", "captions.jsonl", "metadata.jsonl")  # the former go before
CAPTION_FOLDER = "captions"


@dataclass(frozen=True)
class Layout:
    """A folder as it was understood; `remarks` say what was guessed or left out, a sentence each."""

    folder: Path  # where the pictures lie: the folder itself, images/ or kohya's folder in it
    pictures: tuple[Path, ...]
    masks: Mapping[Path, Path] = field(default_factory=dict)  # by picture
    left_out: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    captions: Mapping[Path, Path] = field(default_factory=dict)  # by picture: its text file
    tables: tuple[Path, ...] = ()  # JSON files with captions of many, the last goes before
    repeats: Mapping[Path, int] = field(default_factory=dict)  # how often a picture comes, where said


def look_into(folder: Path) -> Layout:
    """What a folder holds to learn from; LikenessError where there is nothing, or masks that fit nothing."""
    if parts := _several_of_kohya(folder):
        return _merged(folder, parts)
    where, remarks = _where(folder)
    files = pictures_in(where)
    beside, lost = _masks_beside(files)
    pictures = [path for path in files if path not in beside and path not in lost]
    if not pictures:
        raise nothing_in(where)
    _refuse_twins(pictures)
    masks, strays, remarks_on_masks = _masks_under(folder, where, pictures)
    remarks += remarks_on_masks
    if not masks and not beside and any(map(is_picture, strays)):
        raise _masks_of_nothing(strays, pictures[0])
    if beside:
        remarks.append(f"{where}: {few(sorted(beside))} taken for masks by their names, not for pictures")
    for mask, picture in beside.items():
        if picture in masks:
            strays.append(mask)
        else:
            masks[picture] = mask
    captions, tables, words = _captions(folder, where, pictures)
    left_out = _left_out(where, {*pictures, *beside, *lost, *words})
    left_out += _left_out(folder, {where, *words}) if where != folder else []
    return Layout(
        where,
        tuple(pictures),
        masks,
        tuple(sorted({*left_out, *lost, *strays})),
        (*remarks, *_stray_masks(lost), *_stray_masks(strays), *_said_of(left_out)),
        captions,
        tables,
    )


def _merged(folder: Path, parts: Mapping[Path, int]) -> Layout:
    """Kohya's folders of one name as one, whose pictures come as often as the folders' numbers say."""
    layouts = [look_into(part) for part in parts]
    _refuse_twins([picture for layout in layouts for picture in layout.pictures])
    whole = gcd(*parts.values())
    left_out = _left_out(folder, {*parts})
    said = f"{folder}: read from {few(list(parts))}, as kohya has it: numbers say how often a picture comes"
    return Layout(
        folder,
        tuple(picture for layout in layouts for picture in layout.pictures),
        {picture: mask for layout in layouts for picture, mask in layout.masks.items()},
        tuple(sorted({*left_out, *(path for layout in layouts for path in layout.left_out)})),
        (said, *(remark for layout in layouts for remark in layout.remarks), *_said_of(left_out)),
        {picture: text for layout in layouts for picture, text in layout.captions.items()},
        tuple(table for layout in layouts for table in layout.tables),
        {one: often // whole for layout, often in zip(layouts, parts.values()) for one in layout.pictures},
    )


def nothing_in(folder: Path) -> LikenessError:
    """The sentence for a folder without pictures: what is there instead."""
    left = _left_out(folder, set())
    unread = [path for path in left if path.suffix.lower() in HEIC]
    if unread:
        return LikenessError(
            f"no pictures in {folder} that can be read: {few(unread)} {_are(unread)} HEIC; {HOW_FOR_HEIC}"
        )
    deeper = [path for path in _folders(folder) if pictures_in(path)]
    if deeper:
        return LikenessError(
            f"no pictures in {folder} itself; give the folder that holds them, such as {deeper[0]}"
        )
    others = f" ({len(left)} other file{'s' * (len(left) != 1)} in it)" if left else ""
    return LikenessError(f"no pictures in {folder}{others}; put some .png, .jpg or .webp files there")


def left_out_of(folder: Path, captions: bool = True) -> list[str]:
    """What to say of a folder's files that are no pictures which can be read here.

    captions: whether those count as left out.
    """
    left = _left_out(folder, set(pictures_in(folder)))
    return _said_of([path for path in left if captions or path.suffix.lower() not in _CAPTIONS])


def _said_of(paths: Sequence[Path]) -> list[str]:
    """A sentence for each kind of files that are left out, with what to do about it."""
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(_why_left_out(path), []).append(path)
    return [
        f"{some[0].parent}: left out {few(some)}{f' ({why})' if why else ''}" for why, some in kinds.items()
    ]


def _why_left_out(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir():
        return "a folder with more pictures; give it by itself"
    if suffix in HEIC:
        return f"HEIC: {HOW_FOR_HEIC}"
    if suffix in RAW:
        return "raw files of cameras: save them as JPEG"
    if suffix in FILMS:
        return "films: save single frames of them as PNG"
    if suffix in _CAPTIONS:
        return "captions of no picture: name each as its picture"
    return "beside images/, which is what is read" if suffix in PICTURE_SUFFIXES else "no pictures"


# ---------------------------------------------------------------------------------------------- the pictures


def _kohya_folders(folder: Path) -> dict[Path, re.Match[str]]:
    """Folders inside like `10_anna woman` that hold pictures, where nothing else is read."""
    if (folder / "images").is_dir() or pictures_in(folder):
        return {}
    matches = {path: _KOHYA.fullmatch(path.name) for path in _folders(folder)}
    return {path: match for path, match in matches.items() if match and pictures_in(path)}


def _several_of_kohya(folder: Path) -> dict[Path, int]:
    """Several of kohya's folders of one name, with their repeats; nothing where names differ."""
    inner = _kohya_folders(folder)
    if len(inner) < 2 or len({match["name"] for match in inner.values()}) > 1:
        return {}
    return {path: max(1, int(match["repeats"])) for path, match in inner.items()}


def _where(folder: Path) -> tuple[Path, list[str]]:
    """The folder that holds the pictures, and what to say where it is not simply the one named."""
    if (folder / "images").is_dir():
        return folder / "images", []
    if pictures_in(folder):
        return folder, []
    inner = _kohya_folders(folder)
    if len(inner) > 1:
        raise LikenessError(
            f"{folder} holds several of kohya's folders ({few(list(inner))}); give each that is to be "
            "learned as a folder of its own"
        )
    for path, match in inner.items():
        repeats = match["repeats"]
        return path, [
            f"{folder}: read from {path.name}/, kohya's layout; its {repeats} repeats change nothing here: "
            "the setting steps says how long is learned"
        ]
    return folder, []


def _refuse_twins(paths: Sequence[Path]) -> None:
    """Two pictures of one stem would share a mask and a file name."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise LikenessError(f"{other} and {path.name} have the same name; rename or remove one of them")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _left_out(folder: Path, used: set[Path]) -> list[Path]:
    """What lies in a folder and is neither known nor of no consequence; folders where they hold pictures."""
    files = [
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.lower() not in _SIDECARS
    ]
    deeper = [
        path for path in _folders(folder)
        if path.name not in (*MASK_FOLDERS, "images") and path not in used and pictures_in(path)
    ]  # fmt: skip
    return sorted([path for path in files if path not in used] + deeper)


# ---------------------------------------------------------------------------------------------- the captions


def _captions(
    folder: Path, where: Path, pictures: Sequence[Path]
) -> tuple[dict[Path, Path], tuple[Path, ...], set[Path]]:
    """Each picture's text file, beside it or under captions/, the JSON files about many of them, and all
    files that are captions of pictures here, also where others go before them."""
    names = by_name(pictures)
    captions: dict[Path, Path] = {}
    words: set[Path] = set()
    for place in dict.fromkeys((where, where / CAPTION_FOLDER, folder / CAPTION_FOLDER)):
        texts = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
        for kind in _CAPTIONS:
            for path in sorted(path for path in texts if path.suffix.lower() == kind):
                picture = picture_named(names, path.stem)
                if picture is not None and not path.name.startswith("."):
                    captions.setdefault(picture, path)
                    words.add(path)
    places = [place / name for place in dict.fromkeys((where, folder)) for name in CAPTION_TABLES]
    tables = [place for place in reversed(places) if place.is_file()]
    return captions, tuple(tables), words | {*tables}


# ------------------------------------------------------------------------------------------------- the masks


def _masks_beside(files: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """Masks among the pictures, each with its picture, and files that call themselves masks of nothing."""
    named = {path: match for path in files if (match := _MASK.fullmatch(path.stem))}
    pictures = by_name(path for path in files if path not in named)
    masks, lost = {}, []
    for path, match in named.items():
        picture = picture_named(pictures, match["of"] or match["perhaps"])
        if picture is not None:
            masks[path] = picture
        elif match["sure"]:
            lost.append(path)
    return masks, lost


def _masks_under(
    folder: Path, where: Path, pictures: Sequence[Path]
) -> tuple[dict[Path, Path], list[Path], list[str]]:
    """Masks in a folder of their own by picture, those that belong to none, and remarks."""
    places = dict.fromkeys(place / name for place in (folder, where) for name in MASK_FOLDERS)
    there = [place for place in places if place.is_dir()]
    if not there:
        return {}, [], []
    inside = there[0]
    masks: dict[Path, Path] = {}
    strays, names = [], by_name(pictures)
    for path in sorted(path for path in inside.iterdir() if path.is_file() and not path.name.startswith(".")):
        match = _MASK.fullmatch(path.stem)
        picture = picture_named(names, path.stem, *([match["of"] or match["perhaps"]] if match else []))
        if picture is None or picture in masks or not is_picture(path):
            strays.append(path)
        else:
            masks[picture] = path
    unused = [f"{place} is left out: masks are read from {inside}" for place in there[1:]]
    return masks, strays, unused


def _masks_of_nothing(masks: Sequence[Path], picture: Path) -> LikenessError:
    return LikenessError(
        f"{masks[0].parent} holds {len(masks)} file{'s' * (len(masks) != 1)}, of which none belongs to a "
        f"picture ({masks[0].name}, but {picture.name}); name each mask as its picture, or move the folder "
        "away to learn without masks"
    )


def by_name(pictures: Iterable[Path]) -> dict[str, Path]:
    """Pictures by all that masks and captions may call them: `p0`, `p0.jpg`, and `p0` for p0.jpg.png."""
    names: dict[str, Path] = {}
    for path in pictures:
        inner = Path(path.stem)
        shorter = [inner.stem] if inner.suffix.lower() in PICTURE_SUFFIXES else []
        for name in (path.stem, path.name, *shorter):
            names.setdefault(name, path)
            names.setdefault(name.casefold(), path)
    return names


def picture_named(pictures: Mapping[str, Path], *names: str) -> Path | None:
    """The picture, of those `by_name`, that one of these names is of."""
    for name in names:
        if (picture := pictures.get(name) or pictures.get(name.casefold())) is not None:
            return picture
    return None


def _stray_masks(paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    return [
        f"{paths[0].parent}: left out {few(paths)}, which {'belong' if len(paths) > 1 else 'belongs'} to "
        "no picture; name each mask as its picture"
    ]


def few(paths: Sequence[Path]) -> str:
    """The files' names, the first of them where they are many."""
    names = [path.name + "/" * path.is_dir() for path in paths]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _are(paths: Sequence[Path]) -> str:
    return "are" if len(paths) > 1 else "is"
