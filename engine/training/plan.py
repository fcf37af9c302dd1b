"""What a run will really do, in one line, for whoever watches it begin."""

from collections.abc import Sequence
from typing import Any

from ..bases.base import BaseModel
from ..config import Job, Phase, Recipe
from ..config.adapters import ADAPTERS
from ..data.concepts import Concept
from ..data.quality import near_repeats
from ..data.segmenters.miniature import FOREIGN, certainty

OWN_TURNS = ("magictailor", "magicapture", "masterweaver")  # methods that choose pictures themselves
LOOKED_THROUGH = 300  # pictures; each is compared with all others


def plan_in_words(
    job: Job, phases: Sequence[Phase], concepts: Sequence[Concept], sizes: Sequence[int]
) -> str:
    """The method, its steps, rates and sizes, and the pictures; `sizes` are pixels a side of squares."""
    said = [job.method, _steps(phases), _rates(phases), *_own(job.settings), *_recipe(job.recipe)]
    said += [job.precision, f"{' and '.join(map(str, sizes))} px"]
    pictures = [picture for concept in concepts for picture in concept.pictures]
    masked = sum(picture.mask is not None for picture in pictures)
    if masked and getattr(job.settings, "masked_loss", False):
        said.append("inside masks only")
    if pictures:
        said.append(f"{counted(len(pictures), 'picture')}, {masked or 'none'} with masks")
    return " · ".join(said)


def remarks(job: Job, base: BaseModel, concepts: Sequence[Concept]) -> list[str]:
    """What somebody should know before the run goes on: what it cannot do as they may think."""
    said = []
    pictures = [picture for concept in concepts for picture in concept.pictures]
    masked = sum(picture.mask is not None for picture in pictures)
    if getattr(job.settings, "masked_loss", False) and masked < len(pictures):
        which = f"only {masked} of {len(pictures)} pictures have masks" if masked else "no picture has a mask"
        said.append(f"{which}: the others' backgrounds are learned too" if masked else
                    f"{which}: backgrounds are learned too")  # fmt: skip
    if job.method in OWN_TURNS and any(picture.repeats != 1 for picture in pictures):
        said.append(f"{job.method} takes pictures in turns of its own: repeats of folders mean nothing to it")
    for concept in concepts:
        pairs = near_repeats(concept.pictures) if len(concept.pictures) <= LOOKED_THROUGH else []
        if pairs:
            named = ", ".join(f"{name} repeats {first}" for name, first in pairs)
            said.append(f"{concept.token}: {named}; what is there twice is learned twice: drop the repeats")
    if base.traits.own_world and pictures and certainty([one.pixels for one in pictures]) < FOREIGN:
        said.append(
            "ATTENTION: these are photographs, and the base is the Miniature, which draws nothing but "
            "its own cartoons: what is learned fits no other model; name a checkpoint with --base, or "
            "connect one"
        )
    if base.distilled and base.traits.undistilled_by:
        said.append(
            f"this {base.traits.name} is distilled: what is learned holds up where a LoRA of --on takes that "
            f"out of it ({base.traits.undistilled_by}); draw without that LoRA"
        )
    if base.distilled is False and base.traits.shaky_twin:
        said.append(
            f"what is learned on {base.traits.base_version} is drawn by the distilled version less surely: "
            "others report weaker likenesses; look at both, or learn on the distilled one with "
            f"{base.traits.undistilled_by} under it (--on)"
        )
    if base.distilled is None:
        said.append(
            f"nothing says whether {base.name or 'this model'} is the base version of {base.traits.name} or "
            "the distilled one: learn on the base version, and draw with the distilled one"
        )
    return said


def counted(number: int, what: str) -> str:
    """`1 picture`, `9 pictures`."""
    return f"{number} {what}{'s' * (number != 1)}"


def _steps(phases: Sequence[Phase]) -> str:
    if len(phases) == 1:
        return counted(phases[0].steps, "step")
    return f"{' + '.join(f'{phase.steps} {phase.name}' for phase in phases)} steps"


def _rates(phases: Sequence[Phase]) -> str:
    """Rates by group, those of a later phase behind an arrow where they differ."""
    rates = [_in_phase(phase) for phase in phases]
    return "learning rate " + " → ".join(dict.fromkeys(rates))


def _in_phase(phase: Phase) -> str:
    rates = {name: f"{rate:g}" for name, rate in phase.learning_rates.items() if rate}
    if len(set(rates.values())) == 1:
        return next(iter(rates.values()))
    return ", ".join(f"{name.replace('_', ' ')} {rate}" for name, rate in rates.items()) or "0"


def _recipe(recipe: Recipe) -> list[str]:
    """What of the steps is not as by default."""
    return [f"{name.replace('_', ' ')} {value}" for name, value in recipe.unusual().items()]


def _own(settings: Any) -> list[str]:
    """What the settings say beyond steps and rates, where the method has it."""
    said = []
    kind = getattr(settings, "adapter", None)  # MasterWeaver's is a file
    if kind in ADAPTERS and kind != "lora":
        said.append(kind)
    if (layers := getattr(settings, "layers", "attention")) != "attention":
        said.append(f"{layers} too")
    if rank := getattr(settings, "rank", None):
        said.append(f"rank {rank}")
    if vectors := getattr(settings, "vectors", None):
        said.append(counted(vectors, "vector"))
    if hasattr(settings, "text_encoder"):
        said.append("text encoder too" if settings.text_encoder else "text encoder off")
    if getattr(settings, "prior_weight", 0):
        said.append(f"{settings.prior_pictures} class pictures")
    return said
