"""Networks from folders in transformers' layout, without running anything that the folder brings or names."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import LikenessError


def from_folder(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained(folder)` from this machine's files alone.

    Refused is a config.json that names an attention kernel on the hub, which transformers would fetch and
    run; modules lying in the folder (`auto_map`) are never imported, nor is anybody asked whether to.
    """
    _check_kernels(folder)
    if kind.__name__.startswith("Auto"):  # only these look for modules in the folder
        options["trust_remote_code"] = False
    return kind.from_pretrained(folder, local_files_only=True, **options)


def _check_kernels(folder: Path) -> None:
    try:
        told = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # there is none, or the library says what is wrong with it
    for value in _attentions(told):
        if "/" in str(value):
            raise LikenessError(
                f"{folder / 'config.json'} asks for code from the web ('{value}' as attn_implementation); "
                "remove that line, or get the model elsewhere"
            )


def _attentions(told: Any) -> Iterator[Any]:
    """Every attention that a configuration or one inside it names."""
    waiting = [told]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, Mapping):
            for key, value in entry.items():
                if "attn_implementation" in key:
                    yield value
                waiting.append(value)
