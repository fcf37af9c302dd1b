"""What a training run is asked to do: frozen settings that validate themselves and go to JSON and back."""

import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import LikenessError, nearest
from .networks.stages import StagePlan

ROLES = ("subject", "style", "component")
BASE_KINDS = ("miniature", "checkpoint", "diffusers", "hub", "graph")
SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu")
DEGRADATIONS = ("dynamic", "fixed", "linear", "rising", "mask out", "none")  # MagicTailor's, outside masks
TOKEN = re.compile(r"<[A-Za-z0-9_-]+>")
MODEL_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

EDIT_TEMPLATES = (  # MasterWeaver's: 17 of Textual Inversion's, and the bare one
    "a {}", "a photo of a {}", "a rendering of a {}", "the photo of a {}", "a photo of a clean {}",
    "a photo of the cool {}", "a bright photo of the {}", "a cropped photo of a {}", "a photo of the {}",
    "a good photo of the {}", "a photo of one {}", "a rendition of the {}", "a photo of the clean {}",
    "a rendition of a {}", "a photo of a nice {}", "a good photo of a {}", "a photo of the nice {}",
    "a photo of a cool {}",
)  # fmt: skip
EDITS = (  # MasterWeaver's 43 lines, 40 of them different
    *(f"{{}} with {kind} bangs" for kind in ("straight", "short", "long")),
    *(f"{{}} with {kind} hair" for kind in (
        "wavy", "curly", "straight", "short", "long", "black", "red", "purple", "yellow", "grey", "gray",
        "blue", "green", "blond", "rainbow", "hi-top_fade", "bob-cut", "afro")),
    *(f"{{}} with {thing}" for thing in ("eyeglasses", "sunglasses", "mustache", "goatee")),
    *(f"{{}} wearing {thing}" for thing in ("eyeglasses", "sunglasses", "red hat")),
    *(f"{look} {{}}" for look in (
        "smiling", "smiling", "happy", "happy", "angry", "chubby", "sad", "cute", "bald", "crying",
        "surprised", "old", "young")),
    "{} smiling", "{} smiling",
)  # fmt: skip
MINIATURE_EDIT_TEMPLATES = (  # in the words the Miniature knows
    "a photo of a {}", "a portrait photo of a {}", "a pencil sketch of a {}", "a poster of a {}",
    "a watercolor of a {}",
)  # fmt: skip
MINIATURE_EDITS = (
    *(f"{look} {{}}" for look in ("smiling", "sad", "surprised")),
    *(f"{{}} with {colour} hair" for colour in ("black", "brown", "blonde", "red", "gray", "blue", "pink")),
    *(f"{{}} with {beard}" for beard in ("a mustache", "a goatee", "a full beard", "a bald head")),
    *(f"{{}}, wearing {thing}" for thing in (
        "round glasses", "sunglasses", "a beanie", "a top hat", "a crown")),
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """Which diffusion model to start from."""

    kind: str = "miniature"
    path: str | None = None  # a single-file checkpoint, a diffusers folder, or a model's name on the hub
    tokenizer: str | None = None  # a CLIP tokenizer's folder: single-file checkpoints hold none
    vae: str | None = None  # another VAE for a single-file checkpoint: a file, a checkpoint or a folder
    clip: str | None = None  # other text encoders for it: a checkpoint of its kind or a diffusers folder

    def __post_init__(self) -> None:
        one_of("base kind", self.kind, BASE_KINDS)
        if self.kind in ("checkpoint", "diffusers", "hub") and not self.path:
            raise LikenessError(f"a base of kind '{self.kind}' needs a path; give the file or folder")

    @classmethod
    def parse(cls, text: str, tokenizer: str | None = None) -> "BaseSpec":
        """`miniature`, a folder, a file or a model in the hub's cache (`owner/name`), as typed."""
        if text == "miniature":
            return cls()
        path = Path(text).expanduser()
        if not path.exists() and HUB_NAME.fullmatch(text) and path.suffix not in MODEL_FILES:
            return cls(kind="hub", path=text)
        return cls(kind="diffusers" if path.is_dir() else "checkpoint", path=text, tokenizer=tokenizer)


@dataclass(frozen=True, kw_only=True)
class ConceptSpec:
    """A folder of pictures, and what to call its content in prompts."""

    folder: str
    token: str = "<v0>"
    class_word: str | None = None  # None: as concept.json says
    role: str | None = None  # None: as concept.json says
    asset: int | None = None  # in MagicTailor's folder of several concepts: the number before its file names

    def __post_init__(self) -> None:
        if not TOKEN.fullmatch(self.token):
            raise LikenessError(
                f"'{self.token}' cannot be a placeholder; write letters, digits, - or _ between < and >, "
                "such as <v0>"
            )
        if self.role is not None:
            one_of("role", self.role, ROLES)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with one set of trained parameters, one optimiser and one schedule."""

    name: str
    steps: int  # optimiser steps
    learning_rates: Mapping[str, float]  # by parameter group; groups not named stay still
    schedule: str = "constant"  # of all learning rates, after the warm-up; cosine and linear end at 0
    ahead: bool = False  # each step has the rate of the next, so that the last is wasted (MagiCapture's code)
    warmup_steps: int = 0  # the rate climbs from 0 linearly
    batch_size: int = 1  # examples per pass, over all processes together: any number of GPUs, one result
    gradient_accumulation: int = 1  # passes per optimiser step
    max_grad_norm: float | None = 1.0  # over all trained parameters; None: no clipping
    weight_decay: float = 0.0  # AdamW's, for all groups
    without_decay: tuple[str, ...] = ()  # groups that AdamW does not shrink all the same
    clipped: tuple[str, ...] | None = None  # groups that max_grad_norm is over; None: all of them
    keeps_moments: bool = False  # the optimiser goes on from the phase before instead of starting afresh

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch_size", "gradient_accumulation")
        at_least(self, 0, "warmup_steps", "weight_decay")
        above_zero(self, "max_grad_norm")
        one_of("schedule", self.schedule, SCHEDULES)


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
        at_least(self, 0, "learning_rate", "warmup_steps", "weight_decay", "background_weight")
        above_zero(self, "max_grad_norm", "min_snr_gamma")
        one_of("schedule", self.schedule, SCHEDULES)
        with_gap("templates", self.templates)

    @classmethod
    def preset(cls, name: str = "default") -> "TextualInversionSettings":
        """`default`, `paper` (rate 0.005 times batch 8), `reference` (diffusers' example), `miniature`."""
        presets = {
            "default": {},
            "paper": {"steps": 5000, "learning_rate": 0.04, "batch_size": 8, "max_grad_norm": None},
            "reference": {"steps": 5000, "learning_rate": 1e-4, "batch_size": 16, "max_grad_norm": None,
                          "weight_decay": 1e-2},
            "miniature": {"steps": 300, "learning_rate": 2e-2, "batch_size": 4, "vectors": 4,
                          "schedule": "cosine", "masked_loss": True, "min_snr_gamma": 5.0,
                          "templates": ("a photo of {}", "a portrait photo of {}")},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))


@dataclass(frozen=True, kw_only=True)
class DreamBoothLoraSettings:
    """Learns low-rank updates of the attention layers, beside pictures of the class that the base itself drew
    (Ruiz et al. 2023; Hu et al. 2021); the default suits a person on SD 1.x."""

    steps: int = 800  # 4 to 8 pictures; more overfits
    unet_learning_rate: float = 1e-4  # of the U-Net's LoRA
    text_encoder_learning_rate: float = 5e-5  # of the text encoder's LoRA; lower, for it forgets faster
    token_learning_rate: float = 5e-4  # of the placeholder's rows
    schedule: str = "constant"
    warmup_steps: int = 0
    batch_size: int = 2  # pictures of the concept per pass
    gradient_accumulation: int = 1  # raise when the batch does not fit the GPU
    max_grad_norm: float | None = 1.0
    weight_decay: float = 1e-2  # as the diffusers example has it
    rank: int = 16  # of the updates; 4 to 32, larger files and likeness with it
    alpha: float = 16.0  # updates are scaled by alpha / rank
    text_encoder: bool = False  # give the text encoder a LoRA too: closer likeness, looser prompts
    train_token: bool = True  # the placeholder has rows of its own, begun from the class word
    vectors: int = 1  # rows per placeholder
    identifier: str = "sks"  # without train_token the placeholder reads "<identifier> <class word>"
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
        at_least(self, 1, "steps", "batch_size", "gradient_accumulation", "rank", "vectors", "prior_pictures",
                 "prior_batch_size", "prior_steps")  # fmt: skip
        at_least(self, 0, "unet_learning_rate", "text_encoder_learning_rate", "token_learning_rate",
                 "warmup_steps", "weight_decay", "prior_weight", "prior_guidance",
                 "background_weight")  # fmt: skip
        above_zero(self, "alpha", "max_grad_norm", "min_snr_gamma")
        one_of("schedule", self.schedule, SCHEDULES)
        with_gap("templates", self.templates)
        with_gap("prior_templates", self.prior_templates)

    @classmethod
    def preset(cls, name: str = "default") -> "DreamBoothLoraSettings":
        """`default`, `reference` (diffusers' LoRA example with prior preservation), `miniature`."""
        presets = {
            "default": {},
            "reference": {"steps": 500, "rank": 4, "alpha": 4.0, "batch_size": 1, "prior_batch_size": 1,
                          "prior_pictures": 100, "train_token": False, "templates": ("a photo of {}",),
                          "prior_templates": ("a photo of {}",)},
            "miniature": {"steps": 150, "unet_learning_rate": 5e-3, "text_encoder": True,
                          "text_encoder_learning_rate": 2e-3, "token_learning_rate": 5e-3,
                          "schedule": "cosine", "rank": 8, "alpha": 8.0,
                          "batch_size": 4, "prior_batch_size": 2, "prior_pictures": 16, "prior_steps": 12,
                          "weight_decay": 0.0, "masked_loss": True, "min_snr_gamma": 5.0,
                          "templates": ("a photo of {}", "a portrait photo of {}"),
                          "prior_templates": ("a photo of a {}", "a portrait photo of a {}")},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))


