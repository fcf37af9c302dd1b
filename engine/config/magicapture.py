"""MagiCapture's settings and presets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..errors import LikenessError
from .checks import RANKS, WORDS, above_zero, at_least, at_most, chosen_preset, one_of, with_braces, with_gap
from .phase import LR_SCHEDULES

_PACKS = ("auraface", "antelopev2", "buffalo_l")  # insightface's, as engine.data.packs knows them


@dataclass(frozen=True, kw_only=True)
class MagiCaptureSettings:
    """Learns a person and a style from two sets of pictures, as LoRA and words (arXiv 2309.06895); the
    default suits SD 1.x."""

    inversion_steps: int = 1200  # on the words alone; 0: none
    tuning_steps: int = 1500  # on LoRA and words, with pictures that join both; 0: none
    inversion_learning_rate: float = 2e-3  # of the words in the first phase, per step
    unet_learning_rate: float = 2e-4  # of the U-Net's LoRA
    text_encoder_learning_rate: float = 4e-5  # of the text encoder's LoRA; 0: it has none
    token_learning_rate: float = 1e-4  # of the words in the second phase
    schedule: str = "linear"  # of each phase
    ahead: bool = False  # each step has the rate of the next (reference)
    batch_size: int = 3  # pictures per pass; 3 is one of each kind: subject, style, composed
    even_kinds: bool = True  # kinds take turns; false: drawn from the reference's list, about evenly
    gradient_accumulation: int = 1  # passes per step; raise when the batch does not fit the GPU
    gradient_checkpointing: bool = False  # less memory for a third more time
    max_grad_norm: float | None = 1.0  # in the second phase
    weight_decay: float = 1e-3  # of everything in the second phase
    rank: int = 4  # of the LoRA
    cross_attention_only: bool = False  # LoRA there alone, not on self-attention and feed-forward too
    unet_strength: float = 0.6  # of the U-Net's LoRA when drawing; learned at 1
    text_encoder_strength: float = 0.9  # of the text encoder's
    vectors: int = 1  # rows per placeholder
    style_deviation: float = 0.0  # above 0 the style's word begins as noise of this size, not as a word
    pull_length: float | None = None  # words are pulled to this length; None: the vocabulary's mean; 0: not
    all_rows: bool = False  # in the second phase the words of the whole language move too (reference)
    identity: str = "auto"  # who judges likeness: auto, none, features, a face pack, a recogniser's file
    landmarks: str = "auto"  # where faces are: detector, mask, or auto: a detector for photographs
    detector: str = "auraface"  # the insightface pack that finds faces
    identity_weight: float = 0.5  # of the identity loss; 0.1 to 1 work
    identity_on_subject: bool = True  # for the subject's own pictures too, not only for composed ones (paper)
    identity_average: bool = True  # compare with the mean of all the subject's pictures, not with one
    detect_each_step: bool = False  # find the face in every estimate (reference), not once in the picture
    timestep_share: float = 0.8  # of all noise levels that the second phase learns at, from the lowest
    identity_timestep_share: float = 0.8  # of all noise levels at which the identity loss looks
    two_passes: bool = False  # the identity loss has a pass and noise level of its own (reference)
    attention_weight: float = 2.5  # of attention refocusing in the second phase; 0: without
    inversion_attention_weight: float = 0.0  # of the same in the first phase
    attention_per_map: bool = False  # each map against the mask (paper), not their mean (reference)
    composed: bool = True  # learn from prompts that join both on the style's pictures; false: without
    style_weight: float = 2.0  # of pictures with a style in the first half of each phase
    mask_floor: float = 0.01  # how much the outside of a mask counts; 0: not at all (paper)
    mask_exponent: float = 1.0  # of masks in the second phase; above 1 soft rims count less
    smooth_masks: bool = True  # masks shrink by averaging; false: by picking single pixels (reference)
    area_normalised: bool = True  # small faces count as much as large ones
    colour_jitter: float = 0.0  # largest change of brightness and contrast, as a share; above 0 is slower
    flip: bool = True  # half of the pictures are mirrored
    min_snr_gamma: float | None = None  # 5.0 evens out the timesteps (Hang et al. 2023); None: plain loss
    prior_weight: float = 0.0  # of the loss on pictures of the subject's class; 0: none are drawn
    prior_pictures: int = 64  # that the base draws before training
    prior_batch_size: int = 1  # of them in each pass of the second phase
    prior_steps: int = 25  # sampling steps for each of them
    prior_guidance: float = 5.0  # classifier-free guidance for them
    prior_templates: tuple[str, ...] = ("a photo of a {}", "a portrait of a {}", "a close-up photo of a {}")
    templates: tuple[str, ...] = (  # training prompts for the subject; {} becomes its placeholder
        "a photo of a {} person", "a photo of a clean {} person", "a photo of the {} person",
        "a photo of one {} person", "a photo of a nice {} person", "a photo of the nice {} person",
        "the photo of a {} person", "a bright photo of the {} person", "a good photo of the {} person",
        "a good photo of a {} person",
    )  # fmt: skip
    style_templates: tuple[str, ...] = (  # for the style's pictures
        "a painting of a person in the style of {}", "the painting of a person in the style of {}",
        "a clean painting of a person in the style of {}", "a bright painting of a person in the style of {}",
        "a good painting of a person in the style of {}", "a nice painting of a person in the style of {}",
        "a picture of a person in the style of {}",
    )  # fmt: skip
    composed_templates: tuple[str, ...] = (  # for both: {subject} and {style} become their placeholders
        "a photo of a {subject} person in the style of {style}",
        "a photo of a clean {subject} person in the style of {style}",
        "a photo of the {subject} person in the style of {style}",
        "a photo of one {subject} person in the style of {style}",
        "a photo of a nice {subject} person in the style of {style}",
        "a photo of the nice {subject} person in the style of {style}",
        "the photo of a {subject} person in the style of {style}",
        "a bright photo of the {subject} person in the style of {style}",
        "a good photo of the {subject} person in the style of {style}",
        "a good photo of a {subject} person in the style of {style}",
    )

    # settings that name files, and what else they may say: a workflow's text may say only that
    FILES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "identity": ("auto", "none", "features", *_PACKS), "detector": _PACKS,
    }  # fmt: skip

    def __post_init__(self) -> None:
        at_least(self, 0, "inversion_steps", "tuning_steps", "inversion_learning_rate", "unet_learning_rate",
                 "text_encoder_learning_rate", "token_learning_rate", "weight_decay", "style_deviation",
                 "pull_length", "identity_weight", "attention_weight", "inversion_attention_weight",
                 "style_weight", "mask_floor", "colour_jitter", "prior_weight", "prior_guidance",
                 "unet_strength", "text_encoder_strength")  # fmt: skip
        at_least(self, 1, "batch_size", "gradient_accumulation", "rank", "vectors", "prior_pictures",
                 "prior_batch_size", "prior_steps")  # fmt: skip
        at_most(self, RANKS, "rank")
        at_most(self, WORDS, "vectors")
        above_zero(self, "max_grad_norm", "mask_exponent", "min_snr_gamma", "timestep_share",
                   "identity_timestep_share")  # fmt: skip
        one_of("schedule", self.schedule, LR_SCHEDULES)
        one_of("landmarks", self.landmarks, ("auto", "detector", "mask"))
        for name in ("templates", "style_templates", "prior_templates"):
            with_gap(name, getattr(self, name), subject="<v0>", style="<v1>")
        joint = self.composed_templates
        if not joint or any("{subject}" not in text or "{style}" not in text for text in joint):
            raise LikenessError(
                "'composed_templates' must hold prompts with {subject} and {style}: "
                "'a photo of {subject} in the style of {style}'"
            )
        with_braces("composed_templates", joint, "<v0>", subject="<v0>", style="<v1>")
        for name in ("timestep_share", "identity_timestep_share", "mask_floor", "colour_jitter"):
            if getattr(self, name) > 1:
                raise LikenessError(f"'{name}' is {getattr(self, name)}; it is a share, 0 to 1")
        if self.inversion_steps + self.tuning_steps == 0:
            raise LikenessError("'inversion_steps' and 'tuning_steps' are both 0; nothing would be learned")

    @classmethod
    def preset(cls, name: str = "default") -> "MagiCaptureSettings":
        """`default`, `paper`, `reference` (its README's command, but with a refocusing loss that has
        gradients), one of each Miniature."""
        small = {"inversion_steps": 80, "tuning_steps": 120, "inversion_learning_rate": 2e-2,
                 "unet_learning_rate": 4e-3, "text_encoder_learning_rate": 1e-3,
                 "token_learning_rate": 5e-3, "schedule": "cosine", "batch_size": 6, "rank": 8,
                 "weight_decay": 0.0, "unet_strength": 1.0, "text_encoder_strength": 1.0,
                 "vectors": 2, "min_snr_gamma": 5.0, "identity_weight": 0.25,
                 "identity_on_subject": False, "identity_timestep_share": 0.6,
                 "templates": ("a photo of {}", "a portrait photo of {}"),
                 "style_templates": ("a {} of a man", "a {} of a woman", "a {} of a person"),
                 "composed_templates": ("a {style} of {subject}",)}  # fmt: skip
        presets = {
            "default": {},
            "paper": {"inversion_learning_rate": 5e-4, "unet_learning_rate": 1e-4,
                      "text_encoder_learning_rate": 1e-5, "token_learning_rate": 1e-5, "batch_size": 1,
                      "gradient_accumulation": 4, "cross_attention_only": True, "unet_strength": 1.0,
                      "text_encoder_strength": 1.0, "style_deviation": 0.017, "pull_length": 0.0,
                      "identity_weight": 1.0, "identity_on_subject": False, "identity_average": False,
                      "timestep_share": 1.0, "two_passes": True, "attention_per_map": True,
                      "style_weight": 1.0, "mask_floor": 0.0, "smooth_masks": False,
                      "area_normalised": False, "even_kinds": True},
            "reference": {"unet_learning_rate": 4e-4, "ahead": True, "batch_size": 1, "even_kinds": False,
                          "style_deviation": 0.017, "pull_length": 0.4, "all_rows": True,
                          "identity_weight": 0.25, "identity_average": False, "detect_each_step": True,
                          "two_passes": True, "smooth_masks": False, "colour_jitter": 0.1},
            "miniature": small, "miniature-2": {**small, "min_snr_gamma": None},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))
