"""Textual Inversion's settings and presets."""

from dataclasses import dataclass

from .checks import WORDS, above_zero, at_least, at_most, chosen_preset, one_of, with_gap
from .phase import LR_SCHEDULES


@dataclass(frozen=True, kw_only=True)
class TextualInversionSettings:
    """Learns only the placeholder's vectors (Gal et al. 2022); the default suits a person on SD 1.x."""

    steps: int = 2000  # about 20 minutes on a small GPU
    learning_rate: float = 5e-4  # per step, not multiplied by the batch size
    schedule: str = "constant"
    warmup_steps: int = 0
    batch_size: int = 4  # all pictures of a usual concept at once
    gradient_accumulation: int = 1  # raise when the batch does not fit the GPU
    max_grad_norm: float | None = 1.0
    weight_decay: float = 0.0  # a token far from 0 is no fault
    vectors: int = 1  # rows per placeholder: more hold more likeness, fewer combine better with prompts
    masked_loss: bool = False  # learn only inside the masks; needs concepts with masks
    background_weight: float = 0.1  # the loss's weight outside the masks, with masked_loss
    min_snr_gamma: float | None = None  # 5.0 evens out the timesteps (Hang et al. 2023); None: plain loss
    templates: tuple[str, ...] = (  # training prompts; {} becomes the placeholder
        "a photo of {}",
        "a portrait of {}",
        "a close-up photo of {}",
        "a good photo of {}",
        "a cropped photo of {}",
        "a bright photo of {}",
        "a rendition of {}",
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch_size", "gradient_accumulation", "vectors")
        at_most(self, WORDS, "vectors")
        at_least(self, 0, "learning_rate", "warmup_steps", "weight_decay", "background_weight")
        above_zero(self, "max_grad_norm", "min_snr_gamma")
        one_of("schedule", self.schedule, LR_SCHEDULES)
        with_gap("templates", self.templates)

    @classmethod
    def preset(cls, name: str = "default") -> "TextualInversionSettings":
        """`default`, `paper` (rate 0.005 times batch 8), `reference` (diffusers' example), and of each
        Miniature."""
        small = {"steps": 300, "learning_rate": 2e-2, "batch_size": 4, "vectors": 4,
                 "schedule": "cosine", "masked_loss": True, "min_snr_gamma": 5.0,
                 "templates": ("a photo of {}", "a portrait photo of {}")}  # fmt: skip
        presets = {
            "default": {},
            "paper": {"steps": 5000, "learning_rate": 0.04, "batch_size": 8, "max_grad_norm": None},
            "reference": {"steps": 5000, "learning_rate": 1e-4, "batch_size": 16, "max_grad_norm": None,
                          "weight_decay": 1e-2},
            "miniature": small, "miniature-2": {**small, "min_snr_gamma": None, "learning_rate": 0.04},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))
