"""What was learned in this ComfyUI: a run whose inputs were equal is not learned twice, also after a restart.

Equal is what decides the outcome: method, settings, seed, pictures, words, model; not how it was watched.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from ..artifact import Artifact
from ..config import Job, as_earlier
from ..data.concepts import Concept, digest
from ..errors import LikenessError
from ..files import copy_whole, unused, write_atomically
from .folders import FOLDER, inside, kept_folder

# of a job: how it is watched and where things lie, which decides nothing
WATCHING = (
    "preview_every", "preview_prompt", "log", "output", "cache", "cache_on_disk", "resume", "overwrite",
    "device", "concepts", "memory", "checkpoint_every", "checkpoint_minutes", "processes",
)  # fmt: skip


def key_of(
    job: Job,
    concepts: Sequence[Concept],
    base: str,
    people: str,
    look_every: int,
    files: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Names a run by all that decides its outcome; base and people: names, look_every: stopping's, files: by
    setting, what the files hold that the job names."""
    settings = {name: value for name, value in json.loads(job.to_json()).items() if name not in WATCHING}
    settings = as_earlier(job, settings)  # what earlier versions learned is found too
    whole = json.dumps([settings, digest(concepts), base, people, look_every, dict(files)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:24]


def find_learned(key: str) -> Path | None:
    """The file of a finished run; None where there is none that can be read."""
    path = _folder() / f"{key}.safetensors"
    try:
        return path if path.exists() and Artifact.load(path) else None
    except LikenessError:
        return None  # learned again, and written over


def is_kept(path: Path) -> bool:
    """Whether it is the file of an earlier run."""
    return path.parent == _folder()


def keep(key: str, learned: Path) -> str:
    """Keeps a finished run's file; why it could not, in words, or nothing."""
    try:
        copy_whole(learned, _folder() / f"{key}.safetensors")
        return ""
    except LikenessError as error:
        return f"{error}; what was learned is in {learned} until ComfyUI starts again: save it elsewhere"


def keep_plot(key: str, plot: np.ndarray) -> None:
    """Keeps a run's curves (H, W, 3) uint8 beside its file, where there is room."""
    with suppress(LikenessError), write_atomically(_folder() / f"{key}.png") as temporary:
        Image.fromarray(plot).save(temporary)


def plot_of(path: Path) -> np.ndarray | None:
    """The curves that were kept beside a run's file."""
    picture = path.with_suffix(".png")
    try:
        return np.asarray(Image.open(picture, formats=["PNG"]).convert("RGB")) if picture.exists() else None
    except OSError:
        return None


def said_of(path: Path) -> str:
    """When a run was learned, and how to learn it again."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
    return f"learned already on {when}; change the seed, or delete {path}, to learn it again"


def save_as(learned: Artifact, name: str) -> Path:
    """Writes it to models/likeness under the name, or a number behind it; an equal file is found again."""
    place = inside(FOLDER, name, ".safetensors")
    for path in (place, *sorted(place.parent.glob(f"{place.stem}-*{place.suffix}"))):
        if path.exists() and _equal(learned, path):
            return path
    return learned.save(unused(place))


def _equal(learned: Artifact, path: Path) -> bool:
    try:
        other = Artifact.load(path)
    except LikenessError:
        return False
    if [asdict(token) for token in other.tokens] != [asdict(token) for token in learned.tokens]:
        return False
    return other.tensors.keys() == learned.tensors.keys() and all(
        tensor.shape == learned.tensors[name].shape and bool((tensor == learned.tensors[name].cpu()).all())
        for name, tensor in other.tensors.items()
    )


def _folder() -> Path:
    """Outlasts restarts; ComfyUI gives browsers nothing out of user folders that begin with __."""
    return kept_folder("learned")
