"""`likeness restore`: faces of finished pictures, redrawn or restored."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..console import note, save_picture, say
from .apps import app
from .base_parts import BaseParts
from .concepts import check_placeholders, concepts_in_words, with_strength
from .options import DEVICE, MODELS, grouped
from .outputs import Outputs


@app.command()
@grouped
def restore(
    pictures: Annotated[list[Path], Argument(metavar="PICTURE...", help="Pictures with faces in them.")],
    *,
    using: Annotated[
        str,
        Option(
            "--with",
            help="redraw, or a restorer's file; then settings: ;faces=auraface;gate=reject;enlarge=FILE.",
        ),
    ] = "redraw",
    prompt: Annotated[str, Option(help="For redraw: what the faces are, with the placeholder.")] = "",
    concept: Annotated[
        list[str] | None,
        Option(help="For redraw: concept file, FILE:STRENGTH or FILE:STRENGTH:<anna>; repeat."),
    ] = None,
    base: Annotated[str, Option(help="For redraw: the base that draws.")] = "miniature",
    parts: BaseParts,
    negative: Annotated[str, Option(help="For redraw: what should not be there.")] = "",
    references: Annotated[Path | None, Option(help="Folder of pictures of the person to keep.")] = None,
    mask: Annotated[
        Path | None, Option(help="With ;faces=mask: a picture, white on the face; nothing else changes.")
    ] = None,
    models: MODELS = None,
    device: DEVICE = "cpu",
    out: Annotated[Path, Option("--out", "-o", help="A folder, or a .png, .jpg or .webp for one.")] = Path(
        "likeness-restored"
    ),
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace pictures that are there; else new ones get a number.")
    ] = False,
) -> int:
    """Restore faces, or draw them again with a concept, and take back what would cost the likeness."""
    from ..data.pictures import read_mask, read_picture
    from ..inference.restore_options import finisher, parse_restore_options

    wish = parse_restore_options(using)
    outputs = Outputs.at(out, len(pictures), overwrite)
    loaded = None
    artifacts = [with_strength(text) for text in concept or []]
    if wish.redraws:
        from ..bases.base import load_base

        check_placeholders([prompt], [artifact for artifact, _ in artifacts])
        loaded = load_base(parts.spec(base))
    finish = finisher(
        wish, loaded, prompt=prompt, negative=negative, artifacts=artifacts, references=references,
        models=models, device=device,
    )  # fmt: skip
    drawn_with = concepts_in_words(concept or [])
    for path in pictures:
        pixels = read_picture(path)
        drawn = None if mask is None else read_mask(mask, (pixels.shape[0], pixels.shape[1]))
        done, restored = finish(pixels, drawn=drawn, name=str(path))
        note(restored.report)
        about = {"restored with": using, "prompt": prompt, **drawn_with, "report": restored.report}
        say(str(save_picture(outputs.named(path.stem), done, about)))
    for line in finish.remarks():
        note(line)
    return 0
