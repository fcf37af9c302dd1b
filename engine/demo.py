"""The demonstration: a person nobody has seen, learned from four pictures and drawn where they never were."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifact import Artifact
from .bases.base import BaseModel, load_base
from .config import BaseSpec, ConceptSpec, Job, one_of
from .config.specs import MINIATURES
from .console import meter
from .data.concepts import Concept, write_concept
from .errors import LikenessError
from .evaluation.people import (
    DEMO_TOKEN,
    Scores,
    Shot,
    all_shots,
    concept_of,
    draw,
    judge,
    render_person,
    summary,
)
from .evaluation.sheet import SheetRow, draw_sheet
from .files import make_folder, write_atomically
from .miniature import world
from .miniature.judges import load_judges
from .training.launch import train
from .training.methods import method_class

if TYPE_CHECKING:
    from .console import ConsoleObserver

_SHOWN = len(world.TEST_CONTEXTS)  # columns of the sheet: the test prompts with the first seed


@dataclass(frozen=True)
class Drawn:
    """Pictures (N, H, W, 3) uint8 and how they were judged."""

    pictures: np.ndarray
    scores: Scores


def run_demo(
    method: str,
    seed: int,
    out: Path,
    observer: "ConsoleObserver",
    rounds: int = 2,
    kind: str = MINIATURES[0],
) -> dict[str, Any]:
    """Learns, draws, measures; writes `report.json`, `sheet.png`, the concept folder and the concept file.

    `kind`: on which of `MINIATURES`. Every test prompt is drawn and judged with `rounds` seeds, before and
    after learning.
    """
    started = time.monotonic()
    one_of("base", kind, MINIATURES)
    make_folder(out)
    person = world.REPORTING_SEEDS[seed % len(world.REPORTING_SEEDS)]
    concept = concept_of(person)
    references = np.stack([picture.pixels for picture in concept.pictures])
    folder = write_concept(out / "concept", concept)
    job = _job(method, folder, out, seed, kind)
    base = load_base(job.base)
    _check_alone(job, base, concept)
    judges = load_judges()

    seeds = range(1, rounds + 1)
    before_shots, after_shots = all_shots(f"a {concept.class_word}", seeds), all_shots(DEMO_TOKEN, seeds)
    before = _drawn(base, before_shots, None, references, judges, "before")
    learning = time.monotonic()
    with observer.watching():
        path = train(job, observer, base)
    learned = time.monotonic()
    artifact = Artifact.load(path)
    after = _drawn(base, after_shots, artifact, references, judges, "after")
    real = render_person(person, rounds)
    truth = Drawn(real, judge(real, references, after_shots, judges))

    report = {
        "method": method,
        "base": kind,
        "seconds": round(time.monotonic() - started, 1),
        **summary(before.scores, after.scores),
        "identity_reference": round(float(truth.scores.identity.mean()), 4),
        "prompt_accuracy_reference": round(float(truth.scores.prompt.mean()), 4),
        "artifact": str(path.resolve()),
        "seed": seed,
        "person": person,
        "class_word": concept.class_word,
        "steps": artifact.steps,
        "stopped": observer.interrupt.pressed,
        "seconds_learning": round(learned - learning, 1),
        "pictures_judged": len(after_shots),
    }
    _write_sheet(out / "sheet.png", report, references, after_shots, before, after, truth)
    with write_atomically(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return report


def _check_alone(job: Job, base: BaseModel, concept: Concept) -> None:
    """Raises before anything is drawn where the method needs more than one person, such as a style."""
    try:
        method_class(job.method)(job, base, [concept]).close()
    except LikenessError as error:
        raise LikenessError(f"the demo learns one person alone, and {error}") from error


def _job(method: str, folder: Path, out: Path, seed: int, kind: str) -> Job:
    return Job(
        method=method,
        base=BaseSpec(kind=kind),
        concepts=(ConceptSpec(folder=str(folder), token=DEMO_TOKEN),),
        output=str(out / "person.safetensors"),
        seed=seed,
    )


def _drawn(
    base, shots: list[Shot], artifact: Artifact | None, references: np.ndarray, judges, what: str
) -> Drawn:
    with meter(f"drawing {what}") as show:
        pictures = draw(base, shots, artifact, lambda done, total: show(done, total, ""))
    return Drawn(pictures, judge(pictures, references, shots, judges))


def _write_sheet(
    path: Path,
    report: dict[str, Any],
    references: np.ndarray,
    shots: list[Shot],
    before: Drawn,
    after: Drawn,
    truth: Drawn,
) -> None:
    word = report["class_word"]
    learned = f"same prompts and seeds, with {DEMO_TOKEN}"
    rows = [
        SheetRow(label="learned from", detail="four pictures, nothing else", pictures=list(references)),
        SheetRow(label="before", detail=f"the base model's “a {word}”", rule_above=True, **_shown(before)),
        SheetRow(label="after", detail=learned, accent=True, **_shown(after)),
        SheetRow(label="the real person", detail="as the renderer draws them there", **_shown(truth)),
    ]
    title = f"Likeness: a {word} learned from four pictures in {report['seconds_learning']:.0f} seconds"
    subtitle = (
        f"{report['method']} on {report['base']}.  Under each picture: the face recogniser's cosine to the "
        f"four pictures; on average {report['identity_before']:.2f} before, "
        f"{report['identity_after']:.2f} after, "
        f"{report['identity_reference']:.2f} for the real person.  "
        f"Prompts obeyed: {report['prompt_accuracy_base']:.0%} before, {report['prompt_accuracy']:.0%} after."
    )
    sheet = draw_sheet(title, subtitle, rows, [shot.prompt for shot in shots[:_SHOWN]])
    with write_atomically(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _shown(drawn: Drawn) -> dict[str, Any]:
    notes = [f"{value:.2f}" for value in drawn.scores.identity[:_SHOWN]]
    return {"pictures": list(drawn.pictures[:_SHOWN]), "notes": notes}
