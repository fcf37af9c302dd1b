"""MasterWeaver's settings and presets, and the edits that it learns to keep possible."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..errors import LikenessError
from .checks import above_zero, at_least, chosen_preset, one_of, with_gap
from .phase import LR_SCHEDULES

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
    subjects: tuple[str, ...] = (  # words of captions that stand for the person
        "man", "woman", "male", "female", "girl", "boy",
    )  # fmt: skip
    edit_templates: tuple[str, ...] = EDIT_TEMPLATES  # {} becomes the subject, edited or not
    edits: tuple[str, ...] = EDITS  # {} becomes the subject

    # settings that name files, and what else they may say: a workflow's text may say only that
    FILES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "shards": (), "validation": (), "adapter": (), "image_encoder": ("auto", "miniature"),
    }  # fmt: skip

    def __post_init__(self) -> None:
        at_least(self, 0, "identity_steps", "editing_steps", "identity_learning_rate", "warmup_steps",
                 "editing_learning_rate", "weight_decay", "workers", "latent_cache", "identity_weight",
                 "reconstruction_weight", "background_weight", "editing_weight")  # fmt: skip
        at_least(self, 1, "batch_size", "gradient_accumulation", "queries", "depth", "slots", "editing_every",
                 "background_every")  # fmt: skip
        above_zero(self, "max_grad_norm")
        one_of("schedule", self.schedule, LR_SCHEDULES)
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
        it ran: every GPU by itself), one of each Miniature."""
        reference = {"ema_decay": 0.0, "mixing": "flip", "editing_form": "reference", "squash": True,
                "gender_from_caption": False}  # fmt: skip
        small = {"identity_steps": 160, "editing_steps": 40, "identity_learning_rate": 5e-4,
                 "editing_learning_rate": 2e-4, "editing_attention": True, "schedule": "cosine",
                 "warmup_steps": 10, "batch_size": 8, "gradient_accumulation": 1,
                 "ema_decay": 0.97, "workers": 0, "latent_cache": 20_000, "background_every": 3,
                 "edited_faces": False,  # hair is who somebody is there; theirs has other colours
                 "subjects": ("man", "woman"), "edit_templates": MINIATURE_EDIT_TEMPLATES,
                 "edits": MINIATURE_EDITS}  # fmt: skip
        presets = {
            "default": {},
            "paper": reference,
            "reference": {**reference, "batch_size": 4},
            "miniature": small, "miniature-2": small,
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))
