"""The table of the full run that this project shows: kept as numbers, and in the README between two marks."""

import json
from pathlib import Path

from ...errors import LikenessError
from ...files import write_atomically
from .words import as_markdown

RECORD = Path("engine/bench/record/claims.json")  # in a checkout
BEGIN, END = "<!-- claims: `likeness bench claims --publish` writes from here -->", "<!-- to here -->"


def check_checkout(checkout: Path) -> str:
    """The README of the checkout; LikenessError where there is none with a place for the table."""
    readme = checkout / "README.md"
    if not readme.is_file():
        raise LikenessError(f"there is no README.md in {checkout}; name the project's checkout")
    text = readme.read_text("utf-8")
    with_table(text, "")
    return text


def published(out: Path, checkout: Path) -> None:
    """Keeps the record of the run in `out` in the checkout, and shows it in the checkout's README."""
    kept = (out / "record.json").read_text("utf-8")
    record = json.loads(kept)
    if not record["rows"]:
        raise LikenessError(f"nothing was measured in {out}; name the folder of a run")
    text = with_table(check_checkout(checkout), as_markdown(record))
    for file, content in ((checkout / RECORD, kept), (checkout / "README.md", text)):
        with write_atomically(file) as temporary:
            temporary.write_text(content, "utf-8")


def with_table(text: str, table: str) -> str:
    """The text with the table between the two marks; LikenessError where it has not each of them once."""
    if (text.count(BEGIN), text.count(END)) != (1, 1):
        raise LikenessError(f"README.md must hold '{BEGIN}' and '{END}' once each, with the table between")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}"
