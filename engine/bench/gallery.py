"""The Miniature's picture sheets: what its base draws, its styles, and people learned from four pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluation.metrics import similarity_to_references
from ..evaluation.people import DEMO_TOKEN, all_shots
from ..evaluation.sheet import SheetRow, draw_sheet
from ..files import make_folder, write_atomically
from ..miniature import world
from .claims.bench import Bench

GALLERY_PEOPLE = world.TUNING_SEEDS[:4]
COLUMNS = 8
TILE, _QUALITY = 128, 68  # pixels a side as they were drawn; of the JPEG files
METHOD = "dreambooth-lora"
STYLE_SUBJECTS = (
    "a man with red spiky hair and a full beard, wearing a yellow shirt, in a forest",
    "a woman with pink long hair, wearing a crown and a green suit, on a beach",
    "a smiling woman with blonde bob hair, wearing sunglasses and a red hoodie, in snowy mountains",
    "a sad man with black curly hair, wearing a blue hoodie, in space",
    "a surprised woman with brown hair in a bun, wearing round glasses and a white shirt, in a city at night",
    "a bald man with a goatee, wearing a top hat and a black suit, in a city at night",
    "a woman with blue short hair, wearing a beanie and a purple hoodie, in snowy mountains",
    "a man with grey long hair and a mustache, wearing a red suit, on a beach",
)


def write_sheets(
    folder: Path, bench: Bench, on_sheet: Callable[[Path], None] = lambda path: None
) -> list[Path]:
    """Writes base.jpg, styles.jpg and learned.jpg; people learned before are in the bench's folder."""
    sheets = {"base": base_sheet, "styles": styles_sheet, "learned": learned_sheet}
    paths = []
    for name, make in sheets.items():
        path = make_folder(folder) / f"{name}.jpg"
        with write_atomically(path) as temporary:
            make(bench).save(temporary, format="JPEG", quality=_QUALITY, optimize=True, progressive=True)
        on_sheet(path)
        paths.append(path)
    return paths


def base_sheet(bench: Bench) -> Image.Image:
    """Captions of people that no network has seen, as the base and as the renderer draw them."""
    rows = []
    for first in (0, COLUMNS):
        captions, real = [], []
        for number in range(first, first + COLUMNS):
            identity = world.sample_identity(world.TUNING_SEEDS[20 + number])
            context = world.sample_context(world.TUNING_SEEDS[20 + number])
            captions.append(world.caption(identity, context))
            real.append(world.render(identity, context).pixels)
        drawn = bench.draw(captions, range(COLUMNS))
        rows.append(
            SheetRow(label="drawn by the base", pictures=list(drawn), accent=True, rule_above=bool(first))
        )
        rows.append(SheetRow(label="the renderer", detail="for the same captions", pictures=real))
    return draw_sheet(
        "The base",
        "25 steps, guidance 5; captions say everything but the shapes of faces.",
        rows,
        tile=TILE,
    )


def styles_sheet(bench: Bench) -> Image.Image:
    """The same subjects and seeds in all four styles."""
    rows = []
    for style, words in world.STYLE_WORDS.items():
        prompts = [f"{words[0]} {subject}" for subject in STYLE_SUBJECTS]
        drawn = bench.draw(prompts, range(COLUMNS))
        rows.append(SheetRow(label=style, detail=f"“{words[0]} …”", pictures=list(drawn)))
    return draw_sheet(
        "Styles", "Columns share their subject and seed; rows differ in one word.", rows, STYLE_SUBJECTS, TILE
    )


def learned_sheet(bench: Bench, people: Sequence[int] = GALLERY_PEOPLE) -> Image.Image:
    """People learned from four pictures each, in scenes, clothes and styles they were never seen in.

    These are the trainings and pictures of `learnability`, which costs nothing where that was measured.
    """
    rows, shots = [], all_shots(DEMO_TOKEN, [1])
    for number, person in enumerate(people):
        concept = bench.person(person)
        artifact = bench.learn(METHOD, {}, [concept], 0)
        drawn = bench.draw_shots(shots, [(artifact, 1.0)])
        examples = np.stack([picture.pixels for picture in concept.pictures])
        cosines = similarity_to_references(bench.judges.embed(drawn), bench.judges.embed(examples))
        notes = ["learned from", "and two more", *(f"{cosine:.2f}" for cosine in cosines)]
        rows.append(SheetRow(label=f"person {number + 1}", pictures=[*examples[:2], *drawn], notes=notes))
    captions = ["", "", *(shot.prompt for shot in shots)]
    preset = bench.base.traits.preset
    subtitle = f"DreamBooth-LoRA, preset {preset}; numbers: the recogniser's cosine to the four pictures."
    return draw_sheet("Learned from four pictures", subtitle, rows, captions, TILE)
