"""`likeness captions`: a text file beside every picture, by a model in a folder."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..console import meter, note, say
from ..errors import LikenessError
from .apps import app
from .options import DEVICE


@app.command()
def captions(
    folder: Annotated[Path, Argument(help="A folder with pictures.")],
    captioner: Annotated[
        Path,
        Option(
            metavar="FOLDER",
            help="A folder of an image-text-to-text model in transformers' layout: BLIP, LLaVA, Qwen-VL …",
        ),
    ],
    prompt: Annotated[
        str | None, Option(help="What the model is asked, by default for clothes, pose, place and light.")
    ] = None,
    longest: Annotated[int, Option(min=1, max=1000, help="Tokens of a caption at most.")] = 60,
    device: DEVICE = "cpu",
    overwrite: Annotated[bool, Option("--overwrite", help="Write captions that are there anew.")] = False,
) -> None:
    """Write a caption beside every picture that has none; read them over before you learn from them."""
    from ..data.captioner import caption_folder, load_captioner

    if not folder.is_dir():
        raise LikenessError(f"no pictures in {folder}; it is no folder that is there")
    model = load_captioner(captioner, prompt, longest, device)
    with meter("captions") as show:
        written, silent = caption_folder(folder, model, overwrite=overwrite, on_picture=show)
    for path in written:
        say(str(path))
    if silent:
        note(f"of {', '.join(silent)} the model said nothing; they are learned with templates")
    note(f"{len(written)} captions are written; read them over" if written else "every picture has a caption")
