"""A folder of photographs, a LoRA of the person in them, four pictures: on SD 1.5."""

from . import SD_15
from .train_sdxl import LINKS, NOTE, SHOWN, STAND_IN, nodes, subgraphs

__all__ = ["LINKS", "SHOWN", "STAND_IN"]
TITLE = "03 Train a LoRA of a person, SD 1.5"
TIME = "512 pixels, about 8 GB of GPU memory, some 5 minutes there."
NODES = nodes(
    SD_15.name, 512, "friend-sd15",
    NOTE.format(base="SD 1.5, or any checkpoint of its kind", time=TIME, name="friend-sd15"),
)  # fmt: skip
SUBGRAPHS = subgraphs(512)
MODELS = {"base": [SD_15]}
