"""`likeness grid`: LoRAs and embeddings of any trainer, drawn side by side and judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ..config import finite
from ..console import meter, replacing, save_picture, say
from ..errors import LikenessError
from ..files import check_room
from .apps import app
from .base_parts import BaseParts
from .options import MODELS, grouped

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..bases.base import BaseModel
    from ..data.concepts import Concept
    from ..evaluation.drawn_grid import Drawer


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What the grid goes over, beside the files."""

    prompt: Annotated[
        list[str] | None,
        Option(help="What to draw, {} for what calls each file; repeat for a row each. By default four."),
    ] = None
    strengths: Annotated[str, Option(help="Of LoRAs, with commas between; embeddings have none.")] = (
        "0.6,0.8,1"
    )
    seeds: Annotated[int, Option(min=1, max=64, help="Columns: pictures of each.")] = 2
    seed: Annotated[int, Option(min=0, max=2**32, help="Of the first column.")] = 0
    without: Annotated[bool, Option("--without", help="A row of the base alone too, by the class word.")] = (
        False
    )
    trigger: Annotated[
        list[str] | None,
        Option(help="What calls files in prompts: one for all, or one for each; by default placeholders."),
    ] = None
    class_word: Annotated[
        str | None, Option(help="woman, dog …; by default as the files or the references say.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class EachPicture:
    """How each picture is drawn."""

    base: Annotated[str | None, Option(help="miniature, a checkpoint or a diffusers folder.")] = None
    steps: Annotated[int, Option(min=1, max=10_000, help="Sampling steps.")] = 25
    guidance: Annotated[float, Option(help="How strictly to follow the prompt.")] = 5.0
    negative: Annotated[str, Option(help="What should not be there.")] = ""

    def __post_init__(self) -> None:
        finite({"--guidance": self.guidance})


@app.command("grid")
@grouped
def grid_of_files(
    files: Annotated[
        list[Path],
        Argument(metavar="FILE...", help="LoRA, embedding or concept files of any trainer, to compare."),
    ],
    references: Annotated[Path, Option("--references", "-r", help="Folder with the person's own pictures.")],
    axes: Axes,
    manner: EachPicture,
    parts: BaseParts,
    hold_out: Annotated[
        Path | None, Option(help="Folder of pictures they did not learn from, to measure identity by.")
    ] = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder for grid.html and grid.png.")] = Path(
        "likeness-grid"
    ),
    faces: Annotated[str, Option(help="Who recognises faces, as in `likeness measure`.")] = "auraface",
    models: MODELS = None,
    packs: Annotated[
        Path | None,
        Option(help="Folder whose models/ holds face packs; by default ComfyUI's models/insightface."),
    ] = None,
) -> int:
    """Draw files of any trainer side by side by prompt, strength and seed, with scores and a report."""
    from ..artifact import grid_card, import_file
    from ..evaluation.backends import judges_there, load_face_judge
    from ..evaluation.drawn_grid import DrawnAs, drawn_rows, judged_grid
    from ..evaluation.grid import sheet, write_grid_report
    from ..evaluation.measure import likeness_in_words

    artifacts = [import_file(file) for file in files]
    concept = _concept(references, hold_out)
    class_word = axes.class_word or _class_word_of(artifacts) or concept.class_word
    plan = _plan(files, artifacts, axes, manner, class_word)
    check_room(out / "grid.html")
    judge = load_face_judge("miniature" if plan.own_world else faces, packs)
    base = _load(parts, manner.base or artifacts[0].base_family)
    how = DrawnAs(steps=manner.steps, guidance=manner.guidance, negative=manner.negative)
    with meter("drawing") as show:
        pictures = drawn_rows(
            base, plan.rows, plan.prompts, plan.seeds, how, lambda done, total: show(done, total, "")
        )
    cards = [f"{file.name}: {grid_card(artifact)}" for file, artifact in zip(files, artifacts)]
    grid = judged_grid(
        pictures, plan.rows, plan.prompts, plan.seeds, concept, class_word,
        (judge, *judges_there(judge, models)), cards,
    )  # fmt: skip
    say(likeness_in_words(grid.measures))
    say(str(write_grid_report(replacing(out / "grid.html"), grid, out.name)))
    say(str(save_picture(replacing(out / "grid.png"), sheet(grid))))
    return 0


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What will be drawn, known to be possible."""

    rows: "Sequence[tuple[Drawer, float | None]]"
    prompts: Sequence[str]
    seeds: Sequence[int]
    own_world: bool


def _plan(
    files: Sequence[Path], artifacts: "list[Artifact]", axes: Axes, manner: EachPicture, class_word: str
) -> _Plan:
    from ..bases.families import FAMILIES
    from ..config import with_gap
    from ..evaluation.drawn_grid import BASE_ALONE, Drawer, drawers_of, rows_of
    from ..evaluation.grid import check_size, parse_numbers
    from ..evaluation.stopping import MINIATURE_PROMPTS, PROMPTS

    family = FAMILIES[artifacts[0].base_family]
    drawers = drawers_of([file.stem for file in files], artifacts, axes.trigger or [], class_word)
    if axes.without:
        drawers.append(Drawer(name=BASE_ALONE, artifact=None, subject=f"a {class_word}"))
    if manner.base is None and not family.own_world:
        raise LikenessError(f"{files[0]} draws on {family.name}; give one with --base")
    prompts = axes.prompt or list(MINIATURE_PROMPTS if family.own_world else PROMPTS)
    with_gap("--prompt", tuple(prompts))
    rows = rows_of(drawers, parse_numbers(axes.strengths))
    seeds = range(axes.seed, axes.seed + axes.seeds)
    check_size(len(prompts), len(rows), len(seeds))
    return _Plan(rows=rows, prompts=prompts, seeds=seeds, own_world=family.own_world)


def _load(parts: BaseParts, base: str) -> "BaseModel":
    from ..bases.base import load_base

    return load_base(parts.spec(base))


def _concept(references: Path, held: Path | None) -> "Concept":
    """The references, and apart those that nobody learned from."""
    from ..data.concepts import load_concept

    concept = load_concept(references)
    if held is None:
        return concept
    return replace(concept, held=load_concept(held, class_word=concept.class_word).pictures)


def _class_word_of(artifacts: "list[Artifact]") -> str:
    """What the files call the subject's class, where one says so."""
    words = (token.class_word for artifact in artifacts for token in artifact.tokens)
    return next((word for word in words if word), "")