@dataclass(frozen=True, kw_only=True)
class CustomDiffusionSettings:
    """Learns the U-Net's text keys and values with the placeholder, beside pictures of the class that the
    base drew (Kumari et al. 2023, arXiv 2212.04488); the default suits a person on SD 1.x."""

    steps: int = 1000  # people need more than the paper's 250
    learning_rate: float = 1e-5  # of keys and values, per step
    token_learning_rate: float = 5e-4  # of the placeholder's rows
    schedule: str = "constant"
    warmup_steps: int = 0
    batch_size: int = 2  # pictures of the concept per pass
    gradient_accumulation: int = 1  # raise when the batch does not fit the GPU
    max_grad_norm: float | None = 1.0
    weight_decay: float = 1e-2  # draws the keys and values back to the base's
    rank: int | None = None  # of the saved differences; None: all that there is, 16 makes small files
    identifier: str = ""  # a rare word that the placeholder begins as, before the class word
    vectors: int = 1  # rows per placeholder, without an identifier
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
        at_least(self, 1, "steps", "batch_size", "gradient_accumulation", "rank", "vectors", "prior_pictures",
                 "prior_batch_size", "prior_steps")  # fmt: skip
        at_least(self, 0, "learning_rate", "token_learning_rate", "warmup_steps", "weight_decay",
                 "prior_weight", "prior_guidance", "background_weight")  # fmt: skip
        above_zero(self, "max_grad_norm", "min_snr_gamma")
        one_of("schedule", self.schedule, SCHEDULES)
        with_gap("templates", self.templates)
        with_gap("prior_templates", self.prior_templates)

    @classmethod
    def preset(cls, name: str = "default") -> "CustomDiffusionSettings":
        """`default`, `paper` (250 steps of 8, rate 1e-5 times batch, a rare word), `miniature`."""
        presets = {
            "default": {},
            "paper": {"steps": 250, "learning_rate": 8e-5, "token_learning_rate": 8e-5, "batch_size": 8,
                      "prior_batch_size": 8, "prior_pictures": 200, "identifier": "ktn",
                      "templates": ("a photo of a {}",), "prior_templates": ("a photo of a {}",)},
            "miniature": {"steps": 200, "learning_rate": 2e-3, "token_learning_rate": 1e-2,
                          "schedule": "cosine", "batch_size": 4, "vectors": 4, "prior_batch_size": 2,
                          "prior_pictures": 16, "prior_steps": 12, "weight_decay": 0.0, "masked_loss": True,
                          "min_snr_gamma": 5.0, "templates": ("a photo of {}", "a portrait photo of {}"),
                          "prior_templates": ("a photo of a {}", "a portrait photo of a {}")},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))


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

    def __post_init__(self) -> None:
        at_least(
            self, 1, "steps", "batch_size", "gradient_accumulation", "vectors", "anchors", "hidden_width"
        )
        at_least(self, 0, "learning_rate", "warmup_steps", "weight_decay", "balance_weight", "bypass_dropout",
                 "background_weight")  # fmt: skip
        above_zero(self, "max_grad_norm", "min_snr_gamma", "balance_sharpness")
        one_of("schedule", self.schedule, SCHEDULES)
        if self.bypass_dropout > 1:
            raise LikenessError(f"'bypass_dropout' is {self.bypass_dropout}; it is a share, 0 to 1")
        StagePlan(interval=tuple(self.interval), stages=self.stages, late=self.late)
        for name in ("templates", "style_templates", "open_prompts"):
            with_gap(name, getattr(self, name))
        if any(not prompt.replace("{}", "").strip() for prompt in self.open_prompts):
            raise LikenessError("'open_prompts' must say something beside {}: '{} on a beach'")

    @classmethod
    def preset(cls, name: str = "default") -> "PersonaMagicSettings":
        """`default`, `reference` (as shipped), `paper` (class word before and after), `miniature`."""
        reference = {"batch_size": 1, "gradient_accumulation": 2, "max_grad_norm": None, "squash": True}
        presets = {
            "default": {},
            "reference": {**reference, "stages": 400},
            "paper": {**reference, "stages": 400, "late": "class word"},
            "miniature": {"steps": 300, "learning_rate": 2e-3, "schedule": "cosine", "batch_size": 4,
                          "templates": ("a photo of {}", "a portrait photo of {}"),
                          "style_templates": ("a photo in the style of {}", "a painting in the style of {}"),
                          "open_prompts": MINIATURE_OPEN_PROMPTS},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))


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
    intensity: float = 0.5  # of that noise at the start, in units of half the pixels' range
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
    shared_timestep: bool = False  # one noise level for all pictures of a step, so that losses compare
    joint_share: float = 0.0  # how often a prompt names all concepts: "<v0> with <v1>"
    smooth_masks: bool = True  # masks shrink by averaging; false: by picking single pixels (reference)
    whole_pictures: bool = False  # no cropping: the short side is scaled (reference); needs equal proportions
    templates: tuple[str, ...] = ("a photo of {}",)

    def __post_init__(self) -> None:
        at_least(self, 0, "warm_up_steps", "balance_steps", "warm_up_learning_rate", "balance_learning_rate",
                 "token_learning_rate", "batch_size", "pass_size", "weight_decay", "intensity",
                 "colour_jitter", "attention_weight", "preservation_weight")  # fmt: skip
        at_least(self, 1, "gradient_accumulation", "rank", "vectors")
        above_zero(self, "max_grad_norm", "alpha", "intensity_exponent", "selection_temperature")
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("degradation", self.degradation, DEGRADATIONS)
        with_gap("templates", self.templates)
        for name in ("momentum", "joint_share", "colour_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise LikenessError(f"'{name}' is {getattr(self, name)}; it is a share, 0 to 1")
        if self.warm_up_steps + self.balance_steps == 0:
            raise LikenessError("'warm_up_steps' and 'balance_steps' are both 0; nothing would be learned")

    @classmethod
    def preset(cls, name: str = "default") -> "MagicTailorSettings":
        """`default`, `paper` (second rate really 1e-5), `reference` (as shipped), `miniature`."""
        presets = {
            "default": {},
            "paper": {"smooth_masks": False},
            "reference": {"smooth_masks": False, "whole_pictures": True, "token_decay": True,
                          "all_rows": True, "restored_rate": True, "momentum_first_copies": True},
            "miniature": {"warm_up_steps": 80, "balance_steps": 120, "warm_up_learning_rate": 5e-3,
                          "balance_learning_rate": 1e-3, "token_learning_rate": 5e-3, "batch_size": 4,
                          "rank": 8, "alpha": 8.0, "weight_decay": 0.0, "vectors": 4, "joint_share": 0.5},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))


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

    def __post_init__(self) -> None:
        at_least(self, 0, "inversion_steps", "tuning_steps", "inversion_learning_rate", "unet_learning_rate",
                 "text_encoder_learning_rate", "token_learning_rate", "weight_decay", "style_deviation",
                 "pull_length", "identity_weight", "attention_weight", "inversion_attention_weight",
                 "style_weight", "mask_floor", "colour_jitter", "prior_weight", "prior_guidance",
                 "unet_strength", "text_encoder_strength")  # fmt: skip
        at_least(self, 1, "batch_size", "gradient_accumulation", "rank", "vectors", "prior_pictures",
                 "prior_batch_size", "prior_steps")  # fmt: skip
        above_zero(self, "max_grad_norm", "mask_exponent", "min_snr_gamma", "timestep_share",
                   "identity_timestep_share")  # fmt: skip
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("landmarks", self.landmarks, ("auto", "detector", "mask"))
        for name in ("templates", "style_templates", "prior_templates"):
            with_gap(name, getattr(self, name))
        joint = self.composed_templates
        if not joint or any("{subject}" not in text or "{style}" not in text for text in joint):
            raise LikenessError(
                "'composed_templates' must hold prompts with {subject} and {style}: "
                "'a photo of {subject} in the style of {style}'"
            )
        for name in ("timestep_share", "identity_timestep_share", "mask_floor", "colour_jitter"):
            if getattr(self, name) > 1:
                raise LikenessError(f"'{name}' is {getattr(self, name)}; it is a share, 0 to 1")
        if self.inversion_steps + self.tuning_steps == 0:
            raise LikenessError("'inversion_steps' and 'tuning_steps' are both 0; nothing would be learned")

    @classmethod
    def preset(cls, name: str = "default") -> "MagiCaptureSettings":
        """`default`, `paper`, `reference` (its README's command, but with a refocusing loss that has
        gradients), `miniature`."""
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
            "miniature": {"inversion_steps": 80, "tuning_steps": 120, "inversion_learning_rate": 2e-2,
                          "unet_learning_rate": 4e-3, "text_encoder_learning_rate": 1e-3,
                          "token_learning_rate": 5e-3, "schedule": "cosine", "batch_size": 6, "rank": 8,
                          "weight_decay": 0.0, "unet_strength": 1.0, "text_encoder_strength": 1.0,
                          "vectors": 2, "min_snr_gamma": 5.0, "identity_weight": 0.5,
                          "identity_on_subject": False, "identity_timestep_share": 0.6,
                          "templates": ("a photo of {}", "a portrait photo of {}"),
                          "style_templates": ("a {} of a man", "a {} of a woman", "a {} of a person"),
                          "composed_templates": ("a {style} of {subject}",)},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))


