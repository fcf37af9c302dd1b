"""Learn a person, draw somebody else, draw that head again as the person."""

from . import SAMPLING, Nodes, Shown, Subgraph

TITLE = "10 Fix faces in a finished picture"
PROMPT = "a photo of a smiling <v0>, wearing a blue shirt, on a beach"
NOTE = """### Press Run. Then raise *denoise* in *Face Detailer* for more of the person, lower it for more of the picture.

1. *Learn a demo person*: four pictures of somebody, and a LoRA of them, in a minute on two CPU cores.
2. *Draw a stranger* makes a picture of a *woman* whom nobody knows.
3. *Face Detailer* cuts the head out, draws it again with the likeness applied, and puts it back; outside its mask
   nothing changes. The report says how like the person the face is, before and after.

**Your own pictures:** the blueprint *Fix faces as this person* on *Load Image*, with *Load Likeness*.
*Restore Faces* mends blur with GFPGAN or CodeFormer instead."""  # noqa: E501
# fmt: off
LEARNING: Nodes = {
    "base": ("LikenessMiniature", (0, 0), (300, 182), "", {"person": 5, "pictures": 4}),
    "concept": ("LikenessConcept", (360, 0), (320, 170), "", {"token": "<v0>", "role": "subject"}),
    "learn": ("LikenessTrainDreamBoothLora", (740, 0), (340, 560), "", {"preview_every": 0, "seed": 0}),
}
STRANGER: Nodes = {
    "before_prompt": ("CLIPTextEncode", (0, 0), (300, 90), "", {"text": PROMPT.replace("<v0>", "woman")}),
    "before_nothing": ("CLIPTextEncode", (0, 180), (300, 90), "", {"text": ""}),
    "latent": ("EmptyLatentImage", (0, 360), (300, 106), "", {"width": 128, "height": 128, "batch_size": 1}),
    "before": ("KSampler", (360, 0), (280, 262), "", SAMPLING),
    "before_picture": ("VAEDecode", (700, 0), (200, 46), "", {}),
}
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -420), (1080, 230), "Read me", {"": NOTE}),
    **LEARNING,
    **STRANGER,
    "apply": ("LikenessApply", (360, 340), (300, 146), "", {}),
    "face_prompt": ("CLIPTextEncode", (700, 0), (340, 110), "Prompt", {"text": PROMPT}),
    "nothing": ("CLIPTextEncode", (720, 420), (340, 90), "Negative", {"text": ""}),
    "redraw": ("LikenessDetailFace", (1120, 160), (340, 480), "",
               {"denoise": 0.7, "steps": 20, "cfg": 5.0, "seed": 7, "control_after_generate": "fixed"}),
    "large": ("ImageScaleBy", (1480, -240), (280, 82), "", {"upscale_method": "lanczos", "scale_by": 3.0}),
    "show": ("PreviewImage", (1800, -420), (560, 340), "Before and after", {}),
    "keep": ("SaveImage", (1540, 300), (280, 330), "", {"filename_prefix": "likeness/fixed"}),
    "report": ("PreviewAny", (1540, 90), (560, 140), "What became of the face", {}),
}
# fmt: on
LINKS = """
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae concept.concept>learn.concept
base.MODEL>apply.model base.MODEL>before.model base.CLIP>apply.clip base.CLIP>before_prompt.clip
base.CLIP>before_nothing.clip base.VAE>before_picture.vae base.VAE>redraw.vae base.images>redraw.references
learn.likeness>apply.likeness apply.CLIP>face_prompt.clip apply.CLIP>nothing.clip
before_prompt.CONDITIONING>before.positive
before_nothing.CONDITIONING>before.negative latent.LATENT>before.latent_image
before.LATENT>before_picture.samples
before_picture.IMAGE>redraw.images apply.MODEL>redraw.model face_prompt.CONDITIONING>redraw.positive
nothing.CONDITIONING>redraw.negative
redraw.before_and_after>large.image large.IMAGE>show.images redraw.report>report.source
redraw.images>keep.images
"""
SUBGRAPHS = {
    "learning": Subgraph("Learn a demo person", list(LEARNING), (0, 200), (320, 120), {}),
    "stranger": Subgraph("Draw a stranger", list(STRANGER), (360, 130), (300, 110), {"IMAGE": "image"}),
}
SHOWN = [Shown("before | after", "show")]
