"""Tokenizers, which single files lack: in the folder that somebody names, or where one usually lies."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import LikenessError


def find_tokenizer(
    path: Path, named: str | None, whose: str, in_comfyui: str, others: Sequence[Path] = ()
) -> Path:
    """The folder of a single file's tokenizer: the one named, or one beside it, in ComfyUI, in `others`."""
    if named:
        folder = Path(os.path.expanduser(named))
        if not _has_words(folder):
            raise LikenessError(f"{folder} holds no tokenizer; give the folder with its vocab.json")
        return folder
    places = [path.parent / "tokenizer"]
    if host := os.environ.get("COMFYUI_PATH"):
        places.append(Path(os.path.expanduser(host)) / "comfy" / in_comfyui)
    for place in (*places, *others):
        if _has_words(place):
            return place
    raise LikenessError(
        f"{path.name} has no tokenizer in it, as all single files; name the folder of {whose} (vocab.json "
        "and merges.txt) with the base's 'tokenizer' (--tokenizer), or set COMFYUI_PATH: ComfyUI has one"
    )


def _has_words(place: Path) -> bool:
    return (place / "vocab.json").exists() or (place / "tokenizer.json").exists()
