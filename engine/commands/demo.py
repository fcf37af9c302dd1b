"""`likeness demo`: the main job on the embedded Miniature."""

import json
from pathlib import Path
from typing import Annotated

from typer import Option

from ..config import METHODS
from ..config.specs import MINIATURES
from ..console import ConsoleObserver, note, say
from ..files import check_room, unused
from .apps import INTERRUPTED, app


@app.command()
def demo(
    method: Annotated[
        str,
        Option(
            help=f"One of {', '.join(METHODS)}; what needs more than one person's pictures says so at once."
        ),
    ] = "dreambooth-lora",
    seed: Annotated[int, Option(min=0, help="Which person, and everything random.")] = 0,
    out: Annotated[
        Path, Option("--out", "-o", help="Folder for the report, the sheet and the concept file.")
    ] = Path("likeness-demo"),
    rounds: Annotated[int, Option(min=1, help="Seeds per test prompt; more are more certain.")] = 2,
    base: Annotated[str, Option(help=f"{' or '.join(MINIATURES)}: SD 1.x or FLUX.2 in small.")] = MINIATURES[
        0
    ],
) -> int:
    """Learn a person nobody has seen from four pictures and draw them in new scenes; no download, no GPU."""
    from ..config import one_of

    one_of("method", method, METHODS)
    one_of("base", base, MINIATURES)
    if (out / "report.json").exists():  # an earlier demo, which stays
        out = unused(out)
    check_room(out / "report.json")
    from ..demo import run_demo

    observer = ConsoleObserver(f"learning ({method})")
    report = run_demo(method, seed, out, observer, rounds, base)
    say(json.dumps(report, indent=2))
    note(f"look at {out / 'sheet.png'}")
    return INTERRUPTED if observer.interrupt.pressed else 0
