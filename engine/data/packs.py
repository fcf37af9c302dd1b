"""Face packs: folders of insightface models, which of their files does what, and on what terms they come.

Any folder under models/insightface/models/ is a pack. What a file does is told by its shape, as insightface
tells it; the packs that we name are known by their files' names too, and licences by the files' content.
"""

import hashlib
import mmap
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LikenessError, first_line, nearest
from ..files import reading
from .helpers import default_models


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A set of insightface models that we name: its files, and on what terms it comes."""

    detector: str
    recogniser: str
    source: str
    licence: str


OR_MASK = ", or mask the face yourself"  # where masks are taken
_RELEASES = "https://github.com/deepinsight/insightface/releases/tag/v0.7"
PACKS = {
    "auraface": Pack(
        detector="scrfd_10g_bnkps.onnx",
        recogniser="glintr100.onnx",
        source="https://huggingface.co/fal/AuraFace-v1",
        licence="Apache-2.0",
    ),
    "antelopev2": Pack(
        detector="scrfd_10g_bnkps.onnx",
        recogniser="glintr100.onnx",
        source=_RELEASES,
        licence="non-commercial research only",
    ),
    "buffalo_l": Pack(
        detector="det_10g.onnx",
        recogniser="w600k_r50.onnx",
        source=_RELEASES,
        licence="non-commercial research only",
    ),
}


# SHA-256 of files that people have, and on what terms they come
_RESEARCH = "non-commercial research only"
LICENCES = {
    "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60": "AuraFace, Apache-2.0",
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": f"antelopev2, {_RESEARCH}",
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": f"buffalo_l, {_RESEARCH}",
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f": f"buffalo_s, {_RESEARCH}",
    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91": f"SCRFD 10G, {_RESEARCH}",
    "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a": f"SCRFD 500M, {_RESEARCH}",
}


def default_root() -> Path:
    """Where packs lie when nobody says: ComfyUI's models/insightface, else that folder here."""
    return default_models().with_name("insightface")


def packs_in(root: Path) -> list[str]:
    """The packs that lie under root/models, by their folders' names."""
    folder = root / "models"
    there = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(path.name for path in there if not path.name.startswith(".") and any(path.glob("*.onnx")))


def terms_of(folder: Path) -> list[str]:
    """What is known of a pack's models, one line per file: whose they are and on what terms, by content."""
    lines = []
    for path in sorted(folder.glob("*.onnx")):
        with open(path, "rb") as file:
            terms = LICENCES.get(hashlib.file_digest(file, "sha256").hexdigest())
        lines.append(f"{path.name}: {terms or 'not known here; see where you have it from for its licence'}")
    return lines


def find_pack(name: str, root: Path, otherwise: str = "") -> Path:
    """root/models/<name> with models in it; an archive or a folder in a folder is put right first.

    otherwise: what else whoever asks can do without it, such as `OR_MASK`, for the end of the sentence.
    """
    if not name or Path(name).name != name:
        raise LikenessError(f"'{name}' is no face pack's name; give that of a folder under {root / 'models'}")
    folder = root / "models" / name
    _flatten(folder)
    if name in PACKS:
        files = (PACKS[name].detector, PACKS[name].recogniser)
        missing = [file for file in files if not (folder / file).is_file()]
        if len(missing) == len(files) and folder.is_dir() and any(folder.glob("*.onnx")):
            return folder  # somebody's own files under our name: told by their shapes
        if missing:
            raise LikenessError(
                f"{' and '.join(missing)} missing in {folder}; get the files from {PACKS[name].source} "
                f"({PACKS[name].licence}) and put them there{otherwise}"
            )
    elif not any(folder.glob("*.onnx")):
        packs = [*dict.fromkeys((*packs_in(root), *PACKS))]
        hint = nearest(name, packs) or f"; use one of {', '.join(packs)}"
        raise LikenessError(f"unknown face pack '{name}'{hint}, or put its .onnx files into {folder}")
    return folder


def models_of(name: str, root: Path, otherwise: str = "") -> Sequence[Path]:
    """The files of a pack that may find or recognise faces: the two that we know, else all of them."""
    folder = find_pack(name, root, otherwise)
    usual = (
        [folder / file for file in (PACKS[name].detector, PACKS[name].recogniser)] if name in PACKS else []
    )
    return usual if usual and all(path.is_file() for path in usual) else sorted(folder.glob("*.onnx"))


def check_own_weights(path: Path) -> None:
    """Raises where an ONNX file keeps weights in another file, which onnxruntime would follow.

    Such a file names a `location`: only one that has the word is read as a graph, for packs are large.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"location") < 0:
            return
    import onnx
    from onnx.external_data_helper import uses_external_data

    with reading(path, "is damaged or no ONNX model; get it again"):
        graph = onnx.load(str(path), load_external_data=False).graph
    if any(uses_external_data(entry) for entry in _tensors(graph)):
        raise LikenessError(f"{path} keeps its weights in another file; choose one that holds them itself")


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph and of those inside it."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _flatten(folder: Path) -> None:
    """Brings models up that lie deeper, as in antelopev2's archive, or still in <name>.zip beside it."""
    archive = folder.with_name(f"{folder.name}.zip")
    if archive.is_file() and not folder.is_dir():
        _unpack(archive, folder)
    if not folder.is_dir() or any(folder.glob("*.onnx")):
        return
    for path in sorted(folder.rglob("*.onnx")):
        path.rename(folder / path.name)


def _unpack(archive: Path, folder: Path) -> None:
    """Only models leave the archive, and only into the folder."""
    fresh = folder.with_name(f".{folder.name}-unpacking")
    fresh.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if entry.filename.endswith(".onnx"):
                    with (
                        packed.open(entry) as source,
                        open(fresh / Path(entry.filename).name, "wb") as target,
                    ):
                        shutil.copyfileobj(source, target)
        fresh.rename(folder)
    except Exception as error:  # its decoders raise what they like; it may want a password
        raise LikenessError(
            f"{archive} cannot be unpacked ({first_line(error)}); get it again or unpack it yourself"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
