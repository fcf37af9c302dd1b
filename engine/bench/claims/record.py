"""The table of the full run that this project shows: kept as numbers, and in docs/claims.md between marks."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import LikenessError
from ...files import write_atomically
from .statistics import ENOUGH_PEOPLE, compared_means
from .words import as_markdown

RECORD = Path("engine/bench/record/claims.json")  # in a checkout
PAGE = Path("docs/claims.md")
BEGIN, END = "<!-- claims: `likeness bench claims --publish` writes from here -->", "<!-- to here -->"


def check_checkout(checkout: Path) -> str:
    """The page of claims of the checkout; LikenessError where there is none with a place for the table."""
    page = checkout / PAGE
    if not page.is_file():
        raise LikenessError(f"there is no {PAGE} in {checkout}; name the project's checkout")
    text = page.read_text("utf-8")
    with_table(text, "")
    return text


def published(out: Path, checkout: Path) -> None:
    """Keeps the record of the run in `out` in the checkout, and shows it on the checkout's page of claims."""
    kept = (out / "record.json").read_text("utf-8")
    record = read_claims_record(kept, out / "record.json")
    if not record["rows"]:
        raise LikenessError(f"nothing was measured in {out}; name the folder of a run")
    text = with_table(check_checkout(checkout), as_markdown(record))
    for file, content in ((checkout / RECORD, kept), (checkout / PAGE, text)):
        with write_atomically(file) as temporary:
            temporary.write_text(content, "utf-8")


def read_claims_record(text: str, where: Path = RECORD) -> dict[str, Any]:
    """The record as it is in a file, checked: means and intervals are those of its single values.

    A row's `values` are by person (their seed), then by training, pairs of the method's and the other arm's
    mean over pictures. Rows written before there were any have none, and stand as they are.
    """
    try:
        record = json.loads(text)
        wrong = [row["claim"] for row in record["rows"] if "values" in row and not _agrees(row)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LikenessError(
            f"{where} is no record of claims ({error}); restore it from the repository"
        ) from None
    if wrong:
        raise LikenessError(
            f"in {where} the figures of '{wrong[0]}' are not those of its single values; make it again with "
            "`likeness bench claims --only-table`"
        )
    return record


def _agrees(row: Mapping[str, Any]) -> bool:
    values = {
        int(person): [(float(a), float(b)) for a, b in cells] for person, cells in row["values"].items()
    }
    numbers = [number for cells in values.values() for pair in cells for number in pair]
    if len(values) != row["people"] or not all(values.values()) or not all(map(math.isfinite, numbers)):
        return False
    again = compared_means(values)
    names = ["value", "other", "difference", *(["low", "high"] if len(values) >= ENOUGH_PEOPLE else [])]
    return all(abs(getattr(again, name) - row[name]) < 5e-4 for name in names)


def with_table(text: str, table: str) -> str:
    """The text with the table between the two marks; LikenessError where it has not each of them once."""
    if (text.count(BEGIN), text.count(END)) != (1, 1):
        raise LikenessError(f"{PAGE} must hold '{BEGIN}' and '{END}' once each, with the table between")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}"
