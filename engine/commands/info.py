"""`likeness info`: what concept files, concept folders and pictures of ours hold."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..console import PICTURE_FORMATS, say, say_lines
from ..errors import LikenessError
from .apps import app

if TYPE_CHECKING:
    from ..data.concepts import Concept

UNSAID = "not said"  # the class word of a folder that does not say it


@app.command()
def info(
    paths: Annotated[
        list[Path],
        Argument(metavar="FILE...", help="Concept files, concept folders, or pictures that were drawn."),
    ],
    as_json: Annotated[bool, Option("--json", help="As JSON, one object per line.")] = False,
    thumbnail: Annotated[
        Path | None, Option(help="Write a concept file's picture of itself here, as .jpg.")
    ] = None,
) -> None:
    """Show what concept files, concept folders and drawn pictures hold."""
    if thumbnail is not None and len(paths) != 1:
        raise LikenessError(f"--thumbnail is for one concept file, and there are {len(paths)}; give one")
    for path in paths:
        if path.is_dir():
            facts = _folder_facts(path)
            lines = [(name.replace("_", " "), _plain(value)) for name, value in facts.items()]
        elif path.suffix.lower() in PICTURE_FORMATS:
            facts = _picture_facts(path)
            lines = list(facts.items())
        else:
            facts, lines = _file_facts(path, thumbnail)
        if as_json:
            say(json.dumps(facts))
        else:
            say_lines(lines)
            say()


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _file_facts(path: Path, thumbnail: Path | None) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a concept file says, for machines and for people."""
    from dataclasses import asdict

    from ..artifact import full_card, read_metadata, settings_lines

    facts = read_metadata(path)
    picture = facts.pop("thumbnail")
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
    lines = [("file", str(path)), *full_card(facts), ("date", f"{date}, of the file")]
    lines += [("thumbnail", said)] if (said := _thumbnail(path, picture, thumbnail)) else []
    ran = settings_lines(facts["settings"])
    lines += [("settings", ""), *((f"  {name}", text) for name, text in ran)] if ran else []
    record = {"file": str(path), **facts, "tokens": [asdict(token) for token in facts["tokens"]]}
    return {**record, "date": date, "thumbnail_bytes": len(picture)}, lines


def _thumbnail(path: Path, picture: bytes, target: Path | None) -> str:
    """Where a picture of it is: written where it is wanted, in the file, or beside it as other tools do."""
    from ..files import write_atomically

    if target is not None:
        if not picture:
            raise LikenessError(f"{path} holds no picture of itself; learn it with --preview-every")
        if target.suffix.lower() not in (".jpg", ".jpeg"):
            raise LikenessError(f"{target} must end in .jpg, as the picture is one; rename it")
        if target.exists():
            raise LikenessError(f"{target} is there already; give another --thumbnail")
        with write_atomically(target) as temporary:
            temporary.write_bytes(picture)
        return str(target)
    if picture:
        return f"{len(picture):,} bytes in the file; --thumbnail NAME.jpg writes them"
    beside = [
        path.with_name(f"{path.stem}{middle}{end}") for middle in ("", ".preview") for end in PICTURE_FORMATS
    ]
    return str(next((place for place in beside if place.is_file()), ""))


def _picture_facts(path: Path) -> dict[str, str]:
    """What a picture says of how it was drawn; of ComfyUI's own, how many nodes its graph had."""
    from ..artifact import shown
    from ..data.pictures import texts_in

    facts = {"file": str(path)}
    for name, text in texts_in(path).items():
        graph = _graph(text) if name in ("prompt", "workflow") else 0
        facts[shown(name)] = f"ComfyUI's, {graph} nodes; drag the picture into it" if graph else shown(text)
    if len(facts) == 1:
        raise LikenessError(f"{path} says nothing of how it was made; only pictures as they were written do")
    return facts


def _graph(text: str) -> int:
    """How many nodes a text that ComfyUI wrote has; 0 for other texts."""
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return 0
    nodes: Sequence[Any] = graph.get("nodes", graph) if isinstance(graph, dict) else ()
    return len(nodes) if isinstance(nodes, dict | list) else 0


def _folder_facts(path: Path) -> dict[str, Any]:
    from ..config import ConceptSpec
    from ..data.concepts import assets_in, digest, load_concept, says_class_word

    several = assets_in(path)
    concepts = [load_concept(ConceptSpec(folder=str(path), token=f"<v{n}>", asset=n)) for n in several]
    if not concepts:
        concepts = [load_concept(path, class_word=None if says_class_word(path) else UNSAID)]
    facts = [_concept_facts(concept) for concept in concepts]
    remarks = {"remarks": said} if (said := [remark for one in concepts for remark in one.remarks]) else {}
    if len(facts) == 1:
        return {"folder": str(path), **facts[0], **remarks, "digest": digest(concepts)}
    return {"folder": str(path), "concepts": facts, **remarks, "digest": digest(concepts)}


def _concept_facts(concept: "Concept") -> dict[str, Any]:
    sizes = sorted({f"{picture.size[1]}x{picture.size[0]}" for picture in concept.pictures})
    masks = sum(picture.mask is not None for picture in concept.pictures)
    about = {"token": concept.token, "class_word": concept.class_word, "role": concept.role}
    return {**about, "pictures": len(concept.pictures), "masks": masks, "sizes": sizes}
