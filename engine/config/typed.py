"""Settings as people type them behind a semicolon: `mode=soft;strength=0.8`, or a name alone for yes."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import LikenessError, nearest


def typed(pieces: Iterable[str], kinds: Mapping[str, Callable[[str], Any]], whole: str) -> dict[str, Any]:
    """NAME=VALUE pieces by name, each read by its kind; `whole` is what errors quote.

    A name alone has the value `yes`, dashes count as underscores, and a value may hold equals signs. Raises
    LikenessError for an unknown name, and for what is neither a number nor yes or no where that is wanted.
    """
    values: dict[str, Any] = {}
    for piece in pieces:
        name, equals, value = (part.strip() for part in piece.partition("="))
        name = name.replace("-", "_")
        if name not in kinds:
            hint = nearest(name, kinds) or f"; valid are {', '.join(kinds)}"
            raise LikenessError(f"unknown setting '{name}' in '{whole}'{hint}")
        values[name] = _value(kinds[name], value if equals else "yes", whole)
    return values


def _value(kind: Callable[[str], Any], text: str, whole: str) -> Any:
    if kind is bool:
        words = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
        if text.lower() not in words:
            raise LikenessError(f"'{text}' in '{whole}' is neither yes nor no")
        return words[text.lower()]
    try:
        value = kind(text)
    except ValueError:
        raise LikenessError(f"'{text}' in '{whole}' is not a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise LikenessError(f"'{text}' in '{whole}' is no number that anything can be done with")
    return value
