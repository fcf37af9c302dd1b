"""Files: whole or not at all when we write, one sentence for whatever is wrong with them when we read."""

import codecs
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LikenessError

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file would be larger than allowed here; raise the limit or choose another folder",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "there is a folder of that name; choose another name",
    errno.EEXIST: "there is a file of that name; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def write_error(path: str | os.PathLike[str], error: OSError) -> LikenessError:
    """What to tell the user when `path` could not be written."""
    reason = _REMEDIES.get(error.errno or 0) or f"{error.strerror or error}; choose another folder"
    return LikenessError(f"cannot write {os.fspath(path)}: {reason}")


@contextmanager
def reading(path: str | os.PathLike[str], otherwise: str) -> Iterator[None]:
    """The door for a file that anybody may have written: whatever goes wrong behind it becomes one sentence.

    `otherwise` goes on from the file's name where nothing better is known: "is damaged; get it again". Few
    errors are told apart by type: decoders raise what they like, from IndexError to RecursionError.
    """
    try:
        yield
    except LikenessError as error:
        if os.path.basename(path) in str(error):
            raise
        raise LikenessError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise LikenessError(f"{path} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise LikenessError(f"{path} is a folder; give a file") from error
    except PermissionError as error:
        raise LikenessError(f"{path} may not be read; change its permissions") from error
    except MemoryError as error:
        raise LikenessError(f"{path} does not fit into memory; choose a smaller one") from error
    except Exception as error:
        raise LikenessError(f"{path} {otherwise}") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file as editors and shells write it: UTF-8, with its mark or not, or UTF-16 (PowerShell 5)."""
    raw = Path(path).read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif raw[1:2] == b"\0" or raw[:1] == b"\0":  # what is written here begins with a plain letter or bracket
        encoding = "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise LikenessError(
            f"{path} is neither UTF-8 nor UTF-16, perhaps Windows' own encoding; save it again as UTF-8"
        ) from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Creates the folder and its parents where they are missing."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def check_room(path: str | os.PathLike[str], wanted: int = 64 * 2**20) -> None:
    """Raises before long work whose result could not be written to `path`: no folder, no right, no room."""
    place = Path(path).absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise LikenessError(f"cannot write {path}: {_REMEDIES[errno.ENOTDIR]}")
    if not os.access(place, os.W_OK):
        raise LikenessError(f"cannot write {path}: {_REMEDIES[errno.EACCES]}")
    if shutil.disk_usage(place).free < wanted:
        raise LikenessError(f"cannot write {path}: {_REMEDIES[errno.ENOSPC]}")


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path in the same folder (same suffix), which replaces `path` at the end.

    On any error, a full disk included, the temporary file is removed and `path` is as it was before.
    """
    target = Path(path)
    make_folder(target.parent)
    temporary = _reserve(target)
    permissions = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(permissions)  # safetensors makes a file of its own, which only its owner may read
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause = _disk_error_behind(error, temporary)
        if cause is not None:
            raise write_error(target, cause) from error
        raise


def _reserve(target: Path) -> Path:
    """An empty file of a name nobody else uses, hidden, beside the target."""
    if target.is_dir():
        raise LikenessError(f"cannot write {target}: {_REMEDIES[errno.EISDIR]}")
    temporary = unused_name(target)
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise write_error(target, error) from error
    return temporary


def unused_name(target: Path) -> Path:
    """A hidden name beside the target, of the same suffix, that nothing has."""
    return target.with_name(f".{target.stem[:60]}-{secrets.token_hex(6)}{target.suffix}")


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _disk_error_behind(error: BaseException, path: Path) -> OSError | None:
    """The system's refusal to write `path`, also where safetensors wrapped it into its own error."""
    if isinstance(error, OSError):
        about_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return error if about_disk or error.filename in (str(path), path) else None
    if type(error).__module__.startswith("safetensors"):
        codes = [code for code in _REMEDIES if f"os error {code})" in str(error)]
        return OSError(codes[0], os.strerror(codes[0])) if codes else None
    return None
