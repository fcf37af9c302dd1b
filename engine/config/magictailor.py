"""MagicTailor's settings and presets."""

from dataclasses import dataclass

from ..errors import LikenessError
from .checks import RANKS, WORDS, above_zero, at_least, at_most, chosen_preset, one_of, with_gap
from .phase import LR_SCHEDULES

DEGRADATIONS = ("dynamic", "fixed", "linear", "rising", "mask out", "none")  # MagicTailor's, outside masks


@dataclass(frozen=True, kw_only=True)
class MagicTailorSettings:
    """Learns a subject and components of it from other pictures together, as LoRA and words
    (arXiv 2410.13370); the default suits SD 1.x."""

    warm_up_steps: int = 200  # on all concepts alike; 0: none
    balance_steps: int = 300  # on the worst concept, the others held where a slow teacher has them; 0: none
    warm_up_learning_rate: float = 1e-4  # of LoRA and words, per step
    balance_learning_rate: float = 1e-5  # the same in the second phase
    restored_rate: bool = False  # the second rate lasts one step, then the first is back (reference)
    token_learning_rate: float | None = None  # of the words, in both phases; None: as the LoRA's
    schedule: str = "constant"  # of each phase
    batch_size: int = 0  # pictures per step, evenly from all concepts; 0: all pictures there are
    pass_size: int = 0  # pictures in one pass of the network; less needs less memory; 0: all at once
    gradient_accumulation: int = 1  # steps' losses averaged before each update
    gradient_checkpointing: bool = False  # less memory for a third more time
    max_grad_norm: float | None = 1.0  # over the LoRA
    weight_decay: float = 1e-2  # of the LoRA
    token_decay: bool = False  # of the words too, as the reference has it
    rank: int = 32  # of the LoRA
    alpha: float = 32.0  # updates are scaled by alpha / rank
    vectors: int = 1  # rows per placeholder
    all_rows: bool = False  # the words of the whole language move too (reference); files of 150 MB and more
    degradation: str = "dynamic"  # noise outside the masks: dynamic, fixed, linear, rising, mask out or none
    intensity: float | None = None  # of that noise at the start, of half the pixels' range; None: the base's
    intensity_exponent: float = 32.0  # how late dynamic noise lets go
    colour_jitter: float = 0.1  # largest change of brightness, contrast and saturation, as a share; 0: none
    flip: bool = True  # half of the steps see all pictures mirrored
    attention_weight: float = 0.01  # of the loss that keeps a word's attention inside its mask; 0: without
    balancing: bool = True  # the second phase balances; false: it goes on as the first
    preservation_weight: float = 0.2  # of staying near the teacher; 0: without
    momentum: float = 0.99  # share of the teacher that stays at each step
    momentum_first_copies: bool = False  # the first update copies the student (reference)
    momentum_tokens: bool = False  # the teacher has slow words too, not only a slow LoRA
    area_normalised: bool = False  # the worst concept is sought per masked area, so that small ones count
    selection_temperature: float | None = None  # above 0: bad concepts share a step; None: only the worst
    shared_timestep: bool = False  # all concepts' pictures have the same noise levels, so that losses compare
    joint_share: float = 0.0  # how often a prompt names all concepts: "<v0> with <v1>"
    component_margin: float = 0.0  # of the short side: components are learned so far past their masks' edges
    smooth_masks: bool = True  # masks shrink by averaging; false: by picking single pixels (reference)
    whole_pictures: bool = False  # no cropping: the short side is scaled (reference); needs equal proportions
    templates: tuple[str, ...] = ("a photo of {}",)

    def __post_init__(self) -> None:
        at_least(self, 0, "warm_up_steps", "balance_steps", "warm_up_learning_rate", "balance_learning_rate",
                 "token_learning_rate", "batch_size", "pass_size", "weight_decay", "intensity",
                 "colour_jitter", "attention_weight", "preservation_weight")  # fmt: skip
        at_least(self, 1, "gradient_accumulation", "rank", "vectors")
        at_most(self, RANKS, "rank")
        at_most(self, WORDS, "vectors")
        above_zero(self, "max_grad_norm", "alpha", "intensity_exponent", "selection_temperature")
        one_of("schedule", self.schedule, LR_SCHEDULES)
        one_of("degradation", self.degradation, DEGRADATIONS)
        with_gap("templates", self.templates)
        for name in ("momentum", "joint_share", "colour_jitter", "component_margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise LikenessError(f"'{name}' is {getattr(self, name)}; it is a share, 0 to 1")
        if self.warm_up_steps + self.balance_steps == 0:
            raise LikenessError("'warm_up_steps' and 'balance_steps' are both 0; nothing would be learned")

    @classmethod
    def preset(cls, name: str = "default") -> "MagicTailorSettings":
        """`default`, `paper` (second rate really 1e-5), `reference` (as shipped), one of each Miniature."""
        small = {"warm_up_steps": 80, "balance_steps": 120, "warm_up_learning_rate": 2e-3,
                 "balance_learning_rate": 1e-3, "token_learning_rate": 5e-3, "batch_size": 4,
                 "rank": 8, "alpha": 8.0, "weight_decay": 0.0, "vectors": 4, "joint_share": 0.5,
                 "intensity": 1.0, "attention_weight": 0.05, "component_margin": 0.0625,
                 "area_normalised": True, "shared_timestep": True}  # fmt: skip
        presets = {
            "default": {},
            "paper": {"smooth_masks": False},
            "reference": {"smooth_masks": False, "whole_pictures": True, "token_decay": True,
                          "all_rows": True, "restored_rate": True, "momentum_first_copies": True},
            "miniature": small, "miniature-2": small,
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))
