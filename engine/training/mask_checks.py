"""Whether masks leave something to learn, asked before the first step."""

from collections.abc import Callable, Sequence

from ..data.concepts import Concept
from ..data.examples import Examples
from ..errors import LikenessError


def check_masks(
    concepts: Sequence[Concept], examples: Examples, what: Callable[[Concept], str], least: float = 0.0
) -> None:
    """Raises unless every picture has a mask that, within what training sees of it, marks something.

    `what` a concept's masks mark, for the message; where a mask nowhere reaches `least`, it is empty.
    """
    pictures = [(concept, picture) for concept in concepts for picture in concept.pictures]
    for (concept, picture), mask in zip(pictures, examples.masks):
        where, thing = f"{concept.token}, picture {picture.name}", what(concept)
        if picture.mask is None:
            raise LikenessError(
                f"{where}: there is no mask; mark the {thing} in masks/{picture.name}.png, or let "
                "`likeness masks`, or in ComfyUI a mask node before Training Subject, do it"
            )
        if not ((mask >= least) & (mask > 0)).any():
            raise LikenessError(
                f"{where}: the mask of the {thing} is empty where training looks; move the {thing} to the "
                "middle, or drop the picture"
            )
