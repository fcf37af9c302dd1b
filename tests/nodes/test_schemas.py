"""Every node tells people what it is: checked in the source, where no ComfyUI is at hand."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "nodes").glob("*.py"))
LOCALE = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
LONGEST = 39  # letters of a name that are not cut off at a node's own width


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = getattr(node, "func", None)
            if name == getattr(called, "attr", getattr(called, "id", None)):
                yield path, node


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


SCHEMAS = [keywords(call) for path, call in calls("schema") if path.name != "types.py"]
NODE_IDS = [ast.literal_eval(schema["node_id"]) for schema in SCHEMAS]


def test_node_classes_are_named_as_their_ids_and_all_are_listed():
    tree = ast.parse((ROOT / "nodes" / "__init__.py").read_text("utf-8"))
    lists = [node.value for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert [name.id for name in lists[0].elts] == list(LOCALE)
    assert sorted(NODE_IDS) == sorted(LOCALE)


def test_display_names_are_short_and_unlike_and_descriptions_are_sentences():
    names = [ast.literal_eval(schema["display_name"]) for schema in SCHEMAS]
    assert len(set(names)) == len(names)
    assert [name for name in names if len(name) > LONGEST] == []
    for schema in SCHEMAS:
        assert len(ast.literal_eval(schema["description"]).split()) >= 5
        assert ast.literal_eval(schema["description"]).endswith(".")


@pytest.mark.parametrize("kind", ["Input", "Output"])
def test_every_input_and_output_has_a_tooltip(kind: str):
    found = [
        (path, call) for path, call in calls(kind) if isinstance(call.func.value, ast.Name | ast.Attribute)
    ]
    assert len(found) > 10
    assert [f"{path.name}:{call.lineno}" for path, call in found if "tooltip" not in keywords(call)] == []


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_names_the_node_and_every_input(node_id: str):
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
    assert page.startswith(f"# {LOCALE[node_id]['display_name']}\n")
    assert [entry["name"] for entry in LOCALE[node_id]["inputs"].values() if entry["name"] not in page] == []


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_shows_the_node_wired(node_id: str):
    """Beside the page, where ComfyUI's editor looks for a page's pictures."""
    folder = ROOT / "web" / "docs"
    assert re.search(rf"!\[.+, wired.*\]\({node_id}\.jpg\)", (folder / f"{node_id}.md").read_text("utf-8"))
    with Image.open(folder / f"{node_id}.jpg") as picture:
        assert picture.format == "JPEG" and picture.width >= 600


def test_all_pictures_together_stay_small():
    kinds, places = (".jpg", ".png", ".webp"), ("web/docs", "docs", "workflows", "engine/miniature/sheets")
    found = [path for place in places for path in (ROOT / place).rglob("*") if path.suffix in kinds]
    assert len(found) > 30 and sum(path.stat().st_size for path in found) <= 6_000_000


def test_there_is_no_help_page_without_a_node():
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*")} == set(NODE_IDS)


def test_locale_holds_nothing_the_editor_would_take_for_its_own_syntax():
    assert [text for text in texts(LOCALE) if set(text) & set("{}@|")] == []


def texts(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from texts(value)
