"""Concept files as options name them: FILE, or FILE:STRENGTH."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import LikenessError, nearest

if TYPE_CHECKING:
    from ..artifact import Artifact


def with_strength(text: str) -> "tuple[Artifact, float]":
    """`me.safetensors` or `me.safetensors:0.8`."""
    from ..artifact import Artifact

    path, _, strength = text.rpartition(":")
    try:
        factor = float(strength)
    except ValueError:
        return Artifact.load(text), 1.0
    return (Artifact.load(path), factor) if path else (Artifact.load(text), 1.0)


def check_placeholders(prompts: Sequence[str], artifacts: "Sequence[Artifact]") -> None:
    from ..artifact import placeholders
    from ..config import TOKEN

    known = placeholders(artifacts)
    for prompt in prompts:
        for word in TOKEN.findall(prompt):
            if word not in known:
                hint = nearest(word, known) or "; give its file with --concept"
                raise LikenessError(f"the prompt uses {word}, which no given concept defines{hint}")
