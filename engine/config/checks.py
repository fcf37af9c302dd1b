"""Checks that settings make of themselves, each an error that says what would do."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import LikenessError, nearest

RANKS, WORDS = 1024, 75  # the most that can be meant: of a LoRA's matrices; rows that CLIP reads at once


def one_of(what: str, value: object, valid: Iterable[str]) -> None:
    """Refuses a value that is none of `valid`, naming the nearest; `what` says of what kind it is."""
    if value not in list(valid):
        shown = str(value)[:120]
        hint = nearest(shown, valid) or f"; valid are {', '.join(valid)}"
        raise LikenessError(f"unknown {what} '{shown}'{hint}")


def at_least(settings: Any, least: float, *names: str) -> None:
    """Refuses settings of these names below `least`, infinite or NaN; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not least <= value < float("inf"):
            raise LikenessError(f"'{name}' is {value}; it must be {least} or more")


def at_most(settings: Any, most: float, *names: str) -> None:
    """Refuses settings of these names above what can be meant; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value <= most:
            raise LikenessError(f"'{name}' is {value}; it must be {most} or less")


def above_zero(settings: Any, *names: str) -> None:
    """Refuses settings of these names at or below 0, infinite or NaN; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise LikenessError(f"'{name}' is {value}; it must be more than 0")


def finite(numbers: Mapping[str, float]) -> None:
    """Refuses numbers, by what they are called, that are infinite or NaN: nothing can be drawn with them."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise LikenessError(f"{name} is {value}, which is no number to draw with; give one such as 1")


def with_gap(name: str, templates: tuple[str, ...], **named: str) -> None:
    """Refuses prompts that leave no {} for the subject, and having none; `named`: what else stands for
    something in them."""
    if not templates or any("{}" not in template for template in templates):
        raise LikenessError(f"'{name}' must hold prompts with {{}} where the subject goes: 'a photo of {{}}'")
    with_braces(name, templates, "<v0>", **named)


def with_braces(name: str, templates: tuple[str, ...], *words: str, **named: str) -> None:
    """Refuses prompts with a brace that nothing can be put for: these words in order, and those by name."""
    for template in templates:
        try:
            template.format(*words, **named)
        except (IndexError, KeyError, ValueError, AttributeError) as error:
            raise LikenessError(
                f"'{name}' holds '{template:.80}', in which a brace stands for nothing; write {{}} where the "
                "subject goes, and two braces for one"
            ) from error


def spoken(class_word: str) -> str:
    """The class word itself; raises for one that prompts would read as something else than words."""
    if re.search(r"[<>(){}:]|\bembedding\b", class_word):
        raise LikenessError(
            f"'{class_word:.80}' cannot be a class word: it stands in prompts as it is, where brackets and "
            "colons mean something else; write plain words, such as woman"
        )
    return class_word


def chosen_preset(kind: type, name: str, presets: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What the preset `name` changes of the defaults of `kind`."""
    if name not in presets:
        hint = nearest(name, presets) or f"; valid are {', '.join(presets)}"
        raise LikenessError(f"{kind.__name__} has no preset '{name}'{hint}")
    return presets[name]
