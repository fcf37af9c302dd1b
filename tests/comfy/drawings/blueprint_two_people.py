"""Two saved people in one picture, as one node."""

from . import SDXL, Nodes, Subgraph
from .two_people_saved import NODES as SAVED

TITLE = "Two people in regions"
BLUEPRINT = "Draws two trained people in one picture, each in a place of their own."
_MEMBERS = ("anna", "ben", "people", "nothing", "latent", "sample")
INSIDE: Nodes = {name: SAVED[name] for name in _MEMBERS}
for _name in ("anna", "ben"):
    _kind, _place, _size, _title, _ = INSIDE[_name]
    INSIDE[_name] = (_kind, _place, _size, _title, {})  # any file
# fmt: off
NODES: Nodes = {
    "base": ("CheckpointLoaderSimple", (-500, 0), (300, 98), "", {"ckpt_name": SDXL.name}),
    **INSIDE,
    "keep": ("PreviewImage", (1600, 0), (300, 300), "", {}),
    "looked": ("PreviewImage", (1600, 400), (300, 300), "", {}),
}
# fmt: on
LINKS = """
base.MODEL>people.model base.CLIP>people.clip base.VAE>sample.vae
anna.likeness>people.likeness_1 ben.likeness>people.likeness_2
people.MODEL>sample.model people.CONDITIONING>sample.positive people.people>sample.people
people.CLIP>nothing.clip nothing.CONDITIONING>sample.negative latent.LATENT>sample.latent
sample.images>keep.images sample.attention>looked.images
"""
DROPPED = ("base", "keep", "looked")
SUBGRAPHS = {"whole": Subgraph(TITLE, list(INSIDE), (0, 0), (360, 400))}
FIELDS = [("anna", "name"), ("ben", "name"), ("people", "prompt"), ("people", "layout"), ("nothing", "text"),
          ("latent", "width"), ("latent", "height"), ("sample", "seed"), ("sample", "steps"),
          ("sample", "cfg"), ("sample", "redraw")]  # fmt: skip
