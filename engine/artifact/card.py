"""A concept file's card: what it is, on what it was learned and how well, in lines that people read.

Files come from anywhere: every text in them is shown without the characters that steer a terminal.
"""

import base64
import binascii
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bases.families import FAMILIES

if TYPE_CHECKING:
    import numpy as np

    from .concept_file import Artifact, Token

THUMBNAIL = "modelspec.thumbnail"  # as the Stability modelspec (1.0.0) says: a picture in a data URI
THUMBNAIL_SIDE = 256  # pixels at most
LARGEST_THUMBNAIL = 64 * 1024  # bytes
_URI = "data:image/jpeg;base64,"
_LONGEST = 400  # characters of a line out of a file
NOTABLE = ("rank", "vectors", "text encoder", "masked loss")  # beside learning rates
CARD_KINDS = {
    "lora": "LoRA", "embedding": "embedding", "staged_embedding": "staged embedding",
    "id_adapter": "face adapter",
}  # fmt: skip


def thumbnail_of(pixels: "np.ndarray") -> bytes:
    """A small JPEG of pixels (H, W, 3) uint8; equal pixels give equal bytes."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    for quality in (85, 60, 30):
        kept = io.BytesIO()
        picture.save(kept, "JPEG", quality=quality)
        if kept.tell() <= LARGEST_THUMBNAIL:
            return kept.getvalue()
    return b""


def as_uri(thumbnail: bytes) -> str:
    return _URI + base64.b64encode(thumbnail).decode() if thumbnail else ""


def from_uri(text: str) -> bytes:
    """The JPEG in a data URI; nothing where it holds none, or one too large."""
    if not text.startswith(_URI) or len(text) > len(_URI) + LARGEST_THUMBNAIL * 4 // 3 + 4:
        return b""
    try:
        data = base64.b64decode(text[len(_URI) :], validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if data.startswith(b"\xff\xd8\xff") else b""


def short_card(facts: Mapping[str, Any], date: str = "") -> str:
    """A concept file in a few lines, as nodes show it: the words to type come first."""
    card = dict(full_card(facts))
    settings = dict(settings_lines(facts["settings"]))
    notable = [name for name in settings if name.endswith("learning rate") or name in NOTABLE]
    ran = [f"{name} {settings[name]}" for name in notable]
    lines = (
        [f"write {card['write']}" if "write" in card else "", card["kind"], card["method"], card["base"]],
        [card.get("learned from", "")],
        [card.get("steps", ""), *ran],
        [card.get("scores", ""), card.get("unfinished", ""), date],
    )
    kept = [" · ".join(part for part in line if part) for line in lines]
    return "\n".join(line for line in kept if line)


def grid_card(artifact: "Artifact") -> str:
    """What a likeness is, in one line for a report, with the digest of what it was learned from."""
    card = short_card(vars(artifact)).splitlines()
    return " · ".join([*card, f"pictures' digest {shown(artifact.digest[:12])}"] if artifact.digest else card)


def full_card(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a concept file is, as lines of a name and a text.

    `facts` are the fields of an `Artifact`, and `written_by` and `parameters` where the file was looked at.
    """
    about = facts.get("about") or {}
    tokens: Sequence[Token] = facts["tokens"]
    kind = CARD_KINDS.get(facts["kind"], facts["kind"])
    numbers = facts.get("parameters")
    steps = _counted(facts["steps"], "step") if facts["steps"] else ""
    lines = [
        ("write", ", ".join(map(_typed, tokens))),
        ("kind", f"{kind}, {numbers:,} numbers" if numbers else kind),
        ("method", facts["method"]),
        ("base", ", ".join(part for part in (FAMILIES[facts["base_family"]].name, *_base(about)) if part)),
        ("learned from", _pictures(about)),
        ("steps", f"{steps}, seed {facts['seed']}" if steps else ""),
        ("scores", _scores(about.get("scores"))),
        ("unfinished", _unfinished(facts["extra"])),
        ("licence", facts["licence"]),
        ("written by", facts.get("written_by", "")),
    ]
    return [(name, shown(text)) for name, text in lines if text]


def settings_lines(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that ran, a line each."""
    return [(shown(name.replace("_", " ")), shown(_value(value))) for name, value in settings.items()]


def trigger_words(tokens: "Iterable[Token]") -> str:
    return " ".join(token.token for token in tokens)


def shown(text: object) -> str:
    """A text out of a file, in one line of what a terminal only prints."""
    flat = "".join(letter if letter.isprintable() else " " for letter in str(text))
    flat = re.sub(r" {2,}", " ", flat).strip()
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]} …"


def _typed(token: "Token") -> str:
    about = [token.class_word, "" if token.role == "subject" else token.role]
    about = [word for word in about if word]
    return f"{token.token} ({', '.join(about)})" if about else token.token


def _base(about: Mapping[str, Any]) -> tuple[str, str]:
    """The base's own name, and which version of it; of the Miniature there is one, which its family says."""
    name, distilled = about.get("base", ""), about.get("distilled")
    version = {"True": "distilled", "False": "base version"}.get(repr(distilled), "")
    return name if isinstance(name, str) and name != "miniature" else "", version


def _pictures(about: Mapping[str, Any]) -> str:
    """`9 pictures of a woman, 6 with masks, at 512 px, in bf16`."""
    number = about.get("pictures")
    if not isinstance(number, int) or number < 1:
        return ""
    words = about.get("class_words")
    words = [str(word) for word in words] if isinstance(words, list) else []
    parts = [_counted(number, "picture") + (f" of {' and '.join(words)}" if words else "")]
    if about.get("masks"):
        parts.append(f"{about['masks']} with masks")
    if about.get("size"):
        parts.append(f"at {about['size']} px")
    if about.get("precision"):
        parts.append(f"in {about['precision']}")
    return ", ".join(parts)


def _scores(scores: object) -> str:
    """`likeness 0.71, prompts 0.80, at step 600`."""
    if not isinstance(scores, Mapping):
        return ""
    parts = [
        f"{name} {value:.2f}" if isinstance(value, float) else f"at {name} {value}"
        for name, value in scores.items()
        if isinstance(value, int | float)
    ]
    return ", ".join(parts)


def _unfinished(extra: Mapping[str, Any]) -> str:
    stopped = extra.get("unfinished")
    return (
        f"stopped at step {stopped.get('step')} of {stopped.get('of')}" if isinstance(stopped, dict) else ""
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " | ".join(map(_value, value)) or "none"
    if isinstance(value, Mapping):
        return " | ".join(f"{name}: {_value(inner)}" for name, inner in value.items()) or "none"
    return str(value)
