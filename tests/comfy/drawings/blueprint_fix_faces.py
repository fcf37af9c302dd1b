"""Faces of finished pictures drawn again as a saved person, as one node."""

from . import SDXL, Nodes, Subgraph

TITLE = "Fix faces as this person"
BLUEPRINT = "Draws the faces in pictures again as a trained person; everything else stays as it was."
# fmt: off
INSIDE: Nodes = {
    "load": ("LikenessLoad", (0, 0), (300, 102), "", {}),
    "apply": ("LikenessApply", (0, 200), (300, 146), "", {}),
    "prompt": ("CLIPTextEncode", (360, 0), (320, 110), "Prompt", {"text": "a photo of <v0>"}),
    "nothing": ("CLIPTextEncode", (360, 190), (320, 110), "Negative", {"text": "blurry, deformed"}),
    "redraw": ("LikenessDetailFace", (740, 0), (340, 480), "",
               {"denoise": 0.5, "seed": 7, "control_after_generate": "fixed", "gate": "off"}),
}
NODES: Nodes = {
    "base": ("CheckpointLoaderSimple", (-500, 0), (300, 98), "", {"ckpt_name": SDXL.name}),
    "photo": ("LoadImage", (-500, 200), (300, 300), "", {}),
    **INSIDE,
    "keep": ("PreviewImage", (1300, 0), (300, 300), "", {}),
    "both": ("PreviewImage", (1300, 400), (300, 300), "", {}),
}
# fmt: on
LINKS = """
photo.IMAGE>redraw.images base.MODEL>apply.model base.CLIP>apply.clip base.VAE>redraw.vae
load.likeness>apply.likeness apply.CLIP>prompt.clip apply.CLIP>nothing.clip apply.MODEL>redraw.model
prompt.CONDITIONING>redraw.positive nothing.CONDITIONING>redraw.negative
redraw.images>keep.images redraw.before_and_after>both.images
"""
DROPPED = ("base", "photo", "keep", "both")
SUBGRAPHS = {"whole": Subgraph(TITLE, list(INSIDE), (0, 0), (360, 400))}
FIELDS = [("load", "name"), ("load", "trigger_word"), ("prompt", "text"), ("redraw", "found_by"),
          ("redraw", "denoise"), ("redraw", "seed"), ("redraw", "picture_size"),
          ("redraw", "part")]  # fmt: skip
