"""Shards for adapter training: WebDataset tar files of pictures with their faces, written, indexed and read.

A sample is `key.jpg`, `key.txt` and for each face `key.f0.jpg` (aligned), `key.f0.mask.png` (CelebAMask's
part numbers), `key.f0.lm.npy` (landmarks (N, 2) as x, y in the picture's pixels) and any number of edited
twins `key.f0.aug0.jpg`. `shards.json` beside the tars counts their samples.

Reading is by position: lane 3 of 8, sample 1000, is the same picture in every run on any number of processes,
so that going on after an interruption needs no more than the step's number. Each lane belongs to one process
and one of its threads and draws from shards of its own where there are enough of them. webdataset, which
opens and writes the tars here, reads in streams that cannot be asked for a position.
"""

import hashlib
import io
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import check_place, from_json, is_address
from ..errors import LikenessError
from ..files import make_folder, reading, sweep, write_atomically
from .examples import mixed_seed
from .pictures import grey_in, picture_in

log = logging.getLogger(__name__)

INDEX = "shards.json"
_ENDS = 1 << 18  # bytes at each end of a tar that it is known by
_QUALITY = 95  # JPEG's, of pictures we write
TRIES = 20  # other samples tried in place of one that cannot be read
MOST_SHARDS = 1_000_000  # that a pattern may stand for
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
_OPENING = threading.Lock()  # while webdataset's switch is turned, which is one for the whole process
_FACE = re.compile(r"f(\d+)\.jpg")
LARGEST_INDEX = 64 * 2**20  # bytes
PATIENCE = 8  # readings at a tar's end before it is given up
FARTHEST_LANDMARK = 1e6  # pixels from a picture's corner that a landmark may be


@dataclass(frozen=True)
class ShardFace:
    """A face: pixels (S, S, 3); labels (S, S) of CelebAMask's parts; landmarks (N, 2) in the picture."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None = None
    landmarks: NDArray[np.float32] | None = None
    edited: tuple[NDArray[np.uint8] | bytes, ...] = ()  # bytes: JPEGs not yet decoded


@dataclass(frozen=True)
class ShardSample:
    """A picture (H, W, 3) with what it shows in words and the faces in it."""

    key: str
    pixels: NDArray[np.uint8]
    caption: str
    faces: tuple[ShardFace, ...]


@dataclass
class ReadStats:
    """What reading met with; shared by all lanes of a process."""

    read: int = 0
    broken_samples: int = 0
    without_edits: int = 0  # samples that asked for an edited face and had none
    broken_shards: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)

    def shard(self, path: str, error: BaseException) -> None:
        with self._lock:
            new = path not in self.broken_shards
            self.broken_shards.add(path)
        if new:
            log.warning("the rest of shard %s cannot be read (%s); other samples take its place", path, error)

    def summary(self) -> str:
        """One line for the log."""
        return (
            f"{self.read} samples read, {self.broken_samples} broken ones replaced, "
            f"{len(self.broken_shards)} broken shards, {self.without_edits} samples without an edited face"
        )


# ------------------------------------------------------------------------------------------- one sample


def encoded(sample: ShardSample) -> dict[str, Any]:
    """The sample as `webdataset.TarWriter` takes it."""
    parts: dict[str, Any] = {"__key__": sample.key, "jpg": jpeg(sample.pixels), "txt": sample.caption}
    for number, face in enumerate(sample.faces):
        parts[f"f{number}.jpg"] = jpeg(face.pixels)
        if face.labels is not None:
            stream = io.BytesIO()
            Image.fromarray(face.labels).save(stream, "PNG")
            parts[f"f{number}.mask.png"] = stream.getvalue()
        if face.landmarks is not None:
            stream = io.BytesIO()
            np.save(stream, face.landmarks.astype(np.float32), allow_pickle=False)
            parts[f"f{number}.lm.npy"] = stream.getvalue()
        for twin, edit in enumerate(face.edited):
            parts[f"f{number}.aug{twin}.jpg"] = edit if isinstance(edit, bytes) else jpeg(edit)
    return parts


def decoded(parts: Mapping[str, Any]) -> ShardSample:
    """The sample in a tar's entries; whatever may be wrong with one is a LikenessError."""
    with reading(str(parts.get("__key__")), "cannot be read; write the shard again"):
        return _decoded(parts)


def _decoded(parts: Mapping[str, Any]) -> ShardSample:
    if "jpg" not in parts:
        raise LikenessError("it has no picture")
    numbers = sorted(int(match[1]) for match in map(_FACE.fullmatch, parts) if match)
    return ShardSample(
        key=str(parts["__key__"]),
        pixels=decode_picture(parts["jpg"]),
        caption=_first_line(parts.get("txt", b"")),
        faces=tuple(_face(parts, f"f{number}.") for number in numbers),
    )


