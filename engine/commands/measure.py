"""`likeness measure`: how like a person pictures are, or those that a file of any trainer draws."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..console import meter, note, say
from ..errors import LikenessError
from .apps import app
from .base_parts import BaseParts
from .options import MODELS, grouped

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..data.concepts import Concept
    from ..evaluation.measure import Measures

_FILES = (".safetensors", ".pt", ".bin", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class FileDrawing:
    """For a file: what is drawn with it and without it. None: not said."""

    base: Annotated[str | None, Option(help="For a file: miniature, a checkpoint or a diffusers folder.")] = (
        None
    )
    hold_out: Annotated[
        str | None,
        Option(
            metavar="FOLDER|N",
            help="For a file: pictures it did not learn from, which identity is measured by; or how many of "
            "--references `train --hold-out` left out.",
        ),
    ] = None
    class_word: Annotated[
        str | None, Option(help="For a file: woman, dog …; by default as the file or its pictures say.")
    ] = None
    trigger: Annotated[
        str | None,
        Option(help="For a file: what calls it in prompts; by default its placeholder or the class word."),
    ] = None
    strength: Annotated[float | None, Option(help="For a file: of its LoRA; by default 1.")] = None
    count: Annotated[
        int | None, Option(min=1, max=1000, help="For a file: pictures per prompt; by default 2.")
    ] = None
    steps: Annotated[
        int | None, Option(min=1, max=10_000, help="For a file: sampling steps; by default 25.")
    ] = None
    guidance: Annotated[float | None, Option(help="For a file: by default 5.")] = None
    seed: Annotated[
        int | None, Option(min=0, max=2**32, help="For a file: of the first picture; by default 0.")
    ] = None

    @property
    def typed(self) -> list[str]:
        """What was said."""
        return [entry.name for entry in fields(self) if getattr(self, entry.name) is not None]

    def numbers(self) -> dict[str, Any]:
        """Those that were said."""
        names = ("strength", "count", "steps", "guidance", "seed")
        return {name: getattr(self, name) for name in names if name in self.typed}


@app.command("measure")
@grouped
def measure_pictures(
    pictures: Annotated[
        list[Path],
        Argument(
            metavar="PICTURES...",
            help="Picture files, or folders of them; or one LoRA, embedding or concept file of any trainer, "
            "which then draws.",
        ),
    ],
    references: Annotated[Path, Option("--references", "-r", help="Folder with the person's own pictures.")],
    faces: Annotated[
        str,
        Option(
            help="Who recognises faces: miniature, auraface, antelopev2, buffalo_l or any pack beside them."
        ),
    ] = "auraface",
    prompt: Annotated[
        str | None,
        Option(help="What they should show, class word instead of placeholder; of a file, {} for it."),
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
    *,
    drawing: FileDrawing,
    parts: BaseParts,
) -> int:
    """Say how much any pictures look like a person, and whether they show what was asked for; or, of a LoRA
    or embedding, what it draws against the base without it."""
    if len(pictures) == 1 and pictures[0].suffix.lower() in _FILES and not pictures[0].is_dir():
        _without("a file is measured by what it draws", strangers=strangers, style=style, component=component)
        _measure_file(pictures[0], references, faces, prompt, models, packs, as_json, drawing, parts)
        return 0
    typed = {name: name for name in drawing.typed}
    _without("pictures are measured as they are", **typed, **{k: v for k, v in vars(parts).items() if v})
    from ..evaluation.measure import in_numbers, report

    measures = _measured(
        pictures, references, faces, prompt, strangers, style, component, backend, models, packs
    )
    say(json.dumps(in_numbers(measures), indent=2, ensure_ascii=False) if as_json else report(measures))
    return 0


def _measured(
    pictures: Sequence[Path], references: Path, faces: str, prompt: str | None, strangers: Path | None,
    style: Path | None, component: Path | None, backend: str, models: Path | None, packs: Path | None,
) -> "Measures":  # fmt: skip
    """What `measure_pictures` is told, measured."""
    from ..evaluation.backends import judges_there, load_face_judge
    from ..evaluation.measure import measure

    files = [file for place in pictures for file in _picture_files(place)]
    drawn = _pixels(files)
    judge = load_face_judge(faces, packs)
    text, looks = judges_there(judge, models)
    person, others, styled = (
        [] if place is None else _pixels(_picture_files(place)) for place in (references, strangers, style)
    )
    part, marked = ((), []) if component is None else _parts(component, backend, models, files, drawn)
    return measure(
        drawn, person, judge, prompts=[prompt] * len(drawn) if prompt else [], text=text, looks=looks,
        strangers=others, style=styled, component=part, component_masks=marked, names=_names(files),
    )  # fmt: skip


def _without(why: str, **options: Any) -> None:
    """Refuses an option that would be ignored."""
    for name, value in options.items():
        if value is not None:
            raise LikenessError(f"{why}; leave --{name.replace('_', '-')} away")


def _measure_file(
    file: Path, references: Path, faces: str, prompt: str | None, models: Path | None, packs: Path | None,
    as_json: bool, drawing: FileDrawing, parts: BaseParts,
) -> None:  # fmt: skip
    """Draws with the file and without it, and says a row for each score."""
    from ..artifact import import_file
    from ..bases.base import load_base
    from ..bases.families import FAMILIES
    from ..config import with_gap
    from ..evaluation.backends import judges_there, load_face_judge
    from ..evaluation.judged_file import Asked, Judging, as_plain, as_table, judged_against_base
    from ..evaluation.stopping import MINIATURE_PROMPTS, PROMPTS

    artifact = import_file(file)
    own_world = FAMILIES[artifact.base_family].own_world
    if drawing.base is None and not own_world:
        raise LikenessError(f"{file} draws on {FAMILIES[artifact.base_family].name}; give one with --base")
    prompts = [prompt] if prompt else list(MINIATURE_PROMPTS if own_world else PROMPTS)
    with_gap("--prompt", tuple(prompts))
    concept = _held_out(references, drawing.hold_out, artifact)
    class_word = drawing.class_word or next((token.class_word for token in artifact.tokens), "")
    class_word = class_word or concept.class_word
    subject = drawing.trigger or next((token.token for token in artifact.tokens), f"a {class_word}")
    judge = load_face_judge("miniature" if own_world else faces, packs)
    text, looks = judges_there(judge, models)
    asked = Asked(prompts=prompts, subject=subject, class_word=class_word, **drawing.numbers())
    base = load_base(parts.spec(drawing.base or artifact.base_family))
    with meter("drawing") as show:
        rows = judged_against_base(
            artifact, base, concept, asked,
            Judging(faces=judge, text=text, look=looks[-1] if looks else None),
            lambda done, total: show(done, total, ""),
        )  # fmt: skip
    if not concept.held:
        note("identity is to pictures that the file may have learned from; give others with --hold-out")
    if subject == asked.plain:
        note(f"every picture is of 'a {class_word}', so leakage cannot be told; give its --trigger")
    count = len(prompts) * asked.count
    if as_json:
        report = {"file": str(file), "judge": judge.name, "pictures": count, "subject": subject,
                "prompts": prompts, "rows": as_plain(rows)}  # fmt: skip
        say(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        say(f"{count} pictures each, judge: {judge.name}; 95 % intervals over pictures\n{as_table(rows)}")


def _held_out(references: Path, held: str | None, artifact: "Artifact") -> "Concept":
    """The pictures of --references, and apart those that the file did not learn from."""
    from dataclasses import replace

    from ..data.concepts import load_concept

    concept = load_concept(references)
    if held is None:
        return concept
    if held.isdecimal():
        return concept.held_out(int(held), artifact.seed)
    return replace(concept, held=load_concept(Path(held)).pictures)


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
