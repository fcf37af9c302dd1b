"""The one exception that is meant for the user, and the spelling help its messages give."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_ENDLESS = re.compile(r"[^\s/\\]{257,}")  # no word that anybody reads, nor a file's name: these end at 255


class LikenessError(Exception):
    """A mistake that the user can mend: one sentence that names the file or setting and the remedy."""

    __module__ = "likeness"  # ComfyUI shows it to users, who need no path of ours

    def __init__(self, text: str = "") -> None:
        """`text` may quote what anybody wrote: of words without an end, the beginning is shown."""
        super().__init__(_ENDLESS.sub(lambda word: f"{word[0][:120]}…", text))


def nearest(word: str, valid: Iterable[str]) -> str:
    """A tail for an error message, `; did you mean 'steps'?`, or nothing if no valid word is close."""
    names = list(valid)
    alike = {name.replace("-", "_").lower(): name for name in names}
    close = get_close_matches(word.replace("-", "_").lower(), list(alike), n=1, cutoff=0.5)
    return f"; did you mean '{alike[close[0]]}'?" if close else ""


def first_line(error: BaseException) -> str:
    """What a library's error says, as far as it fits into a sentence."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
