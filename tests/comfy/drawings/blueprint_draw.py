"""A saved likeness in a prompt, as one node."""

from . import SDXL, Nodes, Subgraph
from .train_sdxl import SAMPLING

TITLE = "Draw a trained person"
BLUEPRINT = "Draws a person that was trained, from models/likeness, in any prompt."
# fmt: off
INSIDE: Nodes = {
    "load": ("LikenessLoad", (0, 0), (300, 102), "", {}),
    "apply": ("LikenessApply", (0, 200), (300, 146), "", {}),
    "prompt": ("CLIPTextEncode", (360, 0), (320, 110), "Prompt",
               {"text": "a photo of <v0>, on a beach, wearing a blue shirt"}),
    "nothing": ("CLIPTextEncode", (360, 190), (320, 110), "Negative", {"text": "blurry, deformed"}),
    "latent": ("EmptyLatentImage", (360, 380), (320, 106), "",
               {"width": 1024, "height": 1024, "batch_size": 1}),
    "sample": ("KSampler", (740, 0), (300, 262), "", SAMPLING),
    "picture": ("VAEDecode", (1100, 0), (220, 46), "", {}),
}
NODES: Nodes = {
    "base": ("CheckpointLoaderSimple", (-500, 0), (300, 98), "", {"ckpt_name": SDXL.name}),
    **INSIDE,
    "keep": ("PreviewImage", (1500, 0), (300, 300), "", {}),
}
# fmt: on
LINKS = """
base.MODEL>apply.model base.CLIP>apply.clip base.VAE>picture.vae load.likeness>apply.likeness
apply.CLIP>prompt.clip apply.CLIP>nothing.clip apply.MODEL>sample.model prompt.CONDITIONING>sample.positive
nothing.CONDITIONING>sample.negative latent.LATENT>sample.latent_image sample.LATENT>picture.samples
picture.IMAGE>keep.images
"""
DROPPED = ("base", "keep")
SUBGRAPHS = {"whole": Subgraph(TITLE, list(INSIDE), (0, 0), (360, 360))}
FIELDS = [("load", "name"), ("load", "trigger_word"), ("prompt", "text"), ("nothing", "text"),
          ("latent", "width"), ("latent", "height"), ("sample", "seed"), ("sample", "steps"),
          ("sample", "cfg")]  # fmt: skip
