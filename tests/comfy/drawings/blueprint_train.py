"""A folder of photographs to a saved LoRA, as one node."""

from . import SDXL, Nodes, Subgraph

TITLE = "Train a portrait LoRA from a folder"
BLUEPRINT = "Learns a LoRA of the person in a folder of photographs and saves it in models/likeness."
# fmt: off
INSIDE: Nodes = {
    "friend": ("LikenessConceptFolder", (0, 0), (320, 174), "",
               {"folder": "friend", "class_word": "person", "token": "<v0>"}),
    "learn": ("LikenessTrainDreamBoothLora", (380, 0), (340, 560), "",
              {"preview_every": 100, "seed": 0, "save_as": "friend"}),
}
NODES: Nodes = {
    "base": ("CheckpointLoaderSimple", (-500, 0), (300, 98), "", {"ckpt_name": SDXL.name}),
    **INSIDE,
    "apply": ("LikenessApply", (900, 0), (300, 146), "", {}),
    "seen": ("PreviewImage", (900, 300), (300, 300), "", {}),
}
# fmt: on
LINKS = """
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae friend.concept>learn.concept
learn.likeness>apply.likeness learn.previews>seen.images
"""
DROPPED = ("base", "apply", "seen")  # what its sockets were made with
SUBGRAPHS = {"whole": Subgraph(TITLE, list(INSIDE), (0, 0), (360, 300))}
FIELDS = [("friend", "folder"), ("friend", "class_word"), ("learn", "steps"), ("learn", "learning_rate"),
          ("learn", "seed"), ("learn", "save_as")]  # fmt: skip
