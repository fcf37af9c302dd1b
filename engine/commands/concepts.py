"""Concept files as options name them: FILE, FILE:STRENGTH, or FILE:STRENGTH:<placeholder>."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LikenessError, nearest

if TYPE_CHECKING:
    from ..artifact import Artifact


def with_strength(text: str) -> "tuple[Artifact, float]":
    """`me.safetensors`, `me.safetensors:0.8`, or with another placeholder `me.safetensors:0.8:<anna>`."""
    from ..artifact import Artifact

    path, factor, words = parsed(text)
    artifact = Artifact.load(path)
    return (artifact.renamed(words) if words else artifact), factor


def parsed(text: str) -> tuple[str, float, list[str]]:
    """The path, the strength and the placeholders in an option's text."""
    from ..config import TOKEN, finite

    rest, _, words = text.rpartition(":")
    if rest and words and not TOKEN.sub("", words).strip(", "):
        path, factor, _ = parsed(rest)
        return path, factor, TOKEN.findall(words)
    path, _, strength = text.rpartition(":")
    try:
        factor = float(strength)
    except ValueError:
        return text, 1.0, []
    if not path:
        return text, 1.0, []
    finite({f"the strength in '{text}'": factor})
    return path, factor, []


def concepts_in_words(texts: Sequence[str]) -> dict[str, str]:
    """What a picture says of the concepts it was drawn with: name, digest and strength of each file."""
    lines = []
    for text in texts:
        path, factor, words = parsed(text)
        name = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
        lines.append(f"{Path(path).name} ({name}) at {factor:g}{' as ' + ' '.join(words) if words else ''}")
    return {"concepts": "; ".join(lines)} if lines else {}


def check_placeholders(prompts: Sequence[str], artifacts: "Sequence[Artifact]") -> list[str]:
    """The prompts with `embedding:v0` as `<v0>`; raises for words that nobody defines, and bad weights."""
    from ..artifact import placeholders
    from ..bases.text.prompt_weights import spelled, weighted
    from ..config import TOKEN

    defined = placeholders(artifacts)
    prompts = [spelled(prompt, defined) for prompt in prompts]
    for prompt in prompts:
        for word in TOKEN.findall(prompt):
            if word not in defined:
                hint = nearest(word, defined) or "; give its file with --concept"
                raise LikenessError(f"the prompt uses {word}, which no given concept defines{hint}")
        weighted(prompt)
    return prompts
