"""`likeness export`: a concept file as other tools read it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..console import say
from .apps import app


@app.command()
def export(
    file: Annotated[Path, Argument(help="A concept file.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the files.")] = Path("."),
    name: Annotated[
        str | None,
        Option(help="Name of the files: NAME (LoRA), NAME-v0 (words); by default the concept file's."),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace files that are there.")] = False,
    numbered: Annotated[
        bool, Option("--numbered", help="One file as MagiCapture's and cloneofsimo's own code reads it.")
    ] = False,
) -> None:
    """Write a stock LoRA and embedding that ComfyUI's own nodes, A1111-style tools and diffusers load."""
    from ..artifact import Artifact, export_numbered, export_stock

    if numbered:
        path = out / f"{name or f'{file.stem}-numbered'}.safetensors"
        say(str(export_numbered(Artifact.load(file), path, overwrite=overwrite)))
        return
    artifact, person = Artifact.load(file), name or file.stem
    lora = name or f"{file.stem}-stock"
    for path in export_stock(artifact, out, lora, person=person, overwrite=overwrite):
        say(str(path))
