"""The one exception that is meant for the user, and the spelling help its messages give."""

from collections.abc import Iterable
from difflib import get_close_matches


class LikenessError(Exception):
    """A mistake that the user can mend: one sentence that names the file or setting and the remedy."""

    __module__ = "likeness"  # ComfyUI shows it to users, who need no path of ours


def nearest(word: str, valid: Iterable[str]) -> str:
    """A tail for an error message, `; did you mean 'steps'?`, or nothing if no valid word is close."""
    known = list(valid)
    alike = {name.replace("-", "_").lower(): name for name in known}
    found = get_close_matches(word.replace("-", "_").lower(), list(alike), n=1, cutoff=0.5)
    return f"; did you mean '{alike[found[0]]}'?" if found else ""


def first_line(error: BaseException) -> str:
    """What a library's error says, as far as it fits into a sentence."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
