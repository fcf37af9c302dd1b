"""`likeness import`: other tools' files as a concept file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..console import say
from ..errors import LikenessError
from ..files import check_name
from .apps import app

if TYPE_CHECKING:
    from ..artifact import Artifact


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        Argument(
            metavar="FILE...",
            help="A LoRA, embeddings, or both: they become one. Or PersonaMagic's mapper-*.pt and "
            "learned_embeds-*.bin, or MagicTailor's LoRA and token_embedding.pth, or MagiCapture's "
            "final_lora.safetensors, or MasterWeaver's adapter_*.pt.",
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", help="The concept file to write; ends in .safetensors.")
    ],
    token: Annotated[
        str | None, Option(help="Placeholder of an embedding; by default its file's name.")
    ] = None,
    class_word: Annotated[str, Option(help="What it shows: woman, dog, …")] = "",
    picture: Annotated[
        Path | None, Option(help="For a mapper: the picture to draw after; needs --image-encoder.")
    ] = None,
    image_encoder: Annotated[Path | None, Option(help="For --picture: a CLIP ViT-B/32's folder.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an output that is there.")] = False,
    all_words: Annotated[
        bool, Option("--all-words", help="Of MagicTailor's token table, keep the changed ordinary words too.")
    ] = False,
    family: Annotated[
        str | None,
        Option(help="Of a LoRA that fits several kinds of base: sd1, sd2, sdxl or miniature."),
    ] = None,
) -> None:
    """Make a concept file out of other tools' files; nothing in them is executed."""

    if output.suffix != ".safetensors":
        raise LikenessError(f"the output {output} must end in .safetensors; rename it")
    check_name(output.stem)
    if output.exists() and not overwrite:
        raise LikenessError(f"{output} is there already; give --overwrite to replace it, or another --output")
    options = {"token": token, "class_word": class_word, "all_rows": all_words, "family": family}
    say(str(_imported(files, options, picture, image_encoder).save(output)))


def _imported(
    files: Sequence[Path], options: Mapping[str, Any], picture: Path | None, tower: Path | None
) -> "Artifact":
    from ..artifact import import_file, merge
    from ..identity.adapter import import_released, is_released
    from ..staged.embedding import import_reference, is_reference_mapper

    if len(files) == 1 and is_released(files[0]):
        return import_released(files[0])
    mappers = [file for file in files if file.suffix == ".pt" and is_reference_mapper(file)]
    if not mappers:
        return merge([import_file(file, **options) for file in files])
    others = [file for file in files if file not in mappers]
    if len(mappers) != 1 or len(others) != 1:
        raise LikenessError(
            "a mapper of PersonaMagic comes with one learned_embeds-*.bin; give exactly these two"
        )
    features = None
    if picture is not None:
        if tower is None:
            raise LikenessError("a picture is looked at by a CLIP image tower; give --image-encoder FOLDER")
        from ..training.methods.personamagic import features_of

        features = features_of(picture, tower)
    token, word = options["token"] or "<v0>", options["class_word"]
    return import_reference(mappers[0], others[0], token=token, class_word=word, image_features=features)
