"""`likeness masks`: masks of concept pictures."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..console import meter, note, say
from ..files import unused
from .apps import app
from .options import DEVICE, MODELS


@app.command()
def masks(
    folder: Annotated[Path, Argument(help="A folder with pictures.")],
    subject: Annotated[
        str, Option(help="What to mark: a word, or several with commas; any of them is marked.")
    ] = "head",
    but_not: Annotated[
        str, Option("--but-not", help="What to leave out of it, such as hair; several with commas.")
    ] = "",
    backend: Annotated[
        str,
        Option(
            help="What finds it: miniature, selfie, face-oval, clipseg, grounded-sam2, sam2-points or "
            "face-parts."
        ),
    ] = "miniature",
    models: MODELS = None,
    device: DEVICE = "cpu",
    soft: Annotated[bool, Option("--soft", help="Keep degrees between marked and not.")] = False,
    level: Annotated[float, Option(help="Above it a pixel is marked; not with --soft.")] = 0.5,
    grow: Annotated[int, Option(help="Pixels to reach further out; negative shrinks.")] = 0,
    feather: Annotated[float, Option(help="Pixels over which the edge is blurred.")] = 0.0,
    fill_holes: Annotated[bool, Option("--fill-holes", help="Mark what the mask surrounds.")] = False,
    keep_largest: Annotated[bool, Option("--keep-largest", help="Drop all but the largest piece.")] = False,
    invert: Annotated[bool, Option("--invert", help="Mark everything else.")] = False,
    sheet: Annotated[
        Path | None, Option(help="Contact sheet of all masks; by default FOLDER-masks.jpg beside the folder.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace masks that are there.")] = False,
) -> None:
    """Write a mask beside every picture of a concept folder, and a sheet to look them over."""
    from ..data.masks import Refinement
    from ..data.segment import Request, load_segmenter, mask_folder, words_of

    refine = Refinement(
        level=None if soft else level,
        grow=grow,
        feather=feather,
        fill_holes=fill_holes,
        keep_largest=keep_largest,
        invert=invert,
    )
    request = Request(words=words_of(subject), but_not=words_of(but_not), refine=refine)
    place = folder.absolute()
    sheet = sheet or place.with_name(f"{place.name}-masks.jpg")
    sheet = sheet if overwrite else unused(sheet)
    segmenter = load_segmenter(backend, models, device)
    with meter("masks") as show:
        written = mask_folder(folder, segmenter, request, overwrite=overwrite, sheet=sheet, on_picture=show)
    for path in written:
        say(str(path))
    note(f"look at {sheet}")
