"""`likeness generate`: pictures with what was learned."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..config import finite
from ..console import meter, note, save_picture, say
from ..errors import LikenessError
from .apps import app
from .base_parts import BaseParts
from .concepts import check_placeholders, concepts_in_words, with_strength
from .options import grouped
from .outputs import Outputs

_LAST_SEED = 2**64 - 1

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..bases.base import BaseModel
    from ..identity.conditioning import IdentityConditioning
    from ..inference.restore_options import Finisher


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn: concepts, base, and how the noise is taken away."""

    concept: Annotated[
        list[str] | None,
        Option(help="Concept file, FILE:STRENGTH or FILE:STRENGTH:<anna>; repeat for several."),
    ] = None
    base: Annotated[str, Option(help="miniature, miniature-2, a checkpoint or a diffusers folder.")] = (
        "miniature"
    )
    out: Annotated[Path, Option("--out", "-o", help="A folder, or a .png, .jpg or .webp for one.")] = Path(
        "likeness-pictures"
    )
    negative: Annotated[str, Option(help="What should not be there.")] = ""
    count: Annotated[
        int, Option(min=1, max=10_000, help="Pictures per prompt, with seeds that follow on one another.")
    ] = 1
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace pictures that are there; else numbers go on behind them.")
    ] = False
    seed: Annotated[int, Option(min=0, max=2**64 - 1, help="Of the noise the first picture starts from.")] = 0
    steps: Annotated[int, Option(min=1, max=10_000, help="Sampling steps.")] = 25
    guidance: Annotated[
        float, Option(help="How strictly to follow the prompt (classifier-free guidance).")
    ] = 5.0
    sampler: Annotated[str, Option(help="euler or dpmpp_2m, as in ComfyUI.")] = "euler"
    schedule: Annotated[str, Option(help="simple or karras, as in ComfyUI, ddim, or own.")] = "simple"
    width: Annotated[int | None, Option(min=8, max=16_384, help="Pixels; by default the base's own.")] = None
    height: Annotated[int | None, Option(min=8, max=16_384, help="Pixels; by default the base's own.")] = None

    def __post_init__(self) -> None:
        finite({"--guidance": self.guidance})
        if self.seed + self.count - 1 > _LAST_SEED:
            raise LikenessError(f"{self.count} seeds from {self.seed} on go beyond {_LAST_SEED}; start lower")


@dataclass(frozen=True, kw_only=True)
class People:
    """Who is drawn from pictures of them, without learning."""

    identity: Annotated[
        list[str] | None,
        Option(
            help="One to three pictures of a person, FILE,FILE or a folder, with :WEIGHT if not 1; repeat."
        ),
    ] = None
    adapter: Annotated[
        Path | None, Option(help="Identity adapter for --identity; by default the Miniature's.")
    ] = None
    identity_region: Annotated[
        list[Path] | None, Option(help="A picture, white where that person should be; one per --identity.")
    ] = None
    identity_start: Annotated[float, Option(help="From where people show: 0 is pure noise.")] = 0.0
    identity_end: Annotated[float, Option(help="Up to where people show: 1 is the picture.")] = 1.0
    identity_layers: Annotated[
        str, Option(help="Factors by layer, such as up_blocks.1=1.3,mid_block=0.")
    ] = ""  # fmt: skip
    without_hair: Annotated[
        bool, Option("--without-hair", help="Leave a person's hair to the prompt.")
    ] = False  # fmt: skip
    image_encoder: Annotated[
        Path | None, Option(help="For photographs: the folder of the adapter's CLIP image tower.")
    ] = None
    faces: Annotated[str, Option(help="For photographs: auraface, antelopev2 or buffalo_l.")] = "auraface"
    models: Annotated[Path | None, Option(help="For photographs: ComfyUI's models/likeness.")] = None

    def shown(self) -> "list[IdentityConditioning]":
        """Everybody, as the adapter knows them."""
        if not self.identity:
            return []
        from ..identity.pictures import IdentityOptions, people_of

        look = IdentityOptions(
            adapter=self.adapter, image_encoder=self.image_encoder, faces=self.faces, models=self.models,
            without_hair=self.without_hair, start=self.identity_start, end=self.identity_end,
            layers=self.identity_layers, regions=self.identity_region or (),
        )  # fmt: skip
        return people_of(self.identity, look)


