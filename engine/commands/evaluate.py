"""`likeness evaluate`: identity and prompt-following of a concept, against the base without it."""

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..console import meter, replacing, say
from ..files import write_atomically
from .apps import app


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
        with write_atomically(replacing(out)) as temporary:
            temporary.write_text(text + "\n", "utf-8")
    say(text)
