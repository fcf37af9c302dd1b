"""The bundled workflows as lists of nodes and links: one module per file of workflows/ or subgraphs/, from
which `draw_workflows.py` makes it. A module holds

- TITLE, the file's name, which the editor shows;
- for a file of subgraphs/, BLUEPRINT, what it is for, FIELDS, what its node shows of those inside, DROPPED,
  nodes that only stand where others will be connected;
- NODES and LINKS; SUBGRAPHS, which nodes are drawn as one; BYPASSED, those that are skipped at first;
- MODELS, which files a loader needs and where they are, so that the editor offers them;
- APP, the fields and results of the app view;
- SHOWN, what the thumbnail is made of (see `draw_thumbnails.py`).
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

# name: (type, (x, y), (width, height), title, widgets)
Nodes: TypeAlias = dict[str, tuple[str, tuple[int, int], tuple[int, int], str, dict[str, Any]]]

SAMPLING = {
    "seed": 7,
    "control_after_generate": "fixed",
    "steps": 25,
    "cfg": 5.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
}


@dataclass(frozen=True)
class Subgraph:
    """Nodes that are drawn as one; `names`: what its sockets are called instead of as inside, in order."""

    title: str
    members: list[str]
    place: tuple[int, int]
    size: tuple[int, int]
    names: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)  # `member.widget` that its node shows, and its value


class File(NamedTuple):
    """A model's file: its name, where it is from, its folder below models/."""

    name: str
    url: str
    directory: str


class Shown(NamedTuple):
    """A part of a thumbnail: its words, the node (or nodes) whose pictures it is, and which of them.

    `upper`: how much of a tall picture's height is shown, from above.
    """

    caption: str
    node: str
    pictures: tuple[int, ...] = ()
    upper: float = 1.0


_HUGGING_FACE = "https://huggingface.co"
SDXL = File(
    "sd_xl_base_1.0.safetensors",
    f"{_HUGGING_FACE}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    "checkpoints",
)
SD_15 = File(
    "v1-5-pruned-emaonly-fp16.safetensors",
    f"{_HUGGING_FACE}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    "v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints",
)
CANNY_SDXL = File(
    "control-lora-canny-rank256.safetensors",
    f"{_HUGGING_FACE}/stabilityai/control-lora/resolve/main/control-LoRAs-rank256/"
    "control-lora-canny-rank256.safetensors",
    "controlnet",
)
CLIP_VISION_L = File(
    "clip-vit-large-patch14.safetensors",
    f"{_HUGGING_FACE}/openai/clip-vit-large-patch14/resolve/main/model.safetensors",
    "clip_vision",
)
_KLEIN = f"{_HUGGING_FACE}/Comfy-Org/flux2-klein/resolve/main/split_files"
KLEIN_BASE = File(
    "flux-2-klein-base-4b.safetensors",
    f"{_KLEIN}/diffusion_models/flux-2-klein-base-4b.safetensors",
    "diffusion_models",
)
KLEIN = File(
    "flux-2-klein-4b.safetensors",
    f"{_KLEIN}/diffusion_models/flux-2-klein-4b.safetensors",
    "diffusion_models",
)
QWEN_3_4B = File("qwen_3_4b.safetensors", f"{_KLEIN}/text_encoders/qwen_3_4b.safetensors", "text_encoders")
FLUX2_VAE = File(
    "flux2-vae.safetensors",
    f"{_HUGGING_FACE}/Comfy-Org/flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors",
    "vae",
)
_Z_IMAGE = f"{_HUGGING_FACE}/Comfy-Org/z_image/resolve/main/split_files"
_Z_IMAGE_TURBO = f"{_HUGGING_FACE}/Comfy-Org/z_image_turbo/resolve/main/split_files"
Z_IMAGE = File(
    "z_image_bf16.safetensors", f"{_Z_IMAGE}/diffusion_models/z_image_bf16.safetensors", "diffusion_models"
)
QWEN_3_4B_Z = File(
    "qwen_3_4b.safetensors", f"{_Z_IMAGE_TURBO}/text_encoders/qwen_3_4b.safetensors", "text_encoders"
)
Z_IMAGE_VAE = File("ae.safetensors", f"{_Z_IMAGE_TURBO}/vae/ae.safetensors", "vae")

# --- the same prompt and seed without and with what was learned, as one node ------------------------------

BESIDE = {"direction": "right", "spacing_width": 4}
PLACEHOLDERS = r"<\w+>( (with|in) <\w+>)?"


def drawn(**plain: str) -> Nodes:
    """Nodes inside *Draw before and after*; `plain`: what stands for the trigger word before."""
    # fmt: off
    return {
        "apply": ("LikenessApply", (0, 0), (300, 146), "", {}),
        "plain": ("RegexReplace", (0, 230), (300, 200), "Without the trigger word",
                  {"regex_pattern": PLACEHOLDERS, **plain}),
        "latent": ("EmptyLatentImage", (0, 620), (300, 106), "",
                   {"width": 128, "height": 128, "batch_size": 1}),
        "before_prompt": ("CLIPTextEncode", (360, 0), (300, 90), "Prompt before", {"text": ""}),
        "before_nothing": ("CLIPTextEncode", (360, 160), (300, 90), "Negative before", {"text": ""}),
        "after_prompt": ("CLIPTextEncode", (360, 400), (300, 90), "Prompt after", {"text": ""}),
        "after_nothing": ("CLIPTextEncode", (360, 560), (300, 90), "Negative after", {"text": ""}),
        "before": ("KSampler", (720, 0), (280, 262), "Draw before", SAMPLING),
        "after": ("KSampler", (720, 400), (280, 262), "Draw after", SAMPLING),
        "before_picture": ("VAEDecode", (1060, 0), (200, 46), "", {}),
        "after_picture": ("VAEDecode", (1060, 400), (200, 46), "", {}),
        "both": ("ImageStitch", (1320, 0), (260, 150), "", BESIDE),
        "large": ("ImageScaleBy", (1320, 240), (260, 82), "",
                  {"upscale_method": "lanczos", "scale_by": 3.0}),
    }
    # fmt: on


DRAWN = """
base.MODEL>apply.model base.MODEL>before.model base.CLIP>apply.clip base.CLIP>before_prompt.clip
base.CLIP>before_nothing.clip base.VAE>before_picture.vae base.VAE>after_picture.vae
learn.likeness>apply.likeness prompt.STRING>after_prompt.text prompt.STRING>plain.string
plain.STRING>before_prompt.text
apply.CLIP>after_prompt.clip apply.CLIP>after_nothing.clip apply.MODEL>after.model
before_prompt.CONDITIONING>before.positive before_nothing.CONDITIONING>before.negative
after_prompt.CONDITIONING>after.positive after_nothing.CONDITIONING>after.negative
latent.LATENT>before.latent_image latent.LATENT>after.latent_image
before.LATENT>before_picture.samples after.LATENT>after_picture.samples
before_picture.IMAGE>both.image1 after_picture.IMAGE>both.image2 both.IMAGE>large.image
large.IMAGE>show.images after_picture.IMAGE>keep.images
"""
DRAWN_NAMES = {
    "text": "prompt", "string": "prompt", "replace": "class word", "IMAGE": "before and after",
    "IMAGE_1": "after",
}  # fmt: skip


def before_and_after(members: Nodes, place: tuple[int, int]) -> Subgraph:
    """The node that draws both."""
    return Subgraph("Draw before and after", list(members), place, (280, 160), DRAWN_NAMES)
