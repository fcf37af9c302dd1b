"""What a concept file says to people about the run that made it; nothing of it decides how it is used."""

from collections.abc import Sequence
from typing import Any

from ..bases.base import BaseModel
from ..config import Job
from ..data.concepts import Concept
from .observer import Critic


def about_run(
    job: Job, base: BaseModel, concepts: Sequence[Concept], size: int, critic: Critic | None
) -> dict[str, Any]:
    """The base's name, the pictures, `size` pixels a side, the precision, and scores where somebody judged.

    Names of files, never their folders: files are passed on. No date: equal runs give equal bytes.
    """
    pictures = [picture for concept in concepts for picture in concept.pictures]
    facts: dict[str, Any] = {
        "base": base.name,
        "pictures": len(pictures),
        "masks": sum(picture.mask is not None for picture in pictures),
        "class_words": list(dict.fromkeys(one.class_word for one in concepts if one.class_word)),
        "size": size,
        "precision": job.precision,
    }
    if base.traits.distilled_twin and base.distilled is not None:
        facts["distilled"] = base.distilled
    if critic is not None and critic.scores:
        facts["scores"] = dict(critic.scores)
    return facts
