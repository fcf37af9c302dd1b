"""From a word or a part to masks, and learning inside them."""

from . import Nodes, Shown

TITLE = "09 Masks for training"
NOTE = """### Press Run. Then change the *words*, grow or feather an edge, and run again: only what changed is computed.

1. *Mask by Text* marks the head and leaves the hair out; the node shows what is marked.
2. *Edit Mask in MaskEditor*: right-click it, *Open in MaskEditor*, paint or erase, *Save*, run again. One such node for
   each mask that needs it.
3. *Face Parts Mask* marks the face; *Detect and Crop Faces* cuts it out.
4. *Training Subject* takes pictures and masks, and says what could be better about them.

**Your own pictures:** *Load Image* in the demo model's place; choose *clipseg*, *grounded-sam2* or *photographs*. A
missing file is named with its source."""  # noqa: E501

# fmt: off
EDGES = {"fill_holes": True, "keep_largest": True}
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -430), (1080, 250), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (-200, 150), (300, 182), "", {"person": 4, "pictures": 4}),
    "words": ("LikenessSegmentText", (60, 440), (320, 440), "",
              {"words": "head", "but_not": "hair", **EDGES}),
    "parts": ("LikenessParseFace", (800, 300), (320, 400), "", {"parts": "face", **EDGES}),
    "faces": ("LikenessDetectFaces", (1160, 230), (320, 400), "", {"pack": "my mask", "size": 256}),
    "brush": ("LikenessBrushMask", (420, 370), (320, 380), "", {"number": 0, "image": ""}),
    "crops": ("PreviewImage", (1520, -340), (340, 360), "The faces", {}),
    "concept": ("LikenessConcept", (800, -90), (320, 200), "", {"token": "<v0>", "role": "subject"}),
    "learn": ("LikenessTrainDreamBoothLora", (1540, 120), (340, 500), "",
              {"steps": 60, "prior": "no", "seed": 0}),
    "save": ("LikenessSave", (1900, 80), (300, 78), "", {"name": "masks"}),
}
# fmt: on
LINKS = """
base.images>words.images base.images>parts.images base.images>faces.images parts.masks>faces.masks
faces.faces>crops.images base.images>brush.images words.masks>brush.masks
base.images>concept.images brush.masks>concept.masks
base.class_word>concept.class_word base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae
concept.concept>learn.concept learn.likeness>save.likeness
"""
SHOWN = [Shown("head, by word", "words"), Shown("face, by part", "parts"),
         Shown("cut out", "crops")]  # fmt: skip
