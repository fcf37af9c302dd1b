"""Tensors on disk: `.safetensors` written whole or not at all; what is read is never run nor trusted."""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import check_plain
from ..errors import LikenessError
from ..files import reading, sweep, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

MOST_TIMES, SMALL = 16, 64 * 2**20  # a pickle's tensors may have so many times its bytes, and a few more
LARGEST_HEADER = 32 * 2**20  # bytes; the largest real one we know is below 1 MB


def write_tensors(
    path: str | os.PathLike[str], tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]
) -> None:
    """Equal tensors and metadata give equal bytes; unfinished files of killed runs are swept away."""
    from safetensors.torch import save

    # copies: safetensors refuses tensors that share memory
    plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in sorted(tensors.items())}
    content = memoryview(save(plain, dict(metadata)))
    start = 8 + int.from_bytes(content[:8], "little")
    header = _sorted_header(bytes(content[8:start]))
    sweep(path)
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        file.write(content[start:])


def _sorted_header(header: bytes) -> bytes:
    """safetensors writes metadata in an order that changes from process to process."""
    entries = json.loads(header)
    metadata = dict(sorted(entries.pop("__metadata__", {}).items()))
    text = json.dumps({"__metadata__": metadata, **entries} if metadata else entries, separators=(",", ":"))
    return text.encode() + b" " * (-len(text) % 8)  # tensors begin at a multiple of eight


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """A safetensors file's metadata and the shapes of its tensors; reads nothing else."""
    foreign = "is not a .safetensors file, or is damaged; get it again or choose another"
    with reading(path, foreign), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, os.fstat(file.fileno()).st_size - 8):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length).decode("utf-8"))
        check_plain(header, path)
        metadata = header.pop("__metadata__", None) or {}
        shapes = {str(key): tuple(map(_side, entry["shape"])) for key, entry in header.items()}
        return {str(key): str(value) for key, value in metadata.items()}, shapes


def _side(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"a side of {value}")
    return value


def read_tensors(
    path: str | os.PathLike[str], remedy: str = "get it again or choose another"
) -> "dict[str, Tensor]":
    """All tensors of a safetensors file."""
    from safetensors.torch import load_file

    with reading(path, f"is damaged or cut short; {remedy}"):
        return load_file(path)


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as safetensors do, whatever it is called."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < LARGEST_HEADER


def read_pickle(path: str | os.PathLike[str], remedy: str, *, mmap: bool = False) -> Any:
    """What a file of torch.save holds: tensors and plain containers; nothing in it is run. `remedy` says what
    to do about one that holds more or is damaged; `mmap` leaves large tensors on disk until they are read."""
    import torch

    with reading(path, f"holds more than tensors or is damaged; {remedy}"):
        mmap = refuse_programs(path) and mmap
        return checked_sizes(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap), path)


def checked_sizes(content: Any, path: str | os.PathLike[str]) -> Any:
    """The content itself, unless its tensors would fill far more memory than the file has bytes.

    A tensor may show one number a billion times, and many may show the same ones; whoever copies them fills
    the memory, and the system ends the process.
    """
    import torch

    room, waiting, seen = MOST_TIMES * os.path.getsize(path) + SMALL, [content], set[int]()
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, torch.Tensor):
            room -= math.prod(held.shape) * held.element_size()
        elif isinstance(held, Mapping):
            waiting += held.values()
        elif isinstance(held, list | tuple | set):
            waiting += held
    if room < 0:
        raise LikenessError(f"{path} claims to hold far more than its size allows; choose another file")
    return content


def refuse_programs(path: str | os.PathLike[str]) -> bool:
    """Whether PyTorch takes the file for its zip format.

    Raises for the two in which its care does not hold in every version: its oldest, a tar (CVE-2025-32434,
    before 2.6), and TorchScript, which torch.load may hand to an interpreter. Its own reader is asked, for
    Python's can be shown another table of contents in the same file.
    """
    import torch

    with open(path, "rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        raise ValueError("a tar")
    if start[:4] != b"PK\x03\x04":
        return False
    reader = torch._C.PyTorchFileReader(os.fspath(path))
    records = reader.get_all_records()
    if _unpacked(reader, path) > MOST_TIMES * os.path.getsize(path) + SMALL:
        raise LikenessError(f"{path} is packed far too small to be a model; choose another file")
    if any(name.endswith("constants.pkl") for name in records):
        raise LikenessError(f"{path} is a TorchScript program, not a checkpoint; choose another file")
    return True


def _unpacked(reader: Any, path: str | os.PathLike[str]) -> int:
    """The bytes of all records, unpacked."""
    if hasattr(reader, "get_record_size"):
        return sum(map(reader.get_record_size, reader.get_all_records()))
    with zipfile.ZipFile(path) as archive:  # older PyTorch does not tell
        return sum(entry.file_size for entry in archive.infolist())
