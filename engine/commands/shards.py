"""`likeness shards`: people packed for training at scale."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..console import meter, say
from ..errors import LikenessError
from .apps import app
from .options import DEVICE, MODELS


@app.command()
def shards(
    out: Annotated[Path, Argument(help="Folder for the shards.")],
    pictures: Annotated[
        Path | None, Option(help="A folder of photographs, each with its caption in <name>.txt beside it.")
    ] = None,
    reference: Annotated[Path | None, Option(help="A folder in MasterWeaver's own layout.")] = None,
    miniature: Annotated[int, Option(min=0, help="How many people of the Miniature's world to draw.")] = 0,
    first: Annotated[int, Option(min=0, help="With --miniature: the first person's number.")] = 0,
    each: Annotated[int, Option(min=1, help="With --miniature: portraits of each person.")] = 1,
    twins: Annotated[int, Option(min=0, help="With --miniature: edited faces of each portrait.")] = 3,
    faces: Annotated[
        str,
        Option(
            help="With --pictures, the pack that finds faces: auraface, antelopev2 or buffalo_l; miniature "
            "for pictures that it drew."
        ),
    ] = "auraface",
    models: MODELS = None,
    device: DEVICE = "cpu",
    size: Annotated[int, Option(min=1, help="Samples of each shard.")] = 512,
) -> None:
    """Write shards of pictures with their faces, which `train masterweaver --shards` reads."""
    from ..data.shard_sources import photographs, portraits, reference_folder, rendered
    from ..data.shards import write_shards

    if (pictures is not None) + (reference is not None) + (miniature > 0) != 1:
        raise LikenessError("give one source of people: --pictures, --reference or --miniature")
    if pictures is not None and faces == "miniature":
        samples = portraits(pictures)
    elif pictures is not None:
        from ..data.faces import load_faces
        from ..data.helpers import default_models
        from ..data.segmenters.face_parts import load

        folder = models or default_models()
        finder, parser = load_faces(faces, folder.with_name("insightface"), device), load(folder, device)
        samples = photographs(pictures, finder, parser.labels)
    elif reference is not None:
        samples = reference_folder(reference)
    else:
        samples = rendered(range(first, first + miniature), each, twins)
    with meter("shards") as show:
        written = write_shards(out, samples, size, lambda done: show(done, miniature * each or done, ""))
    for path in written:
        say(str(path))
