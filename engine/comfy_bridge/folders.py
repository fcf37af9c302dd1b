"""ComfyUI's folders: where likenesses, LoRAs and embeddings lie, and where passing files go."""

import os
import re
import time
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..bases.families import FAMILIES
from ..config import METHODS, typed_path
from ..errors import LikenessError
from ..files import check_name
from ..inference.restorer_files import SOURCES

FOLDER = "likeness"  # models/likeness: what was learned, and helper models
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
RESTORERS = "facerestore_models"  # the folder other packs keep face restorers in too
_RESTORER_SUFFIXES = {".pth", ".pt", ".ckpt", ".safetensors"}


def register_folders() -> None:
    """Makes models/likeness known to ComfyUI: its lists hold our artifacts and the released adapters."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {".safetensors", ".pt"})
    _register_restorers()


def _register_restorers() -> None:
    """Makes models/facerestore_models known; what another pack already said about it holds."""
    registered = RESTORERS in folder_paths.folder_names_and_paths
    folder_paths.add_model_folder_path(RESTORERS, str(Path(folder_paths.models_dir) / RESTORERS))
    paths, suffixes = folder_paths.folder_names_and_paths[RESTORERS]
    if suffixes or not registered:  # none at all lets every file through
        folder_paths.folder_names_and_paths[RESTORERS] = (paths, set(suffixes) | _RESTORER_SUFFIXES)


def folder(kind: str) -> Path:
    """The folder in which ComfyUI looks first for models of this kind ("likeness", "loras", "embeddings")."""
    return Path(folder_paths.get_folder_paths(kind)[0])


def listed(kind: str = FOLDER) -> list[str]:
    """The files of a kind, as ComfyUI's own loaders would list them."""
    return [name for name in folder_paths.get_filename_list(kind) if not _passing(name)]


def lines_of_listed() -> dict[str, str]:
    """What each listed likeness is, for choosing: its base, method and day; a file of others has its day."""
    lines = {}
    for name in listed():
        path = folder_paths.get_full_path(FOLDER, name)
        if path is not None and os.path.isfile(path):
            state = os.stat(path)
            day = time.strftime("%Y-%m-%d", time.localtime(state.st_mtime))
            kind = _kind_of_file(path, state.st_mtime_ns, state.st_size)
            lines[name] = " · ".join((*kind, day))
    return lines


@lru_cache(maxsize=4096)
def _kind_of_file(path: str, changed: int, size: int) -> tuple[str, ...]:
    """The base and the method of a concept file in words of ours, whatever it says; nothing of others."""
    from ..artifact import read_metadata

    try:
        facts = read_metadata(path) if path.endswith(".safetensors") else None
    except LikenessError:
        facts = None
    if facts is None:
        return ()
    method = (facts["method"],) if facts["method"] in METHODS else ()
    return (FAMILIES[facts["base_family"]].name.removeprefix("the "), *method)


def _passing(name: str) -> bool:
    """Whether it is no finished file: one that is being written or was left half-written, or a checkpoint."""
    parts = Path(name).parts
    return any(part.startswith(".") for part in parts) or any(part.endswith(".checkpoint") for part in parts)


def find(name: str, kind: str = FOLDER) -> Path:
    """The full path of a listed file."""
    path = folder_paths.get_full_path(kind, name)
    if path is None:
        raise LikenessError(f"there is no {name} in {folder(kind)}; press R in the editor and choose again")
    return Path(path)


def inside(kind: str, name: str, suffix: str) -> Path:
    """Where a file the user named goes; the name may hold subfolders but never leads out of the folder."""
    return named_in(folder(kind), name.strip().removesuffix(suffix), suffix)


def named_in(root: Path, name: str, suffix: str = "") -> Path:
    """A name the user typed, subfolders behind slashes, as a path in a folder; it fits every system."""
    for part in name.strip().split("/"):
        check_name(part)
    root = root.resolve()
    target = root / name.strip()
    if not target.resolve().is_relative_to(root):  # a link in it leads away
        raise LikenessError(f"'{name}' leads out of {root}; give a plain name such as 'my-friend'")
    return target.with_name(target.name + suffix)


def input_folder(name: str) -> Path:
    """A folder the user named: a full path, or one inside ComfyUI's input folder."""
    if not name.strip():
        raise LikenessError("no folder is named; type the folder that holds the pictures")
    typed = typed_path(name)
    if typed.startswith(("\\\\", "//")):  # Windows would log in there with the user's name
        raise LikenessError(
            f"{typed} lies on another machine, which a workflow may not call; give that share a drive "
            "letter, or copy the folder here"
        )
    if DRIVE.match(typed) and os.name != "nt":
        raise LikenessError(
            f"{typed} is a folder of Windows, and this ComfyUI does not run there; type the path that the "
            "folder has on this machine"
        )
    return Path(folder_paths.get_input_directory()) / typed


def kept_folder(*parts: str) -> Path:
    """A folder that outlasts restarts; where ComfyUI's user folder cannot be written, a temporary one.

    ComfyUI gives browsers nothing out of folders in there whose names begin with two underscores.
    """
    place = Path(folder_paths.get_user_directory(), f"__{FOLDER}", *parts)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return temporary_folder(*parts)
    return place if os.access(place, os.W_OK) else temporary_folder(*parts)


def temporary_folder(*parts: str) -> Path:
    """A folder that ComfyUI empties when it starts; it need not exist yet."""
    return Path(folder_paths.get_temp_directory()).joinpath(FOLDER, *parts)


def packs_folder() -> Path:
    """Where insightface packs lie."""
    return Path(folder_paths.models_dir) / "insightface"


def face_packs_there() -> list[str]:
    """The names of the face packs that lie there."""
    from ..data.packs import packs_in

    return packs_in(packs_folder())


def restorer_files() -> list[str]:
    """The files of models/facerestore_models, and well-known ones, to say where these come from."""
    well_known = [source.file for source in SOURCES if source.folder == RESTORERS]
    return list(dict.fromkeys([*listed(RESTORERS), *well_known]))
