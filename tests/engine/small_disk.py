"""A disk that is soon full: one in memory, where the system lets us mount it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk_at(place: Path, size: str) -> Iterator[None]:
    """Within, a disk of its own lies at the folder, of a size such as 66m; skips the test where none may."""
    mount = shutil.which("mount")
    if mount is None or sys.platform == "win32":
        pytest.skip("this system mounts no disk in memory")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(file: Path) -> None:
    """Writes zeros until the file's disk is full."""
    with suppress(OSError), open(file, "wb", buffering=0) as opened:
        while opened.write(bytes(2**16)):
            pass
