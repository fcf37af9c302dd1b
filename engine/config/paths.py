"""Paths as people type and paste them."""

import os

QUOTES = "\"'“”„«»"


def typed_path(text: str) -> str:
    """The path without quotes around it (Windows' *Copy as path*), the home folder for a leading ~."""
    bare = text.strip()
    if len(bare) > 2 and bare[0] in QUOTES and bare[-1] in QUOTES:
        bare = bare[1:-1].strip()
    return os.path.expanduser(bare) if bare.startswith("~") else bare or text
