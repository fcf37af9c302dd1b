"""`likeness info`: what concept files and concept folders hold."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..console import say
from .apps import app

if TYPE_CHECKING:
    pass


@app.command()
def info(
    paths: Annotated[list[Path], Argument(metavar="FILE...", help="Concept files or concept folders.")],
    as_json: Annotated[bool, Option("--json", help="As JSON, one object per line.")] = False,
) -> None:
    """Show what concept files and concept folders hold."""
    for path in paths:
        facts = _folder_facts(path) if path.is_dir() else _file_facts(path)
        if as_json:
            say(json.dumps(facts))
        else:
            width = max(map(len, facts))
            for name, value in facts.items():
                text = value if isinstance(value, str) else json.dumps(value)
                say(f"{name.replace('_', ' '):<{width}}  {text}")
            say()


def _file_facts(path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from ..artifact import read_metadata

    facts = read_metadata(path)
    return {"file": str(path), **facts, "tokens": [asdict(token) for token in facts["tokens"]]}


def _folder_facts(path: Path) -> dict[str, Any]:
    from ..data.concepts import digest, load_concept

    concept = load_concept(path)
    sizes = sorted({f"{picture.pixels.shape[1]}x{picture.pixels.shape[0]}" for picture in concept.pictures})
    masks = sum(picture.mask is not None for picture in concept.pictures)
    about = {"token": concept.token, "class_word": concept.class_word, "role": concept.role}
    counted = {"pictures": len(concept.pictures), "masks": masks, "sizes": sizes}
    return {"folder": str(path), **about, **counted, "digest": digest([concept])}
