"""Several runs on one folder: who works on what, so that nothing is done twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ...files import make_folder


@contextmanager
def held(folder: Path, name: str) -> Iterator[bool]:
    """Whether nobody else works on `name`; until the end it is ours. Ends by itself when a process dies."""
    lock = FileLock(make_folder(folder) / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
