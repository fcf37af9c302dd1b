"""`likeness masks`, `shards`, `interval`, `evaluate`, `measure` and `doctor`: before and after learning."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..console import meter, note, save_picture, say
from ..errors import LikenessError
from ..files import write_atomically
from .apps import USER_MISTAKE, app
from .base_parts import BaseParts
from .options import grouped


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
        str, Option(help="What finds it: miniature, clipseg, grounded-sam2, sam2-points or face-parts.")
    ] = "miniature",
    models: Annotated[
        Path | None, Option(help="Folder of helper models; by default ComfyUI's models/likeness.")
    ] = None,
    device: Annotated[str, Option(help="Where networks run: cpu or cuda.")] = "cpu",
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
    segmenter = load_segmenter(backend, models, device)
    with meter("masks") as show:
        written = mask_folder(folder, segmenter, request, overwrite=overwrite, sheet=sheet, on_picture=show)
    for path in written:
        say(str(path))
    note(f"look at {sheet}")


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
    models: Annotated[
        Path | None, Option(help="Folder of helper models; by default ComfyUI's models/likeness.")
    ] = None,
    device: Annotated[str, Option(help="Where networks run: cpu or cuda.")] = "cpu",
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


@app.command()
@grouped
def interval(
    folder: Annotated[Path, Argument(help="A concept folder with masks.")],
    parts: BaseParts,
    base: Annotated[str, Option(help="miniature, a checkpoint or a diffusers folder.")] = "miniature",
    class_word: Annotated[str | None, Option(help="By default as concept.json says.")] = None,
    share: Annotated[
        float, Option(min=0.0, max=1.0, help="Keep what is above this share of the peak.")
    ] = 0.8,
    points: Annotated[int, Option(min=2, max=500, help="Timesteps to look at.")] = 20,
    seed: Annotated[int, Option(min=0, help="Of the noise.")] = 0,
    out: Annotated[Path | None, Option("--out", "-o", help="Draw the curve to this PNG.")] = None,
) -> int:
    """Find the timesteps at which a base sees the subject, for PersonaMagic's --interval."""
    from ..data.concepts import load_concept
    from ..evaluation.loss_plot import plot_losses
    from ..training.base_model import load_base
    from ..training.interval import measure_overlap

    concept = load_concept(folder, class_word=class_word)
    with meter("looking") as show:
        found = measure_overlap(
            load_base(parts.spec(base)), concept, points=points, share=share, seed=seed,
            check=lambda done, total: show(done, total, ""),
        )  # fmt: skip
    if out is not None:
        curve = list(zip(found.timesteps, found.overlap))
        save_picture(out, plot_losses({f"overlap of '{concept.class_word}' and mask": curve}), {})
    say(json.dumps({"interval": list(found.interval), "timesteps": found.timesteps,
                    "overlap": [round(value, 4) for value in found.overlap]}))  # fmt: skip
    return 0


@app.command()
def evaluate(
    file: Annotated[Path, Argument(help="A concept file learned on the Miniature.")],
    pictures: Annotated[Path, Option("--pictures", "-p", help="The concept folder it was learned from.")],
    rounds: Annotated[int, Option(min=1, help="Seeds per test prompt; more are more certain.")] = 2,
    out: Annotated[Path | None, Option("--out", "-o", help="Write the report to this JSON file too.")] = None,
) -> None:
    """Measure identity and prompt-following of a concept against the base without it."""
    from ..artifact import Artifact
    from ..data.concepts import load_concept

    artifact, concept = Artifact.load(file), load_concept(pictures)
    from ..evaluation.people import evaluate_person

    with meter("drawing") as show:
        report = evaluate_person(artifact, concept, rounds, lambda done, total: show(done, total, ""))
    text = json.dumps({"file": str(file), **report}, indent=2)
    if out is not None:
        with write_atomically(out) as temporary:
            temporary.write_text(text + "\n", "utf-8")
    say(text)