@dataclass(frozen=True, kw_only=True)
class Words:
    """Which words are kept in regions of the picture."""

    refocus: Annotated[
        list[str] | None,
        Option(
            help="Keep a word in a region: <v0>=left, right, a box 0,0,0.5,1, mask.png or face; "
            "then ;mode=soft;scope=word;strength=0.8;redraw=0.6;tries=3;like=FOLDER …; repeat."
        ),
    ] = None
    refocus_restart: Annotated[
        bool, Option(help="Draw again from the first step once regions are found.")
    ] = True
    attention_maps: Annotated[
        Path | None, Option(help="Folder for pictures of where the refocused words looked.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What becomes of the faces afterwards."""

    restore: Annotated[
        str | None,
        Option(help="Finish faces: redraw, or a restorer's file; then ;denoise=0.5;gate=reject …"),
    ] = None
    references: Annotated[
        Path | None, Option(help="With --restore: folder of pictures of who must stay recognisable.")
    ] = None


@app.command()
@grouped
def generate(
    prompts: Annotated[
        list[str], Argument(metavar="PROMPT...", help="What to draw; use the concept's placeholder.")
    ],
    drawing: Drawing,
    parts: BaseParts,
    people: People,
    words: Words,
    finish: Finish,
) -> int:
    """Draw pictures; the same seed gives the same picture as ComfyUI's KSampler."""
    artifacts = [with_strength(text) for text in drawing.concept or []]
    prompts = check_placeholders(prompts, [artifact for artifact, _ in artifacts])
    requests = [(prompt, drawing.seed + number) for prompt in prompts for number in range(drawing.count)]
    outputs = Outputs.at(drawing.out, len(requests), drawing.overwrite)
    from ..bases.base import load_base
    from ..inference.restore_options import finisher, parse_restore_options

    wish = None if finish.restore is None else parse_restore_options(finish.restore)
    base = load_base(parts.spec(drawing.base))
    notes: list[str] = []
    pictures: Iterable[Any] = _drawn(base, requests, artifacts, drawing, people, words, notes)
    for line in notes:
        note(line)
    if wish is not None:
        finished = finisher(
            wish, base, prompt=prompts[0], negative=drawing.negative, artifacts=artifacts,
            references=finish.references, models=people.models,
        )  # fmt: skip
        pictures = _finished(pictures, [prompt for prompt, _ in requests], finished)
    drawn_with = concepts_in_words(drawing.concept or []) | _drawn_with(drawing, words, finish)
    for index, (pixels, (prompt, number)) in enumerate(zip(pictures, requests)):
        about = {"prompt": prompt, "seed": str(number), **drawn_with}
        say(str(save_picture(outputs.numbered(index, f"seed{number}"), pixels, about)))
    return 0


def _drawn(
    base: "BaseModel", requests: Sequence[tuple[str, int]], artifacts: "Sequence[tuple[Artifact, float]]",
    drawing: Drawing, people: People, words: Words, notes: list[str],
) -> Iterable[Any]:  # fmt: skip
    """The pictures (H, W, 3) uint8 of all prompts and seeds in `requests`; `notes` gets remarks."""
    from ..inference.detail import drawn_in_regions
    from ..inference.refocus_options import refocusing_of

    shown = people.shown()
    prompts, seeds = [prompt for prompt, _ in requests], [number for _, number in requests]
    refocusing = refocusing_of(
        words.refocus or [], base, restart=words.refocus_restart, maps=words.attention_maps
    )
    with meter("drawing") as show:
        return drawn_in_regions(
            base,
            prompts,
            negative=drawing.negative,
            artifacts=artifacts,
            people=shown,
            refocus=refocusing,
            steps=drawing.steps,
            guidance=drawing.guidance,
            seed=seeds,
            sampler=drawing.sampler,
            schedule=drawing.schedule,
            width=drawing.width,
            height=drawing.height,
            on_step=lambda done, total: show(done, total, ""),
            say=notes.append,
        )


def _drawn_with(drawing: Drawing, words: Words, finish: Finish) -> dict[str, str]:
    """What a picture's own file says of how it was made, beside its prompt and seed."""
    about = {
        "negative": drawing.negative,
        "steps": str(drawing.steps),
        "guidance": str(drawing.guidance),
        "base": drawing.base,
        "sampler": drawing.sampler,
        "schedule": drawing.schedule,
    }
    about |= {"refocus": " ".join(words.refocus)} if words.refocus else {}
    return about | ({"restore": finish.restore} if finish.restore else {})


def _finished(pictures: Iterable[Any], prompts: Sequence[str], finish: "Finisher") -> list[Any]:
    """The pictures with their faces restored, and on stderr what became of each face."""
    made = []
    with meter("restoring") as show:
        for number, (pixels, prompt) in enumerate(zip(pictures, prompts), start=1):
            done, restored = finish(pixels, prompt, name=f"picture {number}")
            made.append((done, restored.report))
            show(number, len(prompts), "")
    for line in [*(report for _, report in made), *finish.remarks()]:
        note(line)
    return [done for done, _ in made]
