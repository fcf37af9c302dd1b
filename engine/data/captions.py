"""Captions: what people wrote about their pictures, in files beside them, and the prompts they become.

Read are `<picture>.txt` and `<picture>.caption` beside a picture or under captions/ (a line each for several
choices), then `captions.json`, `captions.jsonl` and `metadata.jsonl` (Hugging Face's imagefolder); on request
what the picture's own file says of it (PNG text, EXIF, IPTC).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import CAPTION_SOURCES, check_text, from_json
from ..errors import LikenessError
from ..files import read_text, reading
from .layout import NAMED, Layout, by_name, few, picture_named
from .pictures import descriptions_in

_PLACES = ("{}", "[trigger]")  # where the placeholder belongs in a caption; the latter is ai-toolkit's
LONGEST = 4000  # characters; what is longer is no caption
_MOST_BYTES = 1 << 20  # of a picture's text file
_MOST_BYTES_OF_TABLE = 1 << 26
_SHOWN = 60  # characters of a name in a table that is no file's
_FILE_KEYS = ("file_name", "file", "filename", "image", "path")
_MAKER = (
    r"(?:olympus|minolta|konica|sony|samsung|kodak|fuji\w*|pentax|ricoh|casio|vivitar|polaroid|maginon|jenoptik"
    r"|aiptek|benq|hp|lg|nikon|canon|panasonic|default|digital)"
)
_BY_ITSELF = re.compile(  # what cameras, phones and programs write into every picture
    rf"{_MAKER}(?:[ _-]+(?:{_MAKER}|camera|still|dsc|picture|electronics))*"
    r"|screenshot[ \d()._:-]*|untitled[ \d_-]*|(?:img|image|dsc|dscn|pict|dcim)[ \d_-]*"
    r"|\w+ (?:with|by|for|using) (?:the )?(?:gimp|photoshop|adobe|picasa|snapseed|vsco|instagram|paint)\b.*"
    r"|lead technologies.*|exif_jpeg_picture|ascii|binary comment|charset=.*|file source.*"
    r"|cof|hdrpl|mde|dav|btf|null|none|unknown|n/?a|[\W\d_]*",
    re.IGNORECASE,
)
_CHATTING = re.compile(  # what models that chat put before a caption
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok)\b[!,.]*\s*)?here(?:'s|\u2019s| is| are)\b[^:]{0,60}"
    r"\b(?:captions?|descriptions?|sentences?)\b[^:]{0,60}:[\s*]*|\**caption\**:[\s*]*",
    re.IGNORECASE,
)
_QUOTES = ('""', "\u201c\u201d")
_TEXT_KEYS = ("text", "caption", "captions", "prompt", "description", "tags")

Captions = Mapping[Path, tuple[str, ...]]  # by picture: the choices of what is said of it


def captions_in(layout: Layout, source: str = CAPTION_SOURCES[0]) -> tuple[Captions, list[str]]:
    """What is said of each picture of a folder, and remarks on it, a sentence each.

    source: `files` beside the pictures, `pictures` for what their own files say where no other does,
    `trigger` for the placeholder alone, `none` for templates.
    """
    if source == "trigger":
        return dict.fromkeys(layout.pictures, (_PLACES[0],)), []
    there = len(layout.captions) + len(layout.tables)
    if source == "none":
        said = f"{layout.folder}: captions are left out, as asked: training prompts are made of templates"
        return {}, [said] if there else []
    captions, empty = _beside(layout)
    remarks = []
    for table in layout.tables:
        written, strays = _in_table(table, layout.pictures)
        captions = {**written, **captions}
        if strays:
            remarks.append(f"{table} is about pictures that are not here: {_few(strays)}")
    empty = [path for path in empty if path not in captions]
    said_by_themselves: dict[Path, str] = {}
    if source == "pictures":
        bare = [path for path in layout.pictures if path not in captions]
        described, said_by_themselves = _in_pictures(bare)
        captions = {**described, **captions}
    if said_by_themselves:
        remarks.append(_boilerplate(layout.folder, said_by_themselves))
    if captions or empty or source == "pictures":
        remarks.insert(0, f"{layout.folder}: {in_words(len(layout.pictures), len(captions))}")
    if empty:
        names = [layout.captions[path] for path in empty]
        remarks.append(f"{layout.folder}: nothing is written in {few(names)}; write a caption, or delete it")
    return captions, remarks


def in_words(pictures: int, captions: int) -> str:
    """`12 pictures, 12 captions`, and what becomes of the pictures without one."""
    said = f"{pictures} picture{'s' * (pictures != 1)}, {captions or 'no'} caption{'s' * (captions != 1)}"
    bare = pictures - captions
    if not bare:
        return said
    which = "all" if bare == pictures else f"the {'other' if bare == 1 else f'{bare} others'}"
    return f"{said}: {which} learned with templates"


def caption_lines(text: str, where: object) -> tuple[str, ...]:
    """The captions in a text, a line each; LikenessError where `where` holds what can be none.

    What a model that chats says before (*Sure! Here is a caption:*) and quotes around a line are left out.
    """
    check_text(text, where)
    lines = tuple(line for line in map(_said_plainly, text.splitlines()) if line)
    for line in lines:
        if len(line) > LONGEST:
            raise LikenessError(
                f"{where} holds a caption of {len(line):,} characters; write {LONGEST:,} at most, several "
                "on lines of their own"
            )
    return lines


def _said_plainly(line: str) -> str:
    """A caption's line without what is said about it and without quotes around all of it."""
    line = line.strip()
    if chatting := _CHATTING.match(line):
        line = line[chatting.end() :].strip()
    for first, last in _QUOTES:
        if len(line) > 1 and line[0] == first and line[-1] == last and first not in line[1:-1]:
            line = line[1:-1].strip()
    return line


