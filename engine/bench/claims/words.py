"""What a table of claims says in sentences: for the terminal, the report, and as Markdown."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...evaluation.page import CELL_MARKS
from .statistics import ENOUGH_PEOPLE, Comparison
from .table import Plan, Row

Record = Mapping[str, Any]  # a table as plain data: what `record_of` gives and JSON keeps


def sentences(rows: Sequence[Row], plan: Plan) -> list[str]:
    """How many claims hold, on how many people, how wide the intervals are, and what is missing why."""
    measured = [row for row in rows if row.found is not None]
    kind = "tuning people (not for reporting)" if plan.tuning else "people that no network has seen"
    holding, contradicted = (sum(row.holds is verdict for row in measured) for verdict in (True, False))
    trainings = "one training" if plan.seeds == 1 else f"{plan.seeds} trainings"
    lines = [
        f"{holding} of {len(measured)} measured claims hold on {kind}, {contradicted} are contradicted, "
        f"{len(measured) - holding - contradicted} undecided: {_people(measured)}, {trainings} each."
    ]
    if plan.quick:
        lines.append("This was a quick run: headline arms only, one seed per prompt.")
    return lines + _widths(measured) + _missing(rows, plan)


def _people(measured: Sequence[Row]) -> str:
    """How many claims were measured on how many people."""
    counts = Counter(row.found.people for row in measured if row.found is not None)
    parts = [f"{_times(claims, 'claim')} on {_times(people, 'person', 'people')}"
             for people, claims in sorted(counts.items(), reverse=True)]  # fmt: skip
    return ", ".join(parts) or "none"


def _widths(measured: Sequence[Row]) -> list[str]:
    wide: dict[str, list[float]] = {}
    for row in measured:
        assert row.found is not None
        wide.setdefault(row.claim.metric, []).append(row.found.high - row.found.low)
    if not wide:
        return []
    every = [width for widths in wide.values() for width in widths]
    often = sorted(wide, key=lambda metric: -len(wide[metric]))[:3]
    lines = [
        f"The 95 % intervals are {np.median(every):.2f} wide in the median and {max(every):.2f} at most ("
        + ", ".join(f"{metric} {np.median(wide[metric]):.2f}" for metric in often)
        + ")."
    ]
    few = sum(row.found.people < ENOUGH_PEOPLE for row in measured if row.found is not None)
    if few:
        lines.append(
            f"{few} of them come from fewer than {ENOUGH_PEOPLE} people: these only resample pictures, and "
            "say nothing about other people."
        )
    return lines


def _missing(rows: Sequence[Row], plan: Plan) -> list[str]:
    missing = [row for row in rows if row.found is None]
    if not missing:
        return []
    reasons = Counter(row.missing for row in missing)
    why = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
    if len(reasons) == 1:
        why = missing[0].missing
    onward = " The same command goes on with what did not fit." if plan.within or plan.minutes else ""
    return [f"{_times(len(missing), 'claim')} not measured ({why}).{onward}"]


def _times(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


# ----------------------------------------------------------------------------------------- for the terminal


def as_text(rows: Sequence[Row], plan: Plan) -> str:
    """The table by experiment, and the sentences under it."""
    lines: list[str] = []
    for name in dict.fromkeys(row.experiment for row in rows):
        of_experiment = [row for row in rows if row.experiment == name]
        lines += ["", f"{name} ({of_experiment[0].paper})", *map(_line, of_experiment)]
    return "\n".join([*lines, "", *sentences(rows, plan)]).lstrip("\n")


def _line(row: Row) -> str:
    claim, result = row.claim, row.found
    if result is None:
        return f"·  {claim.claim}: not measured, {row.missing}"
    return (
        f"{CELL_MARKS[row.holds]}  {claim.claim}: {claim.metric} {result.value:.3f} against "
        f"{result.other:.3f}, difference {result.difference:+.3f} [{result.low:+.3f}, {result.high:+.3f}], "
        f"{_times(result.people, 'person', 'people')}"
    )


# -------------------------------------------------------------------------------------- as data and Markdown

_COLUMNS = ("holds", "claim", "method", "against", "metric", "value", "other", "difference", "95 % interval",
           "people")  # fmt: skip


def record_of(rows: Sequence[Row], plan: Plan, command: str, instrument: str) -> dict[str, Any]:
    """The measured rows with their experiments and people, what is missing, and how it came about."""
    return {
        "command": command,
        "miniature": instrument,
        "seeds": plan.seeds,
        "words": sentences(rows, plan),
        "rows": [
            {"experiment": row.experiment, **row.plain(), "people": row.found.people,
             "values": _values(row.found)}
            for row in rows if row.found is not None
        ],
        "missing": [
            {"experiment": row.experiment, "claim": row.claim.claim, "why": row.missing}
            for row in rows if row.found is None
        ],
    }  # fmt: skip


def _values(compared: Comparison) -> dict[str, list[list[float]]]:
    return {str(person): [[round(number, 5) for number in pair] for pair in cells]
            for person, cells in compared.values.items()}  # fmt: skip


def as_markdown(record: Record) -> str:
    """The record for people: one table per experiment, a mark where a claim holds or is contradicted."""
    parts = [f"`{record['command']}`, Miniature `{record['miniature']}`. " + " ".join(record["words"])]
    if bare := sum("values" not in row for row in record["rows"]):
        parts.append(
            f"Of {_times(bare, 'claim')} only the means were kept: their intervals and verdicts are those of "
            "an earlier method, a bootstrap over people widened for few as Student's t is."
        )
    for name in dict.fromkeys(row["experiment"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["experiment"] == name]
        head = [f"**`{name}`** ({rows[0]['paper']})", "", _cells(_COLUMNS), _cells(["---"] * len(_COLUMNS))]
        parts.append("\n".join([*head, *(_cells(_markdown_row(row)) for row in rows)]))
    if record["missing"]:
        parts.append("Not measured: " + "; ".join(_left_out(record)) + ".")
    return "\n\n".join(parts) + "\n"


def _left_out(record: Record) -> Iterator[str]:
    """The claims without a row, by experiment and reason; only counted where an experiment has no row."""
    there = {row["experiment"] for row in record["rows"]}
    groups: dict[tuple[str, str], list[str]] = {}
    for row in record["missing"]:
        groups.setdefault((row["experiment"], row["why"]), []).append(row["claim"])
    for (name, why), claims in groups.items():
        which = ", ".join(f"“{claim}”" for claim in claims) if name in there else _times(len(claims), "claim")
        yield f"`{name}`, {which} ({why})"


def _markdown_row(row: Mapping[str, Any]) -> list[str]:
    numbers = [f"{row['value']:.3f}", f"{row['other']:.3f}", f"{row['difference']:+.3f}"]
    interval = f"{row['low']:+.3f} … {row['high']:+.3f}"
    words = [row[key] for key in ("claim", "method", "against", "metric")]
    return [CELL_MARKS[row["holds"]], *words, *numbers, interval, str(row["people"])]


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