def _face(parts: Mapping[str, Any], prefix: str) -> ShardFace:
    labels, landmarks = parts.get(prefix + "mask.png"), parts.get(prefix + "lm.npy")
    edits = sorted(name for name in parts if name.startswith(prefix + "aug"))
    return ShardFace(
        pixels=decode_picture(parts[prefix + "jpg"]),
        labels=None if labels is None else grey_in(labels, f"{prefix}mask.png"),
        landmarks=None if landmarks is None else landmarks_in(landmarks),
        edited=tuple(parts[name] for name in edits),
    )


def landmarks_in(content: bytes) -> NDArray[np.float32]:
    """Points (N, 2) out of a .npy file's bytes."""
    points = np.load(io.BytesIO(content), allow_pickle=False)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or points.dtype.kind not in "fiu":
        raise LikenessError(f"landmarks of shape {points.shape} and type {points.dtype}")
    if not np.abs(points.astype(np.float64)).max() <= FARTHEST_LANDMARK:  # nor is NaN
        raise LikenessError("landmarks that lie nowhere")
    return points


def _first_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").splitlines()
    return lines[0].strip() if lines else ""


def decode_picture(content: bytes) -> NDArray[np.uint8]:
    """An encoded picture as (H, W, 3)."""
    return picture_in(content, "a picture in a shard")


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) as JPEG without thinned colours."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


# --------------------------------------------------------------------------------------------- writing


