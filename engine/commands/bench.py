"""`likeness bench …`: what the project claims, measured."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ..config.specs import MINIATURES
from ..console import note, replacing, say
from ..files import check_room, write_atomically
from .apps import bench_app

if TYPE_CHECKING:
    pass


@bench_app.command("miniature")
def bench_miniature(
    out: Annotated[Path | None, Option("--out", "-o", help="Write the card there as JSON.")] = None,
    people: Annotated[int, Option(min=2, max=100, help="Held-out people for the judges.")] = 50,
    drawn: Annotated[int, Option(min=1, help="Captions drawn to measure the network.")] = 96,
    learnability: Annotated[
        bool, Option("--learnability", help="Learn ten people with each baseline too; takes hours.")
    ] = False,
    sheets: Annotated[
        Path | None, Option(help="Draw the README's picture sheets into this folder instead.")
    ] = None,
    keep: Annotated[Path, Option(help="Folder of what was learned, to go on from.")] = Path(
        "likeness-miniature"
    ),
    base: Annotated[str, Option(help=f"Which: {' or '.join(MINIATURES)}.")] = MINIATURES[0],
) -> int:
    """Compute a Miniature's card again from its weights: every network's score on held-out people."""
    from ..bench.run import draw_sheets, measure_miniature

    if sheets is not None:
        draw_sheets(sheets, keep, base)
        return 0
    card = measure_miniature(people, drawn, learnability, keep, base)
    if out is not None:
        with write_atomically(replacing(out)) as temporary:
            temporary.write_text(json.dumps(card, indent=1) + "\n")
    say(json.dumps(card, indent=1))
    return 0


@bench_app.command("speed")
def bench_speed(
    out: Annotated[Path, Option("--out", "-o", help="The JSON list to write.")] = Path("speed.json"),
    arch: Annotated[
        str,
        Option(help="miniature, or of real size, random: sd15, sd2, sdxl, klein4b, z-image or krea2."),
    ] = "miniature",
    method: Annotated[
        list[str] | None, Option(help="Only this method, or drawing; may be repeated. By default all.")
    ] = None,
    steps: Annotated[int, Option(min=1, help="Steps that are timed, per phase.")] = 10,
    precision: Annotated[str, Option(help="fp32, bf16 or fp16.")] = "fp32",
    resolution: Annotated[int | None, Option(help="Pixels a side; by default the base's own.")] = None,
) -> int:
    """Time each method's step against the network passes it cannot avoid, and diffusers' plain loops."""
    check_room(out)
    from ..bench.speed import measure_speed, timed_methods

    rows = measure_speed(arch, method or timed_methods(), steps, precision, resolution, note)
    with write_atomically(replacing(out)) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")
    say(str(out))
    return 0


@bench_app.command("memory")
def bench_memory(
    out: Annotated[Path | None, Option("--out", "-o", help="Write the rows there as JSON.")] = None,
    base: Annotated[
        list[str] | None, Option(help="sd15, sdxl, klein4b …; may be repeated. By default all there are.")
    ] = None,
    method: Annotated[
        list[str] | None, Option(help="Only this method; may be repeated. By default all of them.")
    ] = None,
    resolution: Annotated[
        list[int] | None, Option(help="Pixels a side; may be repeated. By default 512, 768 and 1024.")
    ] = None,
    fp8: Annotated[bool, Option("--fp8", help="Transformers as files in fp8 have them, too.")] = False,
    publish: Annotated[
        Path | None, Option(help="A checkout of this project: put the table on its page on bases.")
    ] = None,
) -> int:
    """Estimate what learning needs on each base, and what fits cards of 8, 12, 16 and 24 GB, and how."""
    from ..bench import memory

    rows = memory.measure_memory(base or [], method or [], resolution or memory.LEARNED_SIDES, note, fp8)
    if out is not None:
        with write_atomically(replacing(out)) as temporary:
            temporary.write_text(json.dumps(memory.as_json(rows), indent=1) + "\n")
    if publish is not None:
        note(str(memory.publish(rows, publish)))
    say(memory.fits_table(rows))
    return 0


@bench_app.command("claims")
def bench_claims(
    out: Annotated[
        Path,
        Option(
            "--out", "-o", help="Folder for claims.json, claims.md, report.html and all they are made of."
        ),
    ] = Path("likeness-claims"),
    method: Annotated[
        list[str] | None, Option(help="Only this experiment; may be repeated. By default all of them.")
    ] = None,
    people: Annotated[int, Option(min=0, help="How many held-out people; 0: 8, or 2 with --quick.")] = 0,
    seeds: Annotated[int, Option(min=1, help="Trainings per person and method.")] = 1,
    seed: Annotated[int, Option(min=0, help="Of the first training.")] = 0,
    quick: Annotated[
        bool,
        Option(
            "--quick",
            help="Headline comparisons and fewer pictures: what, by the pace so far, ends within 15 minutes.",
        ),
    ] = False,
    minutes: Annotated[
        float,
        Option(min=0, help="Begin nothing new after so long, with --quick: end by then; 0: no limit, 15."),
    ] = 0,
    tuning: Annotated[
        bool, Option("--tuning", help="On the people that settings are chosen on; not for reporting.")
    ] = False,
    only_table: Annotated[
        bool, Option("--only-table", help="Measure nothing: write table and report of what is there.")
    ] = False,
    publish: Annotated[
        Path | None,
        Option(help="A checkout of this project: put the table on its page, keep the numbers."),
    ] = None,
) -> int:
    """Measure the papers' claims on people no network has seen; the same command goes on where it was."""
    check_room(out / "claims.json")
    from ..bench.run import measure_claims

    rows = measure_claims(
        out, method or [], people, quick, minutes=minutes or None, only_table=only_table, publish=publish,
        seeds=seeds, first_seed=seed, tuning=tuning,
    )  # fmt: skip
    say(rows)
    note(f"look at {out / 'report.html'}")
    return 0


@bench_app.command("sweep")
def bench_sweep(
    method: Annotated[str, Argument(help="Whose settings to choose.")],
    values: Annotated[
        list[str],
        Option("--set", help="A setting and its values, such as rank=4,8; repeat for combinations."),
    ],
    out: Annotated[Path, Option("--out", "-o", help="Folder for sweep.json and report.html.")] = Path(
        "likeness-sweep"
    ),
    people: Annotated[int, Option(min=1, help="How many tuning people.")] = 3,
    seeds: Annotated[int, Option(min=1, help="Trainings per person and combination.")] = 1,
    pictures: Annotated[int, Option(min=0, max=4, help="Learn from so many of each person's; 0: all.")] = 0,
    quick: Annotated[bool, Option("--quick", help="One seed per test prompt instead of two.")] = False,
    minutes: Annotated[float, Option(min=0, help="Begin nothing new after so long; 0: no limit.")] = 0,
) -> int:
    """Try combinations of settings on the people that settings are chosen on, and record what they gave."""
    check_room(out / "sweep.json")
    from ..bench.run import measure_sweep

    record = measure_sweep(
        out, method, values, quick, pictures or None, people=people, seeds=seeds, minutes=minutes or None
    )
    say(json.dumps(record, indent=1))
    return 0
