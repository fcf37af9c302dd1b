"""Where a run's artifact goes: a finished file is not replaced by an unfinished one, nor in silence, and what
took hours to learn is not lost because its place cannot be written.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifact import Artifact, read_metadata
from ..errors import LikenessError
from ..files import unused
from .observer import Observer, Progress, tell

log = logging.getLogger(__name__)

UNFINISHED = "unfinished"  # in an artifact's `extra`: the step it was stopped at, and of how many


class Output:
    """The file that a job names, as it was when the run began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._was_there = path.exists()

    def keep(self, artifact: Artifact, progress: Progress, observer: Observer) -> Path:
        """Writes the artifact, and says so where it went elsewhere than asked; returns where it is.

        :raises LikenessError: where no place at all can be written.
        """
        place, why = self._place(progress)
        artifact = _marked(artifact, progress)
        try:
            artifact.save(place)
        except LikenessError as error:
            place, why = _elsewhere(artifact, place, error), str(error)
        if place != self.path:
            tell(observer, f"{why}; what was learned is in {place}")
        return place

    def _place(self, progress: Progress) -> tuple[Path, str]:
        """Where to write, and why that is another place than the job's."""
        if not self.path.exists() or unfinished(self.path):
            return self.path, ""
        if progress.stopped:
            other = self.path.with_name(f"{self.path.stem}-step-{progress.step}{self.path.suffix}")
            return unused(other), f"{self.path} stays as it is, for this is not finished"
        if self._was_there:  # whoever began the run was told, and wanted it replaced
            return self.path, ""
        return unused(self.path), f"{self.path} has come from elsewhere meanwhile"


def unfinished(path: Path) -> Mapping[str, Any] | None:
    """At which step of how many a file's run was stopped; None for finished ones and for other files."""
    try:
        return read_metadata(path)["extra"].get(UNFINISHED)
    except LikenessError:
        return None


def _marked(artifact: Artifact, progress: Progress) -> Artifact:
    if not progress.stopped:
        return artifact
    return replace(
        artifact, extra={**artifact.extra, UNFINISHED: {"step": progress.step, "of": progress.total}}
    )


def _elsewhere(artifact: Artifact, place: Path, error: LikenessError) -> Path:
    """The first other place that takes the artifact."""
    for other in _places(place):
        try:
            return artifact.save(unused(other))
        except (LikenessError, OSError) as further:
            log.info("%s", further)
    raise error


def _places(place: Path) -> Iterator[Path]:
    yield place
    for folder in (Path(tempfile.gettempdir()), Path.home(), Path.cwd()):
        yield folder / place.name
