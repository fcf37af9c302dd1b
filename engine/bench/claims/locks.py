"""Several runs on one folder: who works on what, so that nothing is done twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...files import make_folder


@contextmanager
def held(folder: Path, name: str) -> Iterator[bool]:
    """Whether nobody else works on `name`; until the end it is ours. Ends by itself when a process dies.

    Where the system has no such locks (Windows) the answer is always yes.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with open(make_folder(folder) / name, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
