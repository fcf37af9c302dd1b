"""workflows/restore.json: learn a person, draw somebody else, draw that head again as the person."""

from . import Nodes
from .learn_a_person import NODES as LEARN_A_PERSON

NOTE = """## Redraw a head, keep the picture

1. **Load Demo Model** brings a tiny portrait model and four pictures of a made-up person. Nothing is
   downloaded. **Train Person LoRA** learns that person.
2. **Draw a stranger** makes a picture of a *woman* whom nobody knows.
3. **Face Detailer** cuts the head out, lets the model draw it again in part, with the likeness applied, and
   puts it back. Everything outside its mask stays bit for bit as it was.

Left half of the result: the picture as it was drawn. Right half: the same picture with the learned person.
The report says how much the face is like the four pictures, before and after; what would cost likeness is
blended or taken back.

### To change

Raise *denoise* for more of the person, lower it for more of the picture. *part* puts back the head with its
hair, or the face alone.

### Photographs

Put a checkpoint loader in the Miniature's place, *crop size* to 512 (SD 1.x) or 1024 (SDXL), and *found by*
to auraface. **Restore Faces** in its place uses GFPGAN, RestoreFormer or CodeFormer; their *background* input
and **Upscale Image** take any upscale model."""
SCENE = "a photo of a smiling {}, wearing a blue shirt, on a beach"
SHARED = ("base", "concept", "learn", "apply", "before_nothing", "latent", "before", "before_picture")

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-460, 60), (420, 620), "Read me", {"": NOTE}),
    **{name: LEARN_A_PERSON[name] for name in SHARED},
    "before_prompt": (
        "CLIPTextEncode", (1160, 60), (360, 110), "Prompt of the picture", {"text": SCENE.format("woman")},
    ),
    "face_prompt": (
        "CLIPTextEncode", (1160, 230), (360, 110), "Prompt of the face", {"text": SCENE.format("<v0>")},
    ),
    "redraw": (
        "LikenessDetailFace", (1940, 180), (360, 720), "",
        {"denoise": 0.7, "steps": 20, "cfg": 5.0, "seed": 7, "control_after_generate": "fixed", "size": 128},
    ),
    "large": ("ImageScaleBy", (2340, 60), (260, 90), "", {"upscale_method": "lanczos", "scale_by": 3.0}),
    "show": ("PreviewImage", (2340, 220), (560, 330), "Before and after", {}),
    "report": ("PreviewAny", (2340, 620), (560, 140), "What became of the face", {}),
    "keep": ("SaveImage", (2340, 820), (320, 330), "", {"filename_prefix": "likeness/restore"}),
}
# fmt: on
LINKS = """
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae concept.concept>learn.concept
learn.likeness>apply.likeness base.MODEL>apply.model base.CLIP>apply.clip
base.CLIP>before_prompt.clip base.CLIP>before_nothing.clip apply.CLIP>face_prompt.clip
base.MODEL>before.model before_prompt.CONDITIONING>before.positive
before_nothing.CONDITIONING>before.negative latent.LATENT>before.latent_image
before.LATENT>before_picture.samples base.VAE>before_picture.vae
before_picture.IMAGE>redraw.images apply.MODEL>redraw.model face_prompt.CONDITIONING>redraw.positive
before_nothing.CONDITIONING>redraw.negative base.VAE>redraw.vae base.images>redraw.references
redraw.before_and_after>large.image large.IMAGE>show.images redraw.report>report.source
redraw.images>keep.images
"""
GROUPS = """
1  A model and four pictures: -20 -10 340 660
2  Learn: 340 -10 400 1060
3  Draw a stranger: 760 -10 1160 770
4  Draw the head again: 1920 -10 1000 1200
"""
SHOWN = "Before and after"  # the node whose picture is the thumbnail
