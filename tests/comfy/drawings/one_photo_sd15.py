"""A person from a single photograph, without learning, on SD 1.5 with MasterWeaver's adapter."""

from . import CLIP_VISION_L, SD_15, Nodes, Shown, Subgraph
from .one_photo import COMPARED, NAMES, inside
from .train_sdxl import SAMPLING

TITLE = "05 One photo, no training, SD 1.5"
NOTE = """### Choose a photograph in *Load Image* and change the *prompt*: its *man* or *woman* becomes that person.

Three files are needed: SD 1.5 (or a checkpoint of its kind), CLIP ViT-L/14's image tower in models/clip_vision,
and MasterWeaver's released `adapter_….pt` in models/likeness, chosen in *Load Likeness*.

*Face Identity from Images* finds the face with *auraface* (models/insightface); with *my mask* connect a MASK of the
face instead. Lower *weight* when prompts are ignored; two people: two of each node, with a mask each."""  # noqa: E501
INSIDE = inside(512, SAMPLING)

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -380), (1080, 180), "Read me", {"": NOTE}),
    "base": ("CheckpointLoaderSimple", (0, -110), (320, 98), "", {"ckpt_name": SD_15.name}),
    "photo": ("LoadImage", (0, 80), (320, 330), "", {"image": "example.png"}),
    "adapter": ("LikenessLoad", (0, 500), (320, 102), "", {"name": "adapter.pt"}),
    "vision": ("CLIPVisionLoader", (0, 720), (320, 58), "", {"clip_name": CLIP_VISION_L.name}),
    "identity": ("LikenessEncodeIdentity", (400, 280), (320, 360), "", {}),
    "apply": ("LikenessApplyIdentity", (780, 240), (320, 122), "", {"weight": 1.0}),
    "prompt": ("PrimitiveStringMultiline", (780, 460), (320, 130), "Prompt",
               {"value": "a photo of a woman wearing sunglasses, on a beach"}),
    **INSIDE,
    "show": ("PreviewImage", (1540, -110), (700, 400), "Without and with", {}),
    "keep": ("SaveImage", (1540, 370), (300, 340), "", {"filename_prefix": "likeness/one-photo"}),
}
# fmt: on
LINKS = f"""
photo.IMAGE>identity.images adapter.likeness>identity.adapter vision.CLIP_VISION>identity.clip_vision
base.MODEL>apply.model identity.identity>apply.identity {COMPARED}"""
SUBGRAPHS = {"draw": Subgraph("Draw without and with", list(INSIDE), (1160, -110), (300, 160), NAMES)}
MODELS = {"base": [SD_15], "vision": [CLIP_VISION_L]}
SHOWN = [Shown("one photograph", "examples", (0,)), Shown("without | with", "show")]
STAND_IN = ()
