"""`likeness measure`: how like a person pictures are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..console import note, say
from ..errors import LikenessError
from .apps import app
from .options import MODELS


@app.command("measure")
def measure_pictures(
    pictures: Annotated[
        list[Path], Argument(metavar="PICTURES...", help="Picture files, or folders of them.")
    ],
    references: Annotated[Path, Option("--references", "-r", help="Folder with the person's own pictures.")],
    faces: Annotated[
        str,
        Option(
            help="Who recognises faces: miniature, auraface, antelopev2, buffalo_l or any pack beside them."
        ),
    ] = "auraface",
    prompt: Annotated[
        str | None, Option(help="What they should show, class word instead of placeholder.")
    ] = None,
    strangers: Annotated[
        Path | None, Option(help="Folder with pictures of other people, to see what chance scores.")
    ] = None,
    style: Annotated[
        Path | None, Option(help="Folder with pictures of the style that was asked for.")
    ] = None,
    component: Annotated[
        Path | None,
        Option(help="A concept folder with masks: a part, such as hair, that the pictures should show."),
    ] = None,
    backend: Annotated[
        str, Option(help="With --component: what finds it in the pictures, as in `likeness masks`.")
    ] = "miniature",
    models: MODELS = None,
    packs: Annotated[
        Path | None,
        Option(help="Folder whose models/ holds face packs; by default ComfyUI's models/insightface."),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="As JSON: every number, picture by picture.")] = False,
) -> None:
    """Say how much any pictures look like a person, and whether they show what was asked for."""
    from ..evaluation.backends import judges_there, load_face_judge
    from ..evaluation.measure import in_numbers, measure, report

    files = [file for place in pictures for file in _picture_files(place)]
    drawn = _pixels(files)
    judge = load_face_judge(faces, packs)
    text, looks = judges_there(judge, models)
    person, others, styled = (
        [] if place is None else _pixels(_picture_files(place)) for place in (references, strangers, style)
    )
    prompts = [prompt] * len(drawn) if prompt else []
    part, marked = ((), []) if component is None else _parts(component, backend, models, files, drawn)
    measures = measure(
        drawn, person, judge, prompts=prompts, text=text, looks=looks, strangers=others, style=styled,
        component=part, component_masks=marked, names=_names(files),
    )  # fmt: skip
    if as_json:
        say(json.dumps(in_numbers(measures), indent=2, ensure_ascii=False))
    else:
        say(report(measures))


def _names(files: Sequence[Path]) -> list[str]:
    """The files' names, with their folders where two have one name."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _picture_files(place: Path) -> list[Path]:
    """The pictures of a folder, or a picture's own file."""
    from ..data.layout import left_out_of
    from ..data.pictures import pictures_in

    for remark in left_out_of(place) if place.is_dir() else ():
        note(remark)
    files = pictures_in(place) if place.is_dir() else [place]
    if not files:
        raise LikenessError(f"{place} holds no pictures; give a folder with some")
    return files


def _parts(
    folder: Path, backend: str, models: Path | None, files: Sequence[Path], drawn: list[Any]
) -> tuple[tuple[Any, ...], list[Any]]:
    """A component's own pictures, and where its class word is found in each of those drawn."""
    from ..data.concepts import load_concept
    from ..data.segment import Request, find_parts, load_segmenter, words_of

    concept = load_concept(folder)
    request = Request(words=words_of(concept.class_word))
    names = [str(file) for file in files]
    masks = [picture.mask for picture in concept.pictures if picture.mask is not None]
    return concept.pictures, find_parts(load_segmenter(backend, models), drawn, request, names, masks)


def _pixels(files: Sequence[Path]) -> list[Any]:
    from ..data.pictures import read_picture

    return [read_picture(file) for file in files]
