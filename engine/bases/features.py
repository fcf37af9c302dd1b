"""What a base may offer beyond taking noise away, by the names that methods ask and errors tell them by."""

from collections.abc import Iterable
from typing import Any

from ..errors import LikenessError

CROSS_ATTENTION_MAPS = "cross-attention maps"  # where each word of the prompt is looked for in the picture
TEXT_PROJECTIONS = "layers that read nothing but the prompt"  # keys and values of cross-attention
SPLIT_VALUES = "values of other text states than the keys'"
IDENTITY_ATTENTION = "attention to identity tokens beside the prompt"
TEXT_ATTENTION_MAPS = "attention maps of its text encoder"
STAGED_TEXT = "words of their own for each sample in its text encoder"


def check_offered(who: str, needs: Iterable[str], base: Any) -> None:
    """Raises LikenessError, which names the first of them, unless the base offers all that somebody needs."""
    lacking = [feature for feature in needs if feature not in base.offers]
    if lacking:
        raise LikenessError(
            f"{who} needs {lacking[0]}, which this base ({base.traits.name}) does not offer; choose another "
            "base, or a method or settings that go without"
        )
