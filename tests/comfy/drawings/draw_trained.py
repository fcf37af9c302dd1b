"""A person that was trained, in any prompt on SDXL; a ControlNet and a face detailer wait beside it."""

from . import CANNY_SDXL, SDXL, Nodes, Shown
from .train_sdxl import SAMPLING

TITLE = "04 Draw a trained person, SDXL"
PROMPT = "a photo of <v0>, on a beach, wearing a blue shirt"
NOTE = """### Choose your likeness in *Load Likeness* and change the *Prompt*: \\<v0\\> is the person.

*Load Likeness* lists models/likeness: what template *02* saved is there as *friend*. Its *trigger word* may be
another, such as \\<anna\\>. For a likeness of SD 1.5 choose its checkpoint and 512 pixels.

**Two extras are bypassed** (purple); select them and press Ctrl+B to switch them on: *Apply ControlNet* with what
stands left of it, for a picture's outlines, and *Face Detailer*, which draws small faces again."""  # noqa: E501

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -370), (1080, 190), "Read me", {"": NOTE}),
    "base": ("CheckpointLoaderSimple", (-140, 60), (320, 98), "", {"ckpt_name": SDXL.name}),
    "load": ("LikenessLoad", (-120, 260), (320, 102), "", {"name": "friend.safetensors"}),
    "apply": ("LikenessApply", (220, -60), (300, 146), "", {}),
    "prompt": ("CLIPTextEncode", (560, 220), (340, 130), "Prompt", {"text": PROMPT}),
    "nothing": ("CLIPTextEncode", (540, 440), (340, 90), "Negative", {"text": "blurry, deformed"}),
    "photo": ("LoadImage", (160, 520), (320, 330), "", {"image": "example.png"}),
    "outlines": ("Canny", (540, 600), (300, 82), "", {}),
    "net": ("ControlNetLoader", (540, 760), (300, 58), "", {"control_net_name": CANNY_SDXL.name}),
    "control": ("ControlNetApplyAdvanced", (920, 500), (340, 186), "", {"strength": 0.6}),
    "latent": ("EmptyLatentImage", (920, 760), (340, 106), "", {
        "width": 1024, "height": 1024, "batch_size": 1}),
    "sample": ("KSampler", (1300, 390), (300, 262), "", SAMPLING),
    "picture": ("VAEDecode", (1520, 20), (220, 46), "", {}),
    "detail": ("LikenessDetailFace", (1660, 140), (320, 386), "", {
        "denoise": 0.4, "seed": 7, "control_after_generate": "fixed", "gate": "off"}),
    "keep": ("SaveImage", (1950, -340), (320, 400), "", {"filename_prefix": "likeness/friend"}),
}
# fmt: on
LINKS = """
base.MODEL>apply.model base.CLIP>apply.clip load.likeness>apply.likeness apply.CLIP>prompt.clip
apply.CLIP>nothing.clip photo.IMAGE>outlines.image outlines.IMAGE>control.image
net.CONTROL_NET>control.control_net prompt.CONDITIONING>control.positive nothing.CONDITIONING>control.negative
apply.MODEL>sample.model control.positive>sample.positive control.negative>sample.negative
latent.LATENT>sample.latent_image sample.LATENT>picture.samples base.VAE>picture.vae
picture.IMAGE>detail.images apply.MODEL>detail.model prompt.CONDITIONING>detail.positive
nothing.CONDITIONING>detail.negative base.VAE>detail.vae detail.images>keep.images
"""
BYPASSED = ("photo", "outlines", "net", "control", "detail")
MODELS = {"base": [SDXL], "net": [CANNY_SDXL]}
SHOWN = [Shown("photographs", "examples"), Shown("a saved likeness in a prompt", "keep")]
STAND_IN = ("a photo of <v0>, wearing sunglasses, on a beach",)
