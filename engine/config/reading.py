"""Settings from plain values (JSON, YAML, a node): every key known, every value of its field's type.

Not by pydantic, which was tried (2.14): read laxly it takes "yes" for true, true for 1 and NaN for a number,
read strictly it refuses YAML's 1e-4; each of its errors would have to be turned into our sentence with the
nearest key. These 80 lines would become as many; `checks` and the command line's options would stay.
"""

import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from ..errors import LikenessError, nearest
from .plain import check_text

_T = TypeVar("_T")
_SHOWN = 120  # characters of a wrong value


def read(kind: type[_T], source: Mapping[str, Any], where: str) -> _T:
    """Builds the dataclass `kind` from plain values; errors name the key within `where`."""
    hints = typing.get_type_hints(kind)
    values = {
        key: convert(value, hints[key], f"{where}.{key}")
        for key, value in known_keys(kind, source, where).items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        missing = re.findall(r"'(\w+)'", str(error))
        raise LikenessError(f"{where} lacks {', '.join(missing) or error}; add it") from error


def known_keys(kind: type, source: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """`source` itself, once every key is known to be a field of `kind`."""
    valid = [entry.name for entry in fields(kind)]
    for key in source:
        if key not in valid:
            hint = nearest(str(key), valid) or f"; valid are {', '.join(valid)}"
            raise LikenessError(f"unknown setting '{str(key)[:_SHOWN]}' in {where}{hint}")
    return source


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value`, as JSON or YAML gave it, as the annotated type `hint`."""
    if hint is Any:
        return value
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        (hint,) = [option for option in typing.get_args(hint) if option is not type(None)]
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        if isinstance(value, Mapping):
            return read(typing.cast(type, hint), value, where)
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(convert(item, typing.get_args(hint)[0], where) for item in value)
    elif hint is bool or hint is str:
        if isinstance(value, hint):
            if isinstance(value, str):
                check_text(value, where)
            return value
    elif hint in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-4 as a string
            if hint is float or number == int(number):
                return value if isinstance(value, hint) else hint(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise LikenessError(f"{where} must be {_in_words(hint)}, not {_shown(value)}")


def _shown(value: Any) -> str:
    """The value as it was written, cut where it is long."""
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that JSON has not, loops
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _in_words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "a list" if typing.get_origin(hint) is tuple else "a mapping of keys to values")
