"""PersonaMagic's settings and presets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..errors import LikenessError
from ..staged.stages import StagePlan, check_interval
from .checks import WORDS, above_zero, at_least, at_most, chosen_preset, one_of, with_gap
from .phase import LR_SCHEDULES

MINIATURE_OPEN_PROMPTS = (  # in the words the Miniature knows; none is among its test prompts
    "a photo of {}, wearing a beanie", "a photo of {}, wearing a green hoodie",
    "a photo of {}, in snowy mountains", "a sketch of {}", "a photo of a surprised {}",
    "a photo of {}, wearing round glasses, in space", "a poster of {}, on a beach",
    "a photo of {}, wearing a crown", "a watercolor of {}", "a photo of a sad {}",
    "a photo of {}, wearing sunglasses", "a photo of {}, in a city at night",
    "a portrait photo of a smiling {}", "a photo of {}, wearing a white suit, in a forest",
    "a photo of {}, wearing a top hat and a blue shirt",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PersonaMagicSettings:
    """Learns a mapper from noise level and picture to pseudo-words (arXiv 2412.15674), nothing else."""

    steps: int = 1000  # optimiser steps
    learning_rate: float = 1e-4  # of the mapper, per step
    schedule: str = "constant"
    warmup_steps: int = 0
    batch_size: int = 2  # pictures per pass
    gradient_accumulation: int = 1  # raise when the batch does not fit the GPU
    max_grad_norm: float | None = 1.0
    weight_decay: float = 1e-2  # of the whole mapper
    vectors: int = 4  # pseudo-words per placeholder
    interval: tuple[int, ...] = (400, 800)  # timesteps that are learned; above them the class word stands
    anchors: int = 200  # noise levels that the mapper compares with to begin with
    hidden_width: int = 128  # of the mapper's layers
    single_stage: bool = False  # the same pseudo-words at every noise level
    bypass: bool = True  # the picture's own part, added behind the text encoder, for values only
    bypass_dropout: float = 0.5  # how often a training step goes without the bypass
    zero_init: bool = False  # begin as the class word without a bypass, not somewhere at random
    balance_weight: float = 1e-3  # of Tandem Equilibrium; 0: without
    balance_sharpness: float = 100.0  # of the comparison of attentions in it
    balance_real_queries: bool = False  # compare at the prompt's own tokens, not at the padding behind it
    stages: int = 50  # encodings of the interval when drawing; up to one per timestep
    late: str = "hold"  # below the interval when drawing: hold the last pseudo-words, or class word
    image_encoder: str = "auto"  # a CLIP image tower's folder, a features file, none; auto: the base's
    masked_loss: bool = True  # learn only inside the masks, where there are masks
    background_weight: float = 0.0  # the loss's weight outside the masks, with masked_loss
    min_snr_gamma: float | None = None  # 5.0 evens out the timesteps (Hang et al. 2023); None: plain loss
    squash: bool = False  # squeeze whole pictures into squares as the reference does, instead of cropping
    templates: tuple[str, ...] = (  # training prompts; {} becomes the placeholder
        "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}",
        "a photo of a clean {}", "a dark photo of the {}", "a photo of my {}", "a photo of the cool {}",
        "a close-up photo of a {}", "a bright photo of the {}", "a cropped photo of a {}",
        "a photo of the {}", "a good photo of the {}", "a photo of one {}", "a close-up photo of the {}",
        "a rendition of the {}", "a rendition of a {}", "a photo of a nice {}", "a good photo of a {}",
        "a bright photo of a {}", "a sharp photo of the {}", "a sharp photo of a {}",
        "a detailed photo of a {}", "a studio photo of a {}", "a color photo of the {}",
        "a natural photo of a {}", "a simple photo of the {}",
    )  # fmt: skip
    style_templates: tuple[str, ...] = (  # the same for concepts whose role is style
        "a painting in the style of {}", "a rendering in the style of {}", "a picture in the style of {}",
        "the painting in the style of {}", "a clean painting in the style of {}",
        "a dirty painting in the style of {}", "a dark painting in the style of {}",
        "a cool painting in the style of {}", "a close-up painting in the style of {}",
        "a bright painting in the style of {}", "a cropped painting in the style of {}",
        "a good painting in the style of {}", "a rendition in the style of {}",
        "a nice painting in the style of {}", "a small painting in the style of {}",
        "a weird painting in the style of {}", "a large painting in the style of {}",
        "a drawing in the style of {}", "a sketch in the style of {}",
    )  # fmt: skip
    open_prompts: tuple[str, ...] = (  # what Tandem Equilibrium is measured on: pose, clothes, place
        "{} sitting on a chair", "{} riding a bicycle", "{} running on a track", "{} playing the guitar",
        "{} reading a book", "{} dancing on a stage", "{} cooking in a kitchen", "{} jumping in the air",
        "{} wearing a suit", "{} wearing a red dress", "{} wearing a straw hat", "{} wearing sunglasses",
        "{} dressed as a doctor", "{} wearing a winter coat", "{} on a beach", "{} in a snowy forest",
        "{} in front of a castle", "{} in a busy street", "{} at a concert", "{} on top of a mountain",
    )  # fmt: skip

    # settings that name files, and what else they may say: a workflow's text may say only that
    FILES: ClassVar[Mapping[str, tuple[str, ...]]] = {"image_encoder": ("auto", "none")}

    def __post_init__(self) -> None:
        at_least(
            self, 1, "steps", "batch_size", "gradient_accumulation", "vectors", "anchors", "hidden_width"
        )
        at_most(self, WORDS, "vectors")
        at_least(self, 0, "learning_rate", "warmup_steps", "weight_decay", "balance_weight", "bypass_dropout",
                 "background_weight")  # fmt: skip
        above_zero(self, "max_grad_norm", "min_snr_gamma", "balance_sharpness")
        one_of("schedule", self.schedule, LR_SCHEDULES)
        if self.bypass_dropout > 1:
            raise LikenessError(f"'bypass_dropout' is {self.bypass_dropout}; it is a share, 0 to 1")
        check_interval(self.interval)
        low, high = self.interval
        StagePlan(interval=(low, high), stages=self.stages, late=self.late)
        for name in ("templates", "style_templates", "open_prompts"):
            with_gap(name, getattr(self, name))
        if any(not prompt.replace("{}", "").strip() for prompt in self.open_prompts):
            raise LikenessError("'open_prompts' must say something beside {}: '{} on a beach'")

    @classmethod
    def preset(cls, name: str = "default") -> "PersonaMagicSettings":
        """`default`, `reference` (as shipped), `paper` (class word before and after), and of each
        Miniature."""
        reference = {"batch_size": 1, "gradient_accumulation": 2, "max_grad_norm": None, "squash": True}
        small = {"steps": 300, "learning_rate": 2e-3, "schedule": "cosine", "batch_size": 4,
                 "templates": ("a photo of {}", "a portrait photo of {}"),
                 "style_templates": ("a photo in the style of {}", "a painting in the style of {}"),
                 "open_prompts": MINIATURE_OPEN_PROMPTS}  # fmt: skip
        presets = {
            "default": {},
            "reference": {**reference, "stages": 400},
            "paper": {**reference, "stages": 400, "late": "class word"},
            "miniature": small, "miniature-2": small,
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))
