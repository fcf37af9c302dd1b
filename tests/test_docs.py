"""What a newcomer reads: links lead somewhere, commands exist, figures are those of the record."""

import json
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_BYTES, PICTURE_BYTES = 10_000, 6_000_000
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def every_page(test):
    return pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])(test)


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def fenced(text: str, language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def links(page: Path) -> list[str]:
    return [unquote(first or second) for first, second in LINK.findall(text_of(page))]


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or anchor and anchor not in anchors(target):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        inside = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)
                  if not link.startswith("http")}  # fmt: skip
        waiting += [target for target in inside if target.suffix == ".md" and target not in seen]
    assert set(PAGES) - seen == set()


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every `likeness …` line in a fenced bash block."""
    found = []
    for page in PAGES:
        text = fenced(text_of(page), "bash").replace("\\\n", " ")
        found += [(str(page.relative_to(ROOT)), line) for line in text.splitlines()
                  if line.startswith("likeness ")]  # fmt: skip
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_that_are_shown_exist_with_all_their_options(page: str, line: str):
    from likeness_portraits.engine.cli import app

    words = shlex.split(line, comments=True)[1:]
    command = get_command(app)
    while getattr(command, "commands", None):
        assert words and words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    assert [word for word in used if word not in known] == [], f"{page}: {line}"


def test_the_readme_is_one_or_two_screens_with_pictures():
    assert len(text_of(ROOT / "README.md").encode()) <= README_BYTES
    shown = [link for link in links(ROOT / "README.md") if link.endswith((".jpg", ".png", ".svg"))]
    assert len(set(shown)) >= 10


def test_the_pictures_of_all_pages_stay_small():
    pictures = {(page.parent / link).resolve() for page in PAGES for link in links(page)
                if link.endswith((".jpg", ".png", ".svg"))}  # fmt: skip
    assert sum(picture.stat().st_size for picture in pictures) <= PICTURE_BYTES


def test_the_readmes_figures_are_those_of_the_record():
    record = json.loads((ROOT / "engine" / "bench" / "record" / "claims.json").read_text("utf-8"))
    held = {f"{row[side]:.3f}" for row in record["rows"] for side in ("value", "other")}
    proof = text_of(ROOT / "README.md").partition("<!-- proof:")[2].partition("## Limits")[0]
    figures = re.findall(r"\b0\.\d{3}\b", proof)
    assert len(figures) >= 10 and [figure for figure in figures if figure not in held] == []


def test_every_method_has_a_page_with_a_picture_a_command_and_its_evidence():
    from likeness_portraits.engine.config import METHODS

    for method in METHODS:
        page = ROOT / "docs" / "methods" / f"{method}.md"
        text = text_of(page)
        assert f"likeness train {method} " in text and "](../claims.md)" in text and "arxiv.org" in text, (
            method
        )
        assert any(link.endswith(".jpg") for link in links(page)), method
        settings = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
        fields = {name for row in settings for name in re.findall(r"`(\w+)`", row)}
        unknown = fields - set(METHODS[method].__dataclass_fields__)
        assert fields and unknown == set(), method


def test_templates_have_a_thumbnail_in_the_readme():
    shown = set(links(ROOT / "README.md"))
    for template in (ROOT / "workflows").glob("*.json"):
        name = f"workflows/{template.stem}"
        assert {f"{name}.json", f"{name}.jpg"} <= shown, name


CHECKLISTS = {"Add a method", "Add a base", "Add a mask back end"}


def test_three_checklists_stand_on_one_page_and_name_what_is_there():
    headings = [(page.name, line[3:]) for page in PAGES for line in text_of(page).splitlines()
                if re.match(r"#+ (add|adding) a", line, re.IGNORECASE)]  # fmt: skip
    assert sorted(headings) == sorted(("architecture.md", heading) for heading in CHECKLISTS)
    page = text_of(ROOT / "docs" / "architecture.md")
    for heading in CHECKLISTS:
        steps = page.split(f"## {heading}\n")[1].split("\n## ")[0]
        places = re.findall(r"`(?:pytest )?((?:engine|nodes|docs|web|tests)/[\w./-]*)`", steps)
        assert len(places) >= 3 and [place for place in places if not (ROOT / place).exists()] == []
        for name, place in re.findall(r"`(\w+)` \((?:in )?`([\w./]+\.py)`\)", steps):
            assert re.search(rf"^{name}\b", text_of(ROOT / place), re.MULTILINE), f"{place} has no {name}"


def test_what_is_registered_has_what_the_checklists_ask_for():
    from likeness_portraits.engine.config import METHODS
    from likeness_portraits.engine.data.segment import BACK_ENDS
    from likeness_portraits.engine.training.methods import CLASSES

    assert METHODS.keys() == CLASSES.keys()
    nodes, registry = text_of(ROOT / "nodes" / "train.py"), ROOT / "engine" / "training" / "methods"
    for method, (module, name) in CLASSES.items():
        assert f"class {name}(" in text_of(registry / f"{module}.py")
        assert f"class LikenessTrain{name}(" in nodes and f'"{method}"' in nodes
        assert (ROOT / "web" / "docs" / f"LikenessTrain{name}.md").is_file()
        assert (ROOT / "docs" / "methods" / f"{method}.md").is_file()
    masks = text_of(ROOT / "docs" / "masks-and-faces.md")
    for back_end, (module, _) in BACK_ENDS.items():
        assert "\ndef load(" in text_of(ROOT / "engine" / "data" / "segmenters" / f"{module}.py")
        assert f"`{back_end}`" in masks, f"docs/masks-and-faces.md does not name {back_end}"


def test_troubleshooting_quotes_what_is_really_said():
    """The first column's words in our sources, whose long sentences go over several lines."""
    said = ""
    for path in sorted(part for top in ("engine", "nodes") for part in (ROOT / top).rglob("*.py")):
        said += re.sub(r'["\']\s*\n\s*f?["\']', "", path.read_text("utf-8"))
    table = text_of(ROOT / "docs" / "troubleshooting.md").split("|---|---|")[1]
    quotes = [quote for row in table.splitlines() if row.startswith("| `")
              for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0])]  # fmt: skip
    pieces = [piece.strip(" ,") for quote in quotes for piece in quote.split("…")]
    assert len(quotes) > 30
    assert [piece for piece in pieces if len(piece) > 5 and piece not in said] == []
