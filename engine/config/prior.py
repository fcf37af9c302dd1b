"""Settings of methods that learn beside pictures of the concept's class, which the base itself draws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .checks import above_zero, at_least, one_of, with_gap
from .phase import LR_SCHEDULES

Kind = TypeVar("Kind", bound=type)


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """What DreamBooth-LoRA and Custom Diffusion ask alike: how to step, and how the pictures of the class are
    drawn that keep the rest of it as it is (prior preservation, Ruiz et al. 2023)."""

    steps: int
    token_learning_rate: float = 5e-4  # of the placeholder's rows
    schedule: str = "constant"
    warmup_steps: int = 0
    batch_size: int = 2  # pictures of the concept per pass
    gradient_accumulation: int = 1  # raise when the batch does not fit the GPU
    max_grad_norm: float | None = 1.0
    weight_decay: float = 1e-2
    vectors: int = 1  # rows per placeholder
    prior_weight: float = 1.0  # of the loss on pictures of the class; 0: none are drawn
    prior_pictures: int = 64  # that the base draws before training
    prior_batch_size: int = 2  # of them in each pass
    prior_steps: int = 25  # sampling steps for each of them
    prior_guidance: float = 5.0  # classifier-free guidance for them
    masked_loss: bool = False  # learn only inside the masks; needs concepts with masks
    background_weight: float = 0.1  # the loss's weight outside the masks, with masked_loss
    min_snr_gamma: float | None = None  # 5.0 evens out the timesteps (Hang et al. 2023); None: plain loss
    templates: tuple[str, ...] = ("a photo of {}", "a portrait of {}", "a close-up photo of {}")
    prior_templates: tuple[str, ...] = ("a photo of a {}", "a portrait of a {}", "a close-up photo of a {}")

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch_size", "gradient_accumulation", "vectors", "prior_pictures",
                 "prior_batch_size", "prior_steps")  # fmt: skip
        at_least(self, 0, "token_learning_rate", "warmup_steps", "weight_decay", "prior_weight",
                 "prior_guidance", "background_weight")  # fmt: skip
        above_zero(self, "max_grad_norm", "min_snr_gamma")
        one_of("schedule", self.schedule, LR_SCHEDULES)
        with_gap("templates", self.templates)
        with_gap("prior_templates", self.prior_templates)


def behind(**after: tuple[str, ...]) -> Callable[[Kind], Kind]:
    """Puts a settings class's own fields behind inherited ones, wherever fields are listed.

    Dataclasses list what is inherited first. In help and in files the learning rates stand beside the steps
    and not at the end: `@behind(steps=("learning_rate",))`. Own fields that are not named stay at the end.
    """

    def placed(kind: Kind) -> Kind:
        fields = kind.__dataclass_fields__
        moved = {name for names in after.values() for name in names}
        order = [name for first in fields if first not in moved for name in (first, *after.get(first, ()))]
        kind.__dataclass_fields__ = {name: fields[name] for name in order}
        return kind

    return placed
