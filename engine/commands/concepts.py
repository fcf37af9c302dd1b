"""Concept files as options name them: FILE, FILE:STRENGTH, or FILE:STRENGTH:<placeholder>."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import LikenessError, nearest

if TYPE_CHECKING:
    from ..artifact import Artifact


def with_strength(text: str) -> "tuple[Artifact, float]":
    """`me.safetensors`, `me.safetensors:0.8`, or with another placeholder `me.safetensors:0.8:<anna>`."""
    from ..artifact import Artifact
    from ..config import TOKEN, finite

    rest, _, words = text.rpartition(":")
    if rest and words and not TOKEN.sub("", words).strip(", "):
        artifact, factor = with_strength(rest)
        return artifact.renamed(TOKEN.findall(words)), factor
    path, _, strength = text.rpartition(":")
    try:
        factor = float(strength)
    except ValueError:
        return Artifact.load(text), 1.0
    if not path:
        return Artifact.load(text), 1.0
    finite({f"the strength in '{text}'": factor})
    return Artifact.load(path), factor


def check_placeholders(prompts: Sequence[str], artifacts: "Sequence[Artifact]") -> list[str]:
    """The prompts with `embedding:v0` as `<v0>`; raises for words that nobody defines, and bad weights."""
    from ..artifact import placeholders
    from ..bases.text.prompt_weights import spelled, weighted
    from ..config import TOKEN

    known = placeholders(artifacts)
    prompts = [spelled(prompt, known) for prompt in prompts]
    for prompt in prompts:
        for word in TOKEN.findall(prompt):
            if word not in known:
                hint = nearest(word, known) or "; give its file with --concept"
                raise LikenessError(f"the prompt uses {word}, which no given concept defines{hint}")
        weighted(prompt)
    return prompts
