"""Two saved people in one picture on SDXL."""

from . import SDXL, Nodes, Shown
from .train_sdxl import SAMPLING

TITLE = "06 Two people in one picture, saved"
NOTE = """### Choose two likenesses in *Load Likeness* and change the *prompt*: the words in brackets are the two people.

*Load Likeness* lists models/likeness, what template *02* saved. Both may have been learned as \\<v0\\>: the first takes
the first word of the prompt that nobody has, the second the next.

*layout*: side by side, thirds (with room beside them), your masks, or faces found while drawing (connect the VAE).
*redraw each person* finishes each by themselves; 0 leaves the picture as it was drawn at once.

**SD 1.5:** its checkpoint, likenesses learned on it, and 1024 x 512 pixels."""  # noqa: E501

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -390), (1080, 220), "Read me", {"": NOTE}),
    "base": ("CheckpointLoaderSimple", (-360, -160), (320, 98), "", {"ckpt_name": SDXL.name}),
    "anna": ("LikenessLoad", (-360, 40), (320, 102), "First person", {"name": "friend.safetensors"}),
    "ben": ("LikenessLoad", (-360, 270), (320, 102), "Second person", {"name": "friend-2.safetensors"}),
    "people": ("LikenessPeople", (0, 20), (360, 400), "",
               {"prompt": "a photo of <anna> and <ben>, on a beach"}),
    "nothing": ("CLIPTextEncode", (400, 140), (300, 90), "Negative", {"text": "blurry, deformed"}),
    "latent": ("EmptyLatentImage", (400, 310), (300, 106), "",
               {"width": 1536, "height": 768, "batch_size": 1}),
    "sample": ("LikenessRefocusedSampler", (740, -40), (320, 346), "",
               {**SAMPLING, "seed": 11, "redraw": 0.5}),
    "keep": ("SaveImage", (1140, -80), (620, 400), "", {"filename_prefix": "likeness/two-people"}),
    "looked": ("PreviewImage", (1140, 460), (620, 300), "Where each word looked", {}),
}
# fmt: on
LINKS = """
base.MODEL>people.model base.CLIP>people.clip base.VAE>sample.vae
anna.likeness>people.likeness_1 ben.likeness>people.likeness_2
people.MODEL>sample.model people.CONDITIONING>sample.positive people.people>sample.people
people.CLIP>nothing.clip nothing.CONDITIONING>sample.negative latent.LATENT>sample.latent
sample.images>keep.images sample.attention>looked.images
"""
MODELS = {"base": [SDXL]}
SHOWN = [Shown("two saved people", "keep"), Shown("where the words looked", "looked")]
AS_OF = "two_people"  # its thumbnail: the same nodes draw it
