"""`likeness info`: what concept files and concept folders hold."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..console import say
from .apps import app

if TYPE_CHECKING:
    from ..data.concepts import Concept

UNSAID = "not said"  # the class word of a folder that does not say it


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
    from ..config import ConceptSpec
    from ..data.concepts import assets_in, digest, load_concept, says_class_word

    several = assets_in(path)
    found = [load_concept(ConceptSpec(folder=str(path), token=f"<v{n}>", asset=n)) for n in several]
    if not found:
        found = [load_concept(path, class_word=None if says_class_word(path) else UNSAID)]
    facts = [_concept_facts(concept) for concept in found]
    remarks = {"remarks": said} if (said := [remark for one in found for remark in one.remarks]) else {}
    if len(facts) == 1:
        return {"folder": str(path), **facts[0], **remarks, "digest": digest(found)}
    return {"folder": str(path), "concepts": facts, **remarks, "digest": digest(found)}


def _concept_facts(concept: "Concept") -> dict[str, Any]:
    sizes = sorted({f"{picture.size[1]}x{picture.size[0]}" for picture in concept.pictures})
    masks = sum(picture.mask is not None for picture in concept.pictures)
    about = {"token": concept.token, "class_word": concept.class_word, "role": concept.role}
    return {**about, "pictures": len(concept.pictures), "masks": masks, "sizes": sizes}
