"""The report of a run: one HTML file that holds everything it shows."""

import html
from collections.abc import Sequence
from pathlib import Path

from ...files import write_atomically
from .bench import Bench, Experiment
from .table import Measured, Plan, Row


def write_report(
    path: Path,
    experiments: Sequence[Experiment],
    plan: Plan,
    bench: Bench,
    measured: Sequence[Measured],
    rows: Sequence[Row],
) -> Path:
    """Writes the table of claims."""
    lines = []
    for row in rows:
        if row.found is not None:
            cells = [*row.plain().values()]
            lines.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    with write_atomically(path) as temporary:
        temporary.write_text(f"<!doctype html><meta charset=utf-8><table>{''.join(lines)}</table>\n", "utf-8")
    return path
