"""The table of the full run that this project shows: kept as numbers, and in the README between two marks."""

import json
from pathlib import Path

from ...errors import LikenessError
from ...files import write_atomically
from .words import as_markdown

RECORD = Path("engine/evaluation/record/claims.json")  # in a checkout
BEGIN, END = "<!-- claims: `likeness bench claims --publish` writes from here -->", "<!-- to here -->"


def published(out: Path, checkout: Path) -> None:
    """Keeps the record of the run in `out` in the checkout, and shows it in the checkout's README."""
    record, readme = out / "record.json", checkout / "README.md"
    if not readme.is_file():
        raise LikenessError(f"there is no README.md in {checkout}; name the project's checkout")
    text = with_table(readme.read_text("utf-8"), as_markdown(json.loads(record.read_text("utf-8"))))
    for file, content in ((checkout / RECORD, record.read_text("utf-8")), (readme, text)):
        with write_atomically(file) as temporary:
            temporary.write_text(content, "utf-8")


def with_table(text: str, table: str) -> str:
    """The text with the table between the two marks; LikenessError where it has not each of them once."""
    if (text.count(BEGIN), text.count(END)) != (1, 1):
        raise LikenessError(f"README.md must hold '{BEGIN}' and '{END}' once each, with the table between")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}"
