"""Translations say what the English texts say: the same keys, nothing lost, nothing forgotten.

tests/locales-looked-at.json holds a digest of the English text that each translation was last compared with.
Once the translations of reworded texts are right again (or were all along), write it anew with

    python tests/test_locales.py
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parents[1] / "locales"
LOOKED_AT = Path(__file__).with_name("locales-looked-at.json")
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.is_dir() and path.name != "en")
MISSING = 0.1  # share of texts a language may lack: ComfyUI shows those in English

KEPT = re.compile(
    r"<(?!name>)\w+>"  # placeholders: <v0>, <anna>
    r"|[\w.-]+/(?:[\w.*/-]*\w)?"  # folders, and models named like paths: models/loras, ViT-L/14
    r"|[\w*]+\.(?:json|png|jpg|pt|txt)\b"  # files
    r"|-?\b\d+(?:\.\d+)?"  # numbers
    r"|\b[a-z]+(?:-[a-z]+)*-?\d[\w-]*"  # options: bf16, grounded-sam2
    r"|\b(?:automatic|my mask|auraface|mediapipe|birefnet|clipseg)\b"  # more options
    r"|\b\w*[A-Z]\w*[A-Z](?:\w*[a-rt-zA-Z0-9])?",  # names: LoRA, PersonaMagic, MODEL
    re.ASCII,
)
TRANSLATED_BY_COMFYUI = {"KSampler", "MaskEditor"}
MARKUP = re.compile(
    r"</?(?:a|b|i|p|br|em|div|span|code|strong)\b[^>]*>|&#?\w+;"  # of HTML
    r"|\*\*|__|`|\]\("  # of Markdown
    r"|[{}@|\\]"  # of the editor's own message syntax
    r"|\s{2}|^\s|\s$|[\n\t\ufeff\u200b\ufffd]"  # spaces too many
)


@cache
def texts(language: str) -> dict[str, str]:
    """Every text of a language by its key, such as LikenessSave.inputs.name.tooltip."""
    return dict(walk(json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))))


def walk(entry: Mapping[str, object], path: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in entry.items():
        assert isinstance(value, str | dict), f"{path}{key} is neither a text nor a group"
        found += walk(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", value)]
    return found


ENGLISH = texts("en")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def kept(text: str) -> frozenset[str]:
    return frozenset(KEPT.findall(text)) - TRANSLATED_BY_COMFYUI


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_no_key_that_english_has_not_and_lacks_few(language: str):
    there = texts(language)
    stale = sorted(set(there) - set(ENGLISH))
    assert stale == [], f"gone from locales/en: remove them from locales/{language} too"
    missing = sorted(set(ENGLISH) - set(there))
    if missing:
        warnings.warn(
            f"locales/{language} lacks {len(missing)} texts, shown in English: {missing[:5]}", stacklevel=1
        )
    assert len(missing) <= MISSING * len(ENGLISH)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_empty_left_in_english_or_spoilt_by_markup(language: str):
    there = texts(language)
    assert [key for key, text in there.items() if not text.strip()] == []
    assert [key for key, text in there.items() if len(text.split()) > 3 and text == ENGLISH.get(key)] == []
    assert {key: text for key, text in there.items() if MARKUP.search(text)} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_numbers_paths_and_names_are_those_of_the_english_text(language: str):
    lost = {
        key: sorted(gone)
        for key, text in texts(language).items()
        if (gone := {part for part in kept(ENGLISH.get(key, "")) if part not in text})
    }
    assert lost == {}, f"locales/{language}: say these in the translation as English does"


def test_translations_were_looked_at_since_the_english_text_was_reworded():
    """Digests of one file for all languages: who rewords an English text looks at all of them."""
    looked_at = json.loads(LOOKED_AT.read_text("utf-8"))
    reworded = [key for key, text in ENGLISH.items() if looked_at.get(key) != digest(text)]
    assert reworded == [], (
        f"reworded in locales/en: look at these in locales/{{{','.join(LANGUAGES)}}}/nodeDefs.json, change "
        "what does not say the same any more, then run `python tests/test_locales.py`"
    )
    assert sorted(set(looked_at) - set(ENGLISH)) == [], "gone: run `python tests/test_locales.py`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_nodes_have_titles_of_their_own_in_every_language(language: str):
    titles = [text for key, text in texts(language).items() if key.endswith(".display_name")]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_name_other_nodes_by_their_titles_in_that_language(language: str):
    """Core's KSampler aside: ours is called after it."""
    there = texts(language)
    titles = {key: short(text) for key, text in ENGLISH.items() if key.endswith(".display_name")}
    wrong = {
        (key, title): short(there[node])
        for key, text in ENGLISH.items()
        for node, title in titles.items()
        if key in there and key not in titles and title != "KSampler"
        if title in text and node in there
        if short(there[node]).casefold() not in there[key].casefold()
    }
    assert wrong == {}


def short(title: str) -> str:
    """A title without the method in brackets."""
    return re.split(r"\s*[(（]", title)[0]


def test_what_must_be_kept_is_found_in_english_texts():
    assert kept("Write <v0> or <anna>, not embedding:<name>, in models/likeness; -1, 0.5") == {
        "<v0>",
        "<anna>",
        "models/likeness",
        "-1",
        "0.5",
    }
    assert kept("automatic takes bf16 on GPUs; PersonaMagic's LoRA, KSampler, adapter_*.pt") == {
        "automatic",
        "bf16",
        "GPU",
        "PersonaMagic",
        "LoRA",
        "adapter_*.pt",
    }


if __name__ == "__main__":
    LOOKED_AT.write_text(json.dumps({key: digest(text) for key, text in ENGLISH.items()}, indent=0) + "\n")