def prompt_of(
    captions: Sequence[str], token: str, chance: np.random.Generator, shuffle: bool = False, keep: int = 0
) -> str:
    """One of a picture's captions as a training prompt: the placeholder stands in its place, or before.

    shuffle: its parts between commas come in another order, after the first `keep` of them.
    """
    caption = captions[int(chance.integers(len(captions)))]
    if shuffle:
        parts = [part.strip() for part in caption.split(",") if part.strip()]
        kept, rest = parts[:keep], parts[keep:]
        caption = ", ".join([*kept, *(rest[number] for number in chance.permutation(len(rest)))])
    return with_placeholder(caption, token)


def has_place(caption: str) -> bool:
    """Whether a caption says where the placeholder belongs."""
    return any(place in caption for place in _PLACES)


def with_placeholder(caption: str, token: str) -> str:
    """A caption with the placeholder where it says so; before it where it says nothing."""
    for place in _PLACES:
        caption = caption.replace(place, token)
    return caption if token in caption else f"{token}, {caption}"


# ------------------------------------------------------------------------------------------------- reading


def _beside(layout: Layout) -> tuple[dict[Path, tuple[str, ...]], list[Path]]:
    """Captions from the pictures' own text files, and the pictures whose files are empty."""
    captions: dict[Path, tuple[str, ...]] = {}
    for picture, path in layout.captions.items():
        with reading(path, "is no text that can be read; save it as UTF-8"):
            captions[picture] = caption_lines(_text_of(path, _MOST_BYTES), path)
    empty = [picture for picture, lines in captions.items() if not lines]
    return {picture: lines for picture, lines in captions.items() if lines}, empty


def _text_of(path: Path, most: int) -> str:
    """A file's text; one that is far too large to be what its name says is not read."""
    if path.stat().st_size > most:
        raise LikenessError(
            f"{path} has {path.stat().st_size:,} bytes, too many for captions ({most:,} at most); mend it or "
            "delete it"
        )
    return read_text(path)


def _in_table(table: Path, pictures: Sequence[Path]) -> tuple[dict[Path, tuple[str, ...]], list[str]]:
    """Captions from a JSON file about many pictures, and names in it that are of none."""
    with reading(table, "is no JSON about pictures; mend it or delete it"):
        text = _text_of(table, _MOST_BYTES_OF_TABLE)
        if table.suffix == ".jsonl":
            lines = [line for line in text.splitlines() if line.strip()]
            content: Any = [from_json(line, f"{table}, entry {n}") for n, line in enumerate(lines, start=1)]
        else:
            content = from_json(text, table)
        entries = [_entry(entry, table) for entry in _entries(content, table)]
    names = by_name(pictures)
    captions: dict[Path, tuple[str, ...]] = {}
    strays = []
    for name, texts in entries:
        file = Path(name.replace("\\", "/"))
        picture = picture_named(names, file.name, file.stem)
        if picture is None:
            strays.append(file.name)
        elif texts:
            captions[picture] = texts
    return captions, strays


def _entries(content: Any, table: Path) -> list[tuple[Any, Any]]:
    """(a picture's name, what is said of it) for each entry."""
    if isinstance(content, Mapping):
        return list(content.items())
    if isinstance(content, list):
        return [(_first(entry, _FILE_KEYS), entry) for entry in content]
    raise LikenessError(f'{table} must look like {{"a.jpg": "a woman at the sea"}}; mend it or delete it')


def _entry(entry: tuple[Any, Any], table: Path) -> tuple[str, tuple[str, ...]]:
    name, said = entry
    said = _first(said, _TEXT_KEYS) if isinstance(said, Mapping) else said
    texts = said if isinstance(said, list) else [said]
    if not isinstance(name, str) or not all(isinstance(text, str) for text in texts):
        raise LikenessError(
            f'{table} must say a file and its caption in each entry, such as {{"file_name": "a.jpg", '
            '"text": "a woman at the sea"}; mend it or delete it'
        )
    return name, tuple(line for text in texts for line in caption_lines(text, table))


def _first(entry: Any, keys: Sequence[str]) -> Any:
    """The first of these keys that an entry has; a file without words has none."""
    if not isinstance(entry, Mapping):
        return None
    return next((entry[key] for key in keys if key in entry), "" if keys is _TEXT_KEYS else None)


def _in_pictures(pictures: Sequence[Path]) -> tuple[dict[Path, tuple[str, ...]], dict[Path, str]]:
    """Captions from the pictures' own files, where they say something; and what a camera or program wrote
    by itself, of pictures that have nothing else."""
    captions: dict[Path, tuple[str, ...]] = {}
    by_itself: dict[Path, str] = {}
    for path in pictures:
        texts = descriptions_in(path)
        meant = next((text for text in texts if not _BY_ITSELF.fullmatch(text)), "")
        lines = caption_lines(meant, path)
        if lines:
            captions[path] = lines
        elif texts:
            by_itself[path] = texts[0]
    return captions, by_itself


def _boilerplate(folder: Path, texts: Mapping[Path, str]) -> str:
    path, text = next(iter(texts.items()))
    return (
        f"{folder}: what {few(list(texts))} say{'s' * (len(texts) == 1)} ('{text:.{_SHOWN}}') was written by "
        f"a camera or program and is no caption; write one into {path.stem}.txt"
    )


def _few(names: Sequence[str]) -> str:
    """The names, the first of them where they are many; they may be anything."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(name[:_SHOWN] for name in names[:NAMED]) + more
