"""`likeness interval`: where in the noise a concept is decided."""

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..console import meter, replacing, save_picture, say
from .apps import app
from .base_parts import BaseParts
from .options import grouped


@app.command()
@grouped
def interval(
    folder: Annotated[Path, Argument(help="A concept folder with masks.")],
    parts: BaseParts,
    base: Annotated[
        str, Option(help="miniature, miniature-2, a checkpoint or a diffusers folder.")
    ] = "miniature",
    class_word: Annotated[str | None, Option(help="By default as concept.json says.")] = None,
    share: Annotated[
        float, Option(min=0.0, max=1.0, help="Keep what is above this share of the peak.")
    ] = 0.8,
    points: Annotated[int, Option(min=2, max=500, help="Timesteps to look at.")] = 20,
    seed: Annotated[int, Option(min=0, help="Of the noise.")] = 0,
    out: Annotated[Path | None, Option("--out", "-o", help="Draw the curve to this PNG.")] = None,
) -> int:
    """Find the timesteps at which a base sees the subject, for PersonaMagic's --interval."""
    from ..bases.base import load_base
    from ..data.concepts import load_concept
    from ..evaluation.loss_plot import plot_losses
    from ..training.interval import measure_overlap

    concept = load_concept(folder, class_word=class_word)
    with meter("looking") as show:
        seen = measure_overlap(
            load_base(parts.spec(base)), concept, points=points, share=share, seed=seed,
            check=lambda done, total: show(done, total, ""),
        )  # fmt: skip
    if out is not None:
        curve = list(zip(seen.timesteps, seen.overlap))
        save_picture(replacing(out), plot_losses({f"overlap of '{concept.class_word}' and mask": curve}), {})
    say(json.dumps({"interval": list(seen.interval), "timesteps": seen.timesteps,
                    "overlap": [round(value, 4) for value in seen.overlap],
                    "layers": {name: round(value, 4) for name, value in seen.layers.items()}}))  # fmt: skip
    return 0
