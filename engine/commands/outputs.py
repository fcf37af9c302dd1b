"""Where the pictures of a command go: into one file, or numbered into a folder; what is there stays."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..console import PICTURE_FORMATS
from ..errors import LikenessError
from ..files import check_name, check_room, unused

OTHERS = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".tif", ".tiff")  # that people might ask for


@dataclass(frozen=True)
class Outputs:
    """A place for pictures, known to be one that they can be written to."""

    place: Path
    single: bool
    overwrite: bool
    first: int  # the number of the first picture in a folder

    @classmethod
    def at(cls, place: Path, count: int, overwrite: bool) -> "Outputs":
        """For `count` pictures; raises where they do not fit there, or would replace something."""
        single = place.suffix.lower() in PICTURE_FORMATS and not place.is_dir()
        if not single and place.suffix.lower() in OTHERS and not place.is_dir():
            raise LikenessError(f"{place} cannot be written; choose one of {', '.join(PICTURE_FORMATS)}")
        if single and count > 1:
            raise LikenessError(f"{place} is one file, but there are {count} pictures; give a folder")
        if single and place.exists() and not overwrite:
            raise LikenessError(f"{place} is there already; give --overwrite to replace it, or another --out")
        if not place.exists() and place.name not in ("", ".."):
            check_name(place.stem if single else place.name)
        check_room(place if single else place / "picture.png")
        return cls(place, single, overwrite, 0 if overwrite else next_number(place))

    def numbered(self, index: int, rest: str) -> Path:
        """The file of the picture at an index, `003-<rest>.png`: numbers go on behind those in the folder."""
        return self.place if self.single else self.place / f"{self.first + index:03d}-{rest}.png"

    def named(self, name: str) -> Path:
        """The file of a picture that has a name; with a number where there is such a file."""
        path = self.place if self.single else self.place / f"{name}.png"
        return path if self.single or self.overwrite else unused(path)


def next_number(folder: Path) -> int:
    """One more than the highest number that a picture in the folder begins with; 0 where there is none."""
    numbers = [
        int(match[1])
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if entry.suffix.lower() in PICTURE_FORMATS and (match := re.match(r"(\d+)-", entry.name))
    ]
    return max(numbers, default=-1) + 1
