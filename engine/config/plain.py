"""Plain values (mappings, lists, texts, numbers) out of YAML and JSON that anybody may have written."""

import json
from collections.abc import Mapping
from typing import Any

from ..errors import LikenessError

_DEEPEST = 64  # levels; our own files have six
_LARGEST = 1_000_000  # values, each alias counted as often as it is used
_WIDEST = 64  # bits of a whole number


def from_yaml(text: str, where: object) -> Any:
    """What the text means; `where` names the file in what is said about it."""
    try:
        content = _load_yaml(text)
    except (
        Exception
    ) as error:  # not YAMLError alone: `!!int "x"` is a ValueError, `[` x 2000 a RecursionError
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise LikenessError(f"{where} is not valid YAML{line}; mend it there") from error
    check_plain(content, where)
    return content


def _load_yaml(text: str) -> Any:
    """As PyYAML's safe loader, but for whole numbers that nobody means: YAML 1.1 takes 010 for eight and 1:30
    for ninety. Here such are text, which no number may be."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            letter: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:int"]
            for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    whole = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    return yaml.load(text, Loader)


def from_json(text: str | bytes, where: object) -> Any:
    """What the text means; `where` names the file in what is said about it."""
    try:
        content = json.loads(text)
    except Exception as error:  # deep nesting is a RecursionError, a number of 5,000 digits a ValueError
        line = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise LikenessError(f"{where} is not valid JSON{line}; mend it there") from error
    check_plain(content, where)
    return content


def check_plain(content: Any, where: object) -> None:
    """Refuses what could not be written down again: loops, aliases that unfold without end, broken text."""
    if _unfolded(content, where, 0, {}) > _LARGEST:
        raise LikenessError(f"{where} unfolds to more than {_LARGEST:,} values; write less")


def check_text(text: str, where: object) -> None:
    """Refuses text that no file can hold: half characters (lone surrogates), and the character NUL."""
    if "\0" in text or not _is_utf8(text):
        raise LikenessError(f"{where} holds a character that is none; type that text again")


def _unfolded(value: Any, where: object, depth: int, counts: dict[int, int]) -> int:
    """How many values this is, aliases unfolded; each container is looked through once."""
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, int) and value.bit_length() > _WIDEST:
        raise LikenessError(f"{where} holds a number of more than {_WIDEST} bits; write a smaller one")
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return 1
    if id(value) in counts:
        return counts[id(value)]
    if depth >= _DEEPEST:  # what holds itself gets here too
        raise LikenessError(f"{where} is nested more than {_DEEPEST} levels deep; write it flatter")
    inner = [*value, *value.values()] if isinstance(value, Mapping) else value
    counts[id(value)] = 1 + sum(_unfolded(part, where, depth + 1, counts) for part in inner)
    return counts[id(value)]


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
