"""The table of the full run that this project shows: kept as numbers, and in docs/claims.md between marks."""

import json
from pathlib import Path

from ...errors import LikenessError
from ...files import write_atomically
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
    record = json.loads(kept)
    if not record["rows"]:
        raise LikenessError(f"nothing was measured in {out}; name the folder of a run")
    text = with_table(check_checkout(checkout), as_markdown(record))
    for file, content in ((checkout / RECORD, kept), (checkout / PAGE, text)):
        with write_atomically(file) as temporary:
            temporary.write_text(content, "utf-8")


def with_table(text: str, table: str) -> str:
    """The text with the table between the two marks; LikenessError where it has not each of them once."""
    if (text.count(BEGIN), text.count(END)) != (1, 1):
        raise LikenessError(f"{PAGE} must hold '{BEGIN}' and '{END}' once each, with the table between")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}"