def write_shards(
    folder: str | Path,
    samples: Iterable[ShardSample],
    each: int = 512,
    on_sample: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Writes `each` samples a tar, each tar whole or not at all, and the index last."""
    from webdataset.writer import TarWriter

    target = make_folder(folder)
    if (target / INDEX).exists():
        raise LikenessError(f"{target} holds shards already; choose another folder or remove them")
    counts: dict[str, int] = {}
    waiting, done = iter(samples), 0
    while True:
        several = islice(waiting, each)
        first = next(several, None)
        if first is None:
            break
        path, count = target / f"shard-{len(counts):06d}.tar", 0
        sweep(path)
        # opened here: webdataset would take a folder's name such as pipe:x for a command
        with write_atomically(path) as temporary, open(temporary, "wb") as file, TarWriter(file) as writer:
            for sample in chain([first], several):
                writer.write(encoded(sample))
                count, done = count + 1, done + 1
                on_sample(done)
        counts[path.name] = count
    if not counts:
        raise LikenessError(f"there is nothing to write to {target}; give pictures with faces in them")
    _write_index(target, counts, whole=True)
    return [target / name for name in counts]


def _write_index(folder: Path, counts: Mapping[str, int], whole: bool = False) -> None:
    """`whole`: no other tar in the folder belongs to them, such as one of a run that was killed before."""
    with write_atomically(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({"samples": dict(counts), "whole": whole}, indent=1) + "\n")


# --------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Shard:
    """A tar file (a full path, or an address that webdataset opens) and how many samples it should hold."""

    path: str
    count: int


def find_shards(where: str, web: bool = False) -> list[Shard]:
    """The shards of a folder, or of a pattern with {000..099} in it; tars without an index are counted.

    :param web: whether they may come from an address; a command (`pipe:`) is refused always.
    """
    paths = _expanded(where, web)
    counts, whole = _index_of(paths)
    if whole and Path(os.path.expanduser(where)).is_dir():
        others = [Path(path).name for path in paths if Path(path).name not in counts]
        if others:
            log.warning(
                "left out are %d tars that %s does not name, of another run or added later; delete that file "
                "to learn from them too: %s", len(others), INDEX, ", ".join(others),
            )  # fmt: skip
        paths = [path for path in paths if Path(path).name in counts]
    missing = [path for path in paths if Path(path).name not in counts]
    if missing and is_address(missing[0]):
        raise LikenessError(f"{missing[0]} has no {INDEX} beside it; write one where the shards lie")
    for path in missing:
        counts[Path(path).name] = sum(1 for _ in entries(path, ReadStats()))
    shards = [Shard(path, counts[Path(path).name]) for path in paths if counts[Path(path).name]]
    if not shards:
        raise LikenessError(f"no samples in the shards of {where}; write them with `likeness shards`")
    if missing and all(Path(path).parent == Path(paths[0]).parent for path in paths):
        _write_index_if_possible(Path(paths[0]).parent, {Path(s.path).name: s.count for s in shards})
    return shards


def outline_of(where: str, web: bool = False) -> str:
    """A name for what local shards hold, wherever they lie: by names, sizes and both ends, for they may be
    terabytes; what is at an address is named by the address."""
    total = hashlib.sha256()
    for path in _expanded(where, web):
        if is_address(path):
            total.update(f"{path}\n".encode())
            continue
        size = os.path.getsize(path)
        total.update(f"{Path(path).name} {size}\n".encode("utf-8", "surrogateescape"))
        with open(path, "rb") as file:
            total.update(file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            total.update(file.read(_ENDS))
    return total.hexdigest()[:16]


def _expanded(where: str, web: bool) -> list[str]:
    """Full paths and addresses; what a pattern becomes is looked at again, for {pi,}pe: becomes pipe:."""
    check_place("shards", where, web)
    folder = Path(os.path.expanduser(where))
    if not is_address(where) and folder.is_dir():
        paths = sorted(str(path.absolute()) for path in folder.glob("*.tar"))
    else:
        paths = []
        for path in _patterns(where):
            check_place("shards", path, web)
            paths.append(path if is_address(path) else os.path.abspath(os.path.expanduser(path)))
    gone = [path for path in paths if not is_address(path) and not Path(path).is_file()]
    if not paths or gone:
        raise LikenessError(
            f"there are no shards at {gone[0] if gone else where}; write them with `likeness shards`"
        )
    return paths


def _patterns(where: str) -> list[str]:
    """What {000..099} and {a,b} in the text stand for."""
    from braceexpand import braceexpand

    spans = (abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(where))
    try:
        few = all(span <= MOST_SHARDS for span in spans)
        patterns = list(islice(braceexpand(where, escape=os.sep == "/"), MOST_SHARDS + 1)) if few else []
    except ValueError as error:  # its UnbalancedBracesError is one
        raise LikenessError(f"the pattern of shards '{where}' cannot be read ({error}); mend it") from error
    if not few or len(patterns) > MOST_SHARDS:
        raise LikenessError(f"the pattern '{where}' stands for over {MOST_SHARDS:,} shards; narrow it down")
    return patterns


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The bytes of a file or of an address; only an address reaches webdataset's opener, commands barred."""
    if not is_address(path):
        with open(path, "rb") as file:
            yield file
        return
    check_place("shards", path, web=True)
    from webdataset.gopen import gopen

    switches: Any = import_module("webdataset.utils")
    with _OPENING:
        before, switches.enforce_security = getattr(switches, "enforce_security", False), True
        try:
            stream = gopen(path)
        finally:
            switches.enforce_security = before
    try:
        yield stream
    finally:
        with suppress(OSError):  # the fetching program's complaint has been met while reading
            stream.close()


def _index_of(paths: Sequence[str]) -> tuple[dict[str, int], bool]:
    """Counts by file name from the index beside the first shard; whether it names all that belong there."""
    beside = (
        f"{paths[0].rpartition('/')[0]}/{INDEX}"
        if is_address(paths[0])
        else str(Path(paths[0]).with_name(INDEX))
    )
    if not is_address(beside) and not Path(beside).is_file():
        return {}, False
    try:
        with _opened(beside) as stream:
            index = from_json(stream.read(LARGEST_INDEX), beside)
        counts = index["samples"]
        if not all(isinstance(count, int) and 0 <= count < 2**31 for count in counts.values()):
            raise ValueError("a count that is none")
        return dict(counts), index.get("whole") is True
    except Exception as error:  # it may say anything
        raise LikenessError(f"{beside} is damaged; delete it, it is made again") from error


def _write_index_if_possible(folder: Path, counts: Mapping[str, int]) -> None:
    try:
        _write_index(folder, counts)
    except LikenessError as error:
        log.info("%s; the shards will be counted again next time", error)


def entries(path: str, tally: ReadStats) -> Iterator[dict[str, Any]]:
    """A tar's samples, undecoded, as far as it can be read."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def note(error: Exception) -> bool:
        tally.shard(path, error)
        return True

    try:
        with _opened(path) as stream:
            files = tar_file_expander([{"url": path, "stream": _Ending(stream)}], handler=note)
            yield from group_by_keys(files, handler=note)
    except Exception as error:  # tarfile raises what it likes
        note(error)


class _Ending:
    """A stream that says so when it is read behind its end: a member that claims 2**40 bytes would otherwise
    be sought in pieces of 10 kB, for minutes."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._empty = stream, 0

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._empty = 0 if content else self._empty + 1
        if self._empty > PATIENCE:
            raise EOFError("it ends before its own entries do")
        return content

    def close(self) -> None:
        """Whoever opened the stream closes it."""


class SampleStream:
    """One endless sequence of samples: shards drawn with replacement, each read from its first sample on."""

    def __init__(self, shards: Sequence[Shard], number: int, lanes: int, seed: int, tally: ReadStats) -> None:
        mine = list(shards[number::lanes])
        self._shards = mine if len(shards) >= lanes else list(shards)
        self._all = list(shards)  # where its own cannot be read
        self._name = (seed, "lane", number)
        self._tally = tally
        self._starts = [0]  # the position at which each turn begins
        self._turn, self._place = -1, 0
        self._stream: Iterator[dict[str, Any]] = iter(())

    def __call__(self, position: int) -> ShardSample:
        """The sample at this position; one that cannot be read has a fixed other one in its place."""
        turn, place = self._where(position)
        parts = self._read(turn, place)
        for attempt in range(TRIES):
            try:
                if parts is not None:
                    sample = decoded(parts)
                    self._tally.count("read")
                    return sample
            except LikenessError as error:
                log.debug("sample %s cannot be read: %s", parts and parts.get("__key__"), error)
            self._tally.count("broken_samples")
            parts = self._another(position, attempt)
        raise LikenessError(f"{TRIES} samples in a row of {self._shards[0].path} and others cannot be read")

    def _shard(self, turn: int) -> Shard:
        return self._shards[mixed_seed(*self._name, "turn", turn) % len(self._shards)]

    def _where(self, position: int) -> tuple[int, int]:
        """Which turn a position falls into, and the place in its shard."""
        while self._starts[-1] <= position:
            self._starts.append(self._starts[-1] + self._shard(len(self._starts) - 1).count)
        turn = int(np.searchsorted(self._starts, position, side="right")) - 1
        return turn, position - self._starts[turn]

    def _read(self, turn: int, place: int) -> dict[str, Any] | None:
        if turn != self._turn or place < self._place:
            self._stream, self._turn, self._place = (
                entries(self._shard(turn).path, self._tally), turn, 0,
            )  # fmt: skip
        parts = None
        while self._place <= place:
            parts = next(self._stream, None)
            self._place += 1
            if parts is None:
                break
        return parts

    def _another(self, position: int, attempt: int) -> dict[str, Any] | None:
        number = mixed_seed(*self._name, "instead", position, attempt)
        among = self._shards if attempt < TRIES // 2 else self._all
        shard = among[number % len(among)]
        place = number // len(among) % shard.count
        for index, parts in enumerate(entries(shard.path, self._tally)):
            if index == place:
                return parts
        return None


class SampleStreams:
    """All lanes of a run: a process reads those it is asked for, in threads of its own ahead of need."""

    def __init__(
        self,
        where: str,
        lanes: int,
        seed: int,
        workers: int = 0,
        tally: ReadStats | None = None,
        web: bool = False,
    ) -> None:
        self.shards = find_shards(where, web)
        self.tally = tally or ReadStats()
        self._lanes = [SampleStream(self.shards, number, lanes, seed, self.tally) for number in range(lanes)]
        self._workers = workers
        self._pool: Any = None
        self._ahead: dict[tuple[int, int], Any] = {}

    def __len__(self) -> int:
        return sum(shard.count for shard in self.shards)

    def samples(
        self, position: int, mine: Sequence[int], prepare: Callable[[ShardSample, int], Any]
    ) -> list[Any]:
        """What `prepare(sample, lane)` makes of the position's sample in each lane in `mine`."""
        if not self._workers:
            return [prepare(self._lanes[lane](position), lane) for lane in mine]
        waiting = [self._ahead.pop((position, lane), None) or self._submit(position, lane, prepare)
                   for lane in mine]  # fmt: skip
        results = [future.result() for future in waiting]
        for lane in mine:
            self._ahead[position + 1, lane] = self._submit(position + 1, lane, prepare)
        return results

    def _submit(self, position: int, lane: int, prepare: Callable[[ShardSample, int], Any]) -> Any:
        """A lane's work waits in one thread, so that its shard is read from front to back."""
        from concurrent.futures import ThreadPoolExecutor

        if self._pool is None:
            self._pool = [ThreadPoolExecutor(1, "shards") for _ in range(self._workers)]
        pool = self._pool[lane % self._workers]
        return pool.submit(lambda: prepare(self._lanes[lane](position), lane))

    def close(self) -> None:
        """Ends the threads; what was read ahead is dropped."""
        for pool in self._pool or ():
            pool.shutdown(wait=True, cancel_futures=True)
        self._pool, self._ahead = None, {}
