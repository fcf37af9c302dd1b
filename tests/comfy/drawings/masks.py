"""workflows/masks.json: from a word or a part to masks, and learning inside them."""

from . import Nodes

NOTE = """## Masks before learning

1. **Mask by Text** marks the head and leaves the hair out; the node shows what is marked. Change the words,
   grow or feather the edge, run again: only what changed is computed.
2. **Edit Mask in MaskEditor** shows one of the pictures with its mask. To mend it, right-click the node,
   *Open in MaskEditor*, paint or erase, *Save*, run again. Chain one of these nodes for each mask that
   needs it.
3. **Face Parts Mask** marks the face; **Detect and Crop Faces** cuts it out.
4. **Training Subject** takes pictures and masks, and says what could be better about them.

### Your own pictures

Put *Load Image* in the Miniature's place and choose *clipseg*, *grounded-sam2* or *photographs*; a missing
file is named with its source."""

# fmt: off
EDGES = {"fill_holes": True, "keep_largest": True}
NODES: Nodes = {
    "note": ("MarkdownNote", (-440, 60), (400, 460), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 60), (300, 210), "", {"person": 4, "pictures": 4}),
    "words": (
        "LikenessSegmentText", (360, 60), (340, 560), "", {"words": "head", "but_not": "hair", **EDGES},
    ),
    "parts": ("LikenessParseFace", (760, 60), (340, 560), "", {"parts": "face", **EDGES}),
    "faces": ("LikenessDetectFaces", (1160, 60), (340, 460), "", {"pack": "my mask", "size": 256}),
    "brush": ("LikenessBrushMask", (0, 720), (320, 420), "", {"number": 0, "image": ""}),
    "crops": ("PreviewImage", (1560, 60), (400, 400), "The faces", {}),
    "concept": ("LikenessConcept", (360, 720), (340, 260), "", {"token": "<v0>", "role": "subject"}),
    "learn": (
        "LikenessTrainDreamBoothLora", (760, 720), (360, 540), "", {"steps": 60, "prior": "no", "seed": 0},
    ),
    "save": ("LikenessSave", (1180, 720), (320, 120), "", {"name": "masks"}),
}
LINKS = """
base.images>words.images base.images>parts.images base.images>faces.images parts.masks>faces.masks
faces.faces>crops.images base.images>brush.images words.masks>brush.masks
base.images>concept.images brush.masks>concept.masks
base.class_word>concept.class_word base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae
concept.concept>learn.concept learn.likeness>save.likeness
"""
GROUPS = """
1  Pictures: -20 -10 340 660
2  Masks and faces: 340 -10 1640 660
3  Mend one by hand: -20 670 360 620
4  Learn inside the masks: 345 670 1175 620
"""
# fmt: on
SHOWN = ""  # its thumbnail is a picture of the graph