@dataclass(frozen=True, kw_only=True)
class MasterWeaverSettings:
    """Trains an identity adapter (arXiv 2405.05806) on many people: afterwards one picture draws a person
    without learning; the default suits SD 1.x with CLIP ViT-L/14."""

    shards: str | None = None  # a folder of shards or a pattern with {000..099}; None: the concepts' pictures
    validation: str | None = None  # shards whose people previews show; None: those that are trained on
    adapter: str | None = None  # an adapter to go on from, such as that of the identity stage
    identity_steps: int = 100_000  # reconstruction and background consistency; 0: go on from an adapter
    editing_steps: int = 100_000  # with the editing-direction loss; 0: none
    identity_learning_rate: float = 6.4e-5  # of ID encoder and attention, per step
    editing_learning_rate: float = 1.28e-6  # in the second stage
    editing_attention: bool = False  # the second stage trains the attention's keys and values too
    schedule: str = "constant"  # of each stage
    warmup_steps: int = 0
    batch_size: int = 16  # pictures per pass, over all processes together
    gradient_accumulation: int = 4  # raise when the batch does not fit the GPUs
    max_grad_norm: float | None = 1.0
    weight_decay: float = 1e-2
    ema_decay: float = 0.9999  # the adapter kept is a running average; 0: the last step's
    gradient_checkpointing: bool = False  # less memory for a third more time
    workers: int = 4  # threads per process that read ahead; 0: none
    latent_cache: int = 0  # pictures whose latents each process keeps in memory
    image_encoder: str = "auto"  # a CLIP image tower's folder, or miniature; auto: the Miniature's own
    queries: int = 16  # tokens a reference becomes
    depth: int = 1  # layers of the ID encoder
    slots: int = 3  # references of a person
    identity_weight: float = 0.6  # of reconstruction in the first stage
    reconstruction_weight: float = 0.8  # of reconstruction in the second stage
    background_weight: float = 1.0  # of looking alike outside the face under a mixed identity; 0: without
    background_every: int = 1  # steps from one such comparison to the next; it costs half a step
    mixing: str = "roll"  # with whom an identity is mixed: roll, or flip (reference)
    editing_weight: float = 0.02  # of the editing-direction loss; 0: without
    editing_every: int = 2  # steps from one editing loss to the next
    editing_form: str = "sample"  # mask in its cosine: sample, batch, or reference (a constant added)
    editing_timesteps: tuple[int, ...] = (100, 350)  # noise levels at which edits are compared
    teacher: str = "null"  # whose edits are right: the adapter's without a face (null), or the base's
    edited_faces: bool = True  # the second stage takes references from edited faces too
    drop: float = 0.05  # how often the picture, the text, and both are left out
    fill: float = 0.1  # how often empty slots hold changed copies of the first face
    squash: bool = False  # squeeze whole pictures into squares as the reference does, instead of cropping
    gender_from_caption: bool = True  # edits speak of a woman where the caption does
    subjects: tuple[str, ...] = ("man", "woman", "male", "female", "girl", "boy")
    edit_templates: tuple[str, ...] = EDIT_TEMPLATES  # {} becomes the subject, edited or not
    edits: tuple[str, ...] = EDITS  # {} becomes the subject

    def __post_init__(self) -> None:
        at_least(self, 0, "identity_steps", "editing_steps", "identity_learning_rate", "warmup_steps",
                 "editing_learning_rate", "weight_decay", "workers", "latent_cache", "identity_weight",
                 "reconstruction_weight", "background_weight", "editing_weight")  # fmt: skip
        at_least(self, 1, "batch_size", "gradient_accumulation", "queries", "depth", "slots", "editing_every",
                 "background_every")  # fmt: skip
        above_zero(self, "max_grad_norm")
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("mixing", self.mixing, ("roll", "flip"))
        one_of("editing_form", self.editing_form, ("sample", "batch", "reference"))
        one_of("teacher", self.teacher, ("null", "base"))
        with_gap("edit_templates", self.edit_templates)
        with_gap("edits", self.edits)
        if not self.subjects:
            raise LikenessError("'subjects' is empty; give words such as man and woman")
        for name, most in (("ema_decay", 1.0), ("drop", 1 / 3), ("fill", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise LikenessError(f"'{name}' is {getattr(self, name)}; it is a share, 0 to {most:.2g}")
        low_high = self.editing_timesteps
        if len(low_high) != 2 or not 0 <= low_high[0] < low_high[1]:
            raise LikenessError("'editing_timesteps' must be two numbers, such as [100, 350]")
        if self.identity_steps + self.editing_steps == 0:
            raise LikenessError("'identity_steps' and 'editing_steps' are both 0; nothing would be learned")

    @classmethod
    def preset(cls, name: str = "default") -> "MasterWeaverSettings":
        """`default`, `paper` (the README's launch line as it was meant: 64 pictures a step), `reference` (as
        it ran: every GPU by itself), `miniature`."""
        told = {"ema_decay": 0.0, "mixing": "flip", "editing_form": "reference", "squash": True,
                "gender_from_caption": False}  # fmt: skip
        presets = {
            "default": {},
            "paper": told,
            "reference": {**told, "batch_size": 4},
            "miniature": {"identity_steps": 160, "editing_steps": 40, "identity_learning_rate": 5e-4,
                          "editing_learning_rate": 2e-4, "editing_attention": True, "schedule": "cosine",
                          "warmup_steps": 10, "batch_size": 8, "gradient_accumulation": 1,
                          "ema_decay": 0.97, "workers": 0, "latent_cache": 20_000, "background_every": 3,
                          "subjects": ("man", "woman"), "edit_templates": MINIATURE_EDIT_TEMPLATES,
                          "edits": MINIATURE_EDITS},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))


MINIATURE_OPEN_PROMPTS = (  # in the words the Miniature knows; none is among its test prompts
    "a photo of {}, wearing a beanie", "a photo of {}, wearing a green hoodie",
    "a photo of {}, in snowy mountains", "a sketch of {}", "a photo of a surprised {}",
    "a photo of {}, wearing round glasses, in space", "a poster of {}, on a beach",
    "a photo of {}, wearing a crown", "a watercolor of {}", "a photo of a sad {}",
    "a photo of {}, wearing sunglasses", "a photo of {}, in a city at night",
    "a portrait photo of a smiling {}", "a photo of {}, wearing a white suit, in a forest",
    "a photo of {}, wearing a top hat and a blue shirt",
)  # fmt: skip

METHODS: dict[str, type] = {
    "textual-inversion": TextualInversionSettings,
    "dreambooth-lora": DreamBoothLoraSettings,
    "custom-diffusion": CustomDiffusionSettings,
    "personamagic": PersonaMagicSettings,
    "magictailor": MagicTailorSettings,
    "masterweaver": MasterWeaverSettings,
    "magicapture": MagiCaptureSettings,
}


def settings_for(method: str, base: BaseSpec | None = None) -> Any:
    """The method's settings before anybody changes them: tuned for the Miniature, or the default."""
    one_of("method", method, METHODS)
    small = base is None or base.kind == "miniature"
    return METHODS[method].preset("miniature" if small else "default")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run: everything `train` needs to know, JSON-able."""

    method: str
    concepts: tuple[ConceptSpec, ...]
    output: str  # the artifact's path, ending in .safetensors
    base: BaseSpec = field(default_factory=BaseSpec)
    on: tuple[str, ...] = ()  # concept files whose LoRAs stay applied while this is learned
    settings: Any = None  # an instance of METHODS[method]; None: settings_for(method, base)
    seed: int = 0  # of everything random in the run
    resolution: int | None = None  # pixels a side that pictures are cropped to; None: the base's own
    precision: str = "fp32"  # of the passes (autocast); weights and optimiser stay fp32
    device: str = "auto"  # a GPU where there is one
    memory: float | None = None  # GB that the run may use; None: what is free
    checkpoint_every: int = 0  # steps; 0: none but the one kept after a stop
    preview_every: int = 0  # steps; 0: no previews
    preview_prompt: str | None = None  # None: "a photo of" the first concept's placeholder
    resume: bool = False  # go on from the checkpoint beside the output, if there is one
    processes: int | None = None  # that must train together, so that none is missing unseen; None: any
    cache: str | None = None  # folder for pictures of the class to be used again; None: redraw for each run

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if self.settings is None:
            object.__setattr__(self, "settings", settings_for(self.method, self.base))
        if not isinstance(self.settings, METHODS[self.method]):
            raise LikenessError(
                f"the settings of a '{self.method}' job must be {METHODS[self.method].__name__}, "
                f"not {type(self.settings).__name__}"
            )
        if not self.concepts and not getattr(self.settings, "shards", None):
            raise LikenessError("a job needs at least one concept; give a folder with pictures")
        tokens = [concept.token for concept in self.concepts]
        for token in tokens:
            if tokens.count(token) > 1:
                raise LikenessError(f"two concepts share the placeholder {token}; give each its own")
        if not self.output.endswith(".safetensors"):
            raise LikenessError(f"the output {self.output} must end in .safetensors; rename it")
        one_of("precision", self.precision, PRECISIONS)
        one_of("device", self.device, DEVICES)
        at_least(self, 0, "seed", "checkpoint_every", "preview_every")
        at_least(self, 8, "resolution")
        above_zero(self, "memory")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings; `Job.from_json` takes it back."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> "Job":
        """Reads what `to_json` wrote, or a hand-written config; unknown keys are errors."""
        if isinstance(source, str):
            try:
                source = json.loads(source)
            except json.JSONDecodeError as error:
                raise LikenessError(f"the job is not valid JSON: {error}; mend it there") from error
        if not isinstance(source, Mapping):
            raise LikenessError('a job must be a mapping of keys to values, such as {"method": ...}')
        plain = dict(source)
        method = plain.get("method")
        if "method" not in plain:
            raise LikenessError(f"the job names no method; set 'method' to one of {', '.join(METHODS)}")
        one_of("method", method, METHODS)
        settings = plain.pop("settings", None)
        known_keys(cls, plain, "job")
        base = convert(plain["base"], BaseSpec, "job.base") if plain.get("base") is not None else None
        start = settings_for(str(method), base)
        if settings is not None:
            # a partial mapping changes the method's own starting point, not the class's bare defaults
            if not isinstance(settings, Mapping):
                raise LikenessError(f"'settings' must be a mapping of {method} settings")
            changed = known_keys(METHODS[str(method)], settings, "settings")
            start = read(METHODS[str(method)], {**asdict(start), **changed}, "settings")
        return read(cls, {**plain, "settings": start}, "job")


def read(kind: type[T], source: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass `kind` from plain values; errors name the key within `where`."""
    hints = typing.get_type_hints(kind)
    values = {
        key: convert(value, hints[key], f"{where}.{key}")
        for key, value in known_keys(kind, source, where).items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        missing = re.findall(r"'(\w+)'", str(error))
        raise LikenessError(f"{where} lacks {', '.join(missing) or error}; add it") from error


def known_keys(kind: type, source: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """`source` itself, once every key is known to be a field of `kind`."""
    valid = [entry.name for entry in fields(kind)]
    for key in source:
        if key not in valid:
            hint = nearest(str(key), valid) or f"; valid are {', '.join(valid)}"
            raise LikenessError(f"unknown setting '{key}' in {where}{hint}")
    return source


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value`, as JSON or YAML gave it, as the annotated type `hint`."""
    if hint is Any:
        return value
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        (hint,) = [option for option in typing.get_args(hint) if option is not type(None)]
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        if isinstance(value, Mapping):
            return read(typing.cast(type, hint), value, where)
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(convert(item, typing.get_args(hint)[0], where) for item in value)
    elif hint is bool or hint is str:
        if isinstance(value, hint):
            return value
    elif hint in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-4 as a string
            if hint is float or number == int(number):
                return value if isinstance(value, hint) else hint(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise LikenessError(f"{where} must be {_in_words(hint)}, not {json.dumps(value, default=str)}")


def _in_words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "a list" if typing.get_origin(hint) is tuple else "a mapping of keys to values")


def one_of(what: str, value: object, valid: Iterable[str]) -> None:
    if value not in list(valid):
        hint = nearest(str(value), valid) or f"; valid are {', '.join(valid)}"
        raise LikenessError(f"unknown {what} '{value}'{hint}")


def at_least(settings: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not least <= value < float("inf"):
            raise LikenessError(f"'{name}' is {value}; it must be {least} or more")


def above_zero(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise LikenessError(f"'{name}' is {value}; it must be more than 0")


def with_gap(name: str, templates: tuple[str, ...]) -> None:
    if not templates or any("{}" not in template for template in templates):
        raise LikenessError(f"'{name}' must hold prompts with {{}} where the subject goes: 'a photo of {{}}'")


def chosen_preset(kind: type, name: str, presets: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in presets:
        hint = nearest(name, presets) or f"; valid are {', '.join(presets)}"
        raise LikenessError(f"{kind.__name__} has no preset '{name}'{hint}")
    return presets[name]
