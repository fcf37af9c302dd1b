"""Files: whole or not at all when we write, one sentence for whatever is wrong with them when we read."""

import codecs
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
PROTECTED = "it is write-protected; choose another name, or allow writing it"
FORGOTTEN = 24 * 3600.0  # seconds after which an unfinished file of ours belongs to no running program


# what Windows keeps for its devices, whatever the suffix
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])[ ]*(\..*)?", re.IGNORECASE)
_SPECIAL = '<>:"/\\|?*'
# marks that turn the direction of writing (a name shows as another), line ends, and what is no character
_UNSEEN = re.compile(r"[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")
LONGEST_NAME = 180  # bytes: systems hold 255, and numbers, suffixes and temporaries are put to it


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


def check_room(path: str | os.PathLike[str], needed: int | None = None) -> None:
    """Raises before long work whose result could not be written to `path`: no folder, no right, no room.

    :param needed: bytes that the file will have, where that is known.
    """
    target = _where(path)
    place = target.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise LikenessError(f"cannot write {path}: {_REMEDIES[errno.ENOTDIR]}")
    if not os.access(place, os.W_OK):
        raise LikenessError(f"cannot write {path}: {_REMEDIES[errno.EACCES]}")
    if place == target.absolute().parent:  # rights that only show when they are used: shares, containers
        _reserve(target).unlink(missing_ok=True)
    if shutil.disk_usage(place).free < (needed or 64 * 2**20):
        raise LikenessError(f"cannot write {path}: {_REMEDIES[errno.ENOSPC]}")
    if needed is not None and needed > _largest_file():
        raise LikenessError(f"cannot write {path}: {_REMEDIES[errno.EFBIG]}")


def _largest_file() -> float:
    """Bytes that the system lets a file of ours have."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return float("inf")
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return float("inf") if limit == resource.RLIM_INFINITY else limit


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path in the same folder (same suffix), which replaces `path` at the end.

    On any error, a full disk included, the temporary file is removed and `path` is as it was before. Where
    `path` is a link, the file that it points to is replaced; a write-protected file is not.
    """
    target = _where(path)
    if target == Path(path):  # where a link points there is a folder, or its disk is not there
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


def copy_whole(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copies a file, whole or not at all; what killed programs left of earlier attempts goes."""
    sweep(path)
    with write_atomically(path) as temporary:
        shutil.copyfile(source, temporary)


def _where(path: str | os.PathLike[str]) -> Path:
    """The file itself, or the one that a link points to."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def _reserve(target: Path) -> Path:
    """An empty file of a name nobody else uses, hidden, beside the target."""
    if target.is_dir():
        raise LikenessError(f"cannot write {target}: {_REMEDIES[errno.EISDIR]}")
    if target.exists() and not target.stat().st_mode & stat.S_IWUSR:  # the superuser would replace it too
        raise LikenessError(f"cannot write {target}: {PROTECTED}")
    temporary = unused_name(target)
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise write_error(target, error) from error
    return temporary


def unused_name(target: Path) -> Path:
    """A hidden name beside the target, of the same suffix, that nothing has."""
    return target.with_name(f".{target.stem[:60]}-{secrets.token_hex(6)}{target.suffix}")


def unused(path: Path) -> Path:
    """The path itself, or with the first free number: an earlier file is never replaced."""
    number, free = 2, path
    while os.path.lexists(free):
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return free


def content_of(path: str | os.PathLike[str]) -> str:
    """A name for what a file or a folder's files hold, wherever they lie; empty where there is nothing."""
    root = Path(os.path.expanduser(path))
    if not os.path.exists(root):
        return ""
    total = hashlib.sha256()
    try:
        for file in sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]:
            entry = f"{file.relative_to(root)} {file.stat().st_size}\n"
            total.update(entry.encode("utf-8", "surrogateescape"))
            with open(file, "rb") as content:
                while part := content.read(1 << 20):
                    total.update(part)
    except OSError as error:
        raise LikenessError(f"{root} cannot be read ({error.strerror}); change its permissions") from error
    return total.hexdigest()[:16]


def state_of(path: Path) -> str:
    """Changes whenever the file, or a file in the folder, does, without reading it: by times and sizes."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def sweep(target: str | os.PathLike[str], older_than: float = FORGOTTEN) -> None:
    """Removes what killed programs left of earlier attempts to write `target`: unfinished files beside it.

    :param older_than: seconds since they last grew; younger ones may be somebody's who is writing now.
    """
    path = _where(target)
    ours = re.compile(rf"\.{re.escape(path.stem[:60])}-[0-9a-f]{{12}}{re.escape(path.suffix)}")
    with suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            if ours.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > older_than:
                os.unlink(entry.path)


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


# ------------------------------------------------------------------------------------------------- names


def check_name(name: str) -> str:
    """The name itself, if a file can have it on every system, so that what is kept here can be copied there.

    Raises LikenessError for what Windows, macOS or Linux would refuse, change, hide or show as another name.
    """
    reason = _wrong_with(name)
    if reason:
        shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in name[:60])
        raise LikenessError(f"'{shown}' cannot be a file's name on every system: {reason}; choose another")
    return name


def portable(name: str, otherwise: str = "unnamed") -> str:
    """The nearest name that `check_name` takes: for names that nobody typed, such as those made of others."""
    fit = "".join("_" if c in _SPECIAL or _is_unseen(c) else c for c in name).strip(" .")
    if _DEVICES.fullmatch(fit):
        fit = f"_{fit}"
    while len(fit.encode("utf-8")) > LONGEST_NAME:
        fit = fit[:-1].rstrip(" .")
    return fit or otherwise


def _wrong_with(name: str) -> str:
    if not name or name in (".", ".."):
        return "it is no name"
    for character in name:
        if character in _SPECIAL:
            return f"it holds {character}"
        if _is_unseen(character):
            return f"it holds a character that is not seen (U+{ord(character):04X})"
    if name[0] == ".":
        return "it begins with a dot, which hides it"
    if name[0] == " " or name[-1] in " .":
        return "it begins or ends with a space, or ends with a dot"
    if _DEVICES.fullmatch(name):
        return "Windows keeps it for a device"
    if len(name.encode("utf-8")) > LONGEST_NAME:
        return f"it is {len(name.encode('utf-8'))} bytes long, of which {LONGEST_NAME} are allowed"
    return ""


def _is_unseen(character: str) -> bool:
    return ord(character) < 32 or 127 <= ord(character) < 160 or _UNSEEN.match(character) is not None
