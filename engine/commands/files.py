"""`likeness info`, `export` and `import`: concept files, ours and those of other tools."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..console import say
from ..errors import LikenessError
from .apps import app

if TYPE_CHECKING:
    from ..artifact import Artifact


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


@app.command()
def export(
    file: Annotated[Path, Argument(help="A concept file.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the files.")] = Path("."),
    name: Annotated[
        str | None, Option(help="Name of the LoRA file; by default <the concept's>-stock.")
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
    for path in export_stock(Artifact.load(file), out, name or f"{file.stem}-stock", overwrite=overwrite):
        say(str(path))


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
    all_words: Annotated[
        bool, Option("--all-words", help="Of MagicTailor's token table, keep the changed ordinary words too.")
    ] = False,
) -> None:
    """Make a concept file out of other tools' files; nothing in them is executed."""

    if output.suffix != ".safetensors":
        raise LikenessError(f"the output {output} must end in .safetensors; rename it")
    say(str(_imported(files, token, class_word, picture, image_encoder, all_words).save(output)))


def _imported(
    files: Sequence[Path],
    token: str | None,
    class_word: str,
    picture: Path | None,
    tower: Path | None,
    all_words: bool,
) -> "Artifact":
    from ..artifact import import_file, merge
    from ..inference.id_adapter import import_released, is_released
    from ..inference.staged_embedding import import_reference, is_reference_mapper

    if len(files) == 1 and is_released(files[0]):
        return import_released(files[0])
    mappers = [file for file in files if file.suffix == ".pt" and is_reference_mapper(file)]
    if not mappers:
        options: dict[str, Any] = {"token": token, "class_word": class_word, "all_rows": all_words}
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
    return import_reference(
        mappers[0], others[0], token=token or "<v0>", class_word=class_word, image_features=features
    )