@app.command("measure")
def measure_pictures(
    pictures: Annotated[
        list[Path], Argument(metavar="PICTURES...", help="Picture files, or folders of them.")
    ],
    references: Annotated[Path, Option("--references", "-r", help="Folder with the person's own pictures.")],
    faces: Annotated[
        str, Option(help="Who recognises faces: miniature, auraface, antelopev2 or buffalo_l.")
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
    models: Annotated[
        Path | None,
        Option(help="Folder of helper models (clip, dinov2); by default ComfyUI's models/likeness."),
    ] = None,
    packs: Annotated[
        Path | None,
        Option(help="Folder whose models/ holds face packs; by default ComfyUI's models/insightface."),
    ] = None,
) -> None:
    """Say how much any pictures look like a person, and whether they show what was asked for."""
    from ..evaluation.backends import judges_there, load_face_judge
    from ..evaluation.measure import in_words, measure

    files = [file for place in pictures for file in _picture_files(place)]
    drawn = _pixels(files)
    judge = load_face_judge(faces, packs)
    text, looks = judges_there(judge, models)
    known, others, styled = (
        [] if place is None else _pixels(_picture_files(place)) for place in (references, strangers, style)
    )
    prompts = [prompt] * len(drawn) if prompt else []
    part, marked = ((), []) if component is None else _parts(component, backend, models, files, drawn)
    found = measure(
        drawn, known, judge, prompts=prompts, text=text, looks=looks, strangers=others, style=styled,
        component=part, component_masks=marked,
    )  # fmt: skip
    say(in_words(found))


def _picture_files(place: Path) -> list[Path]:
    """The pictures of a folder, or a picture's own file."""
    from ..data.pictures import pictures_in

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
    known = [picture.mask for picture in concept.pictures if picture.mask is not None]
    return concept.pictures, find_parts(load_segmenter(backend, models), drawn, request, names, known)


def _pixels(files: Sequence[Path]) -> list[Any]:
    from ..data.pictures import read_picture

    return [read_picture(file) for file in files]


@app.command()
def doctor(
    data: Annotated[
        Path | None, Option(help="Look at the pictures of this concept folder instead, with advice on each.")
    ] = None,
    faces: Annotated[
        str | None, Option(help="With --data: find faces with this pack: auraface, antelopev2 or buffalo_l.")
    ] = None,
    models: Annotated[Path | None, Option(help="With --faces: folder whose models/ holds the pack.")] = None,
) -> int:
    """Show versions, devices, onnxruntime's state and folders, and what is wrong with them."""
    if data is not None:
        return _doctor_of_pictures(data, faces, models)
    from ..doctor import examine

    findings = examine()
    for finding in findings:
        say(f"{finding.mark}  {finding.what:<22}  {finding.state}")
    return USER_MISTAKE if any(finding.mark == "✗" for finding in findings) else 0


def _doctor_of_pictures(folder: Path, pack: str | None, root: Path | None) -> int:
    """A line of numbers per picture with what to do about it; the exit status stays 0: advice is no error."""
    from ..data.concepts import load_concept
    from ..data.quality import advice_on_all, examine_pictures

    pictures = load_concept(folder, class_word="subject").pictures
    sides: list[float | None] | None = None
    if pack is not None:
        from ..data.faces import load_faces, provider_line

        finder = load_faces(pack, root)
        say(f"·  {provider_line(pack, finder.provider, 'cpu')}")
        found = [finder(picture.pixels) for picture in pictures]
        sides = [faces[0].side if faces else None for faces in found]
    reports = examine_pictures(pictures, sides)
    for report in reports:
        mark = "·" if report.advice else "✓"
        face = "" if report.face is None else f"  {'face' if pack else 'mask'} {report.face:.0f} px"
        masked = "" if report.coverage is None else f"  marked {report.coverage:.0%}"
        size = f"{report.size[1]} x {report.size[0]}"
        say(f"{mark}  {report.name:<22}  {size}  sharpness {report.sharpness:.0f}{face}{masked}")
        for advice in report.advice:
            say(f"     {advice}")
    for advice in advice_on_all(reports):
        say(f"·  {advice}")
    return 0
