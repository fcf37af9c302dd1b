"""workflows/person-in-style.json: a person and a style from two sets of pictures, joined and finished."""

from . import SAMPLING, Nodes

PROMPT = "a <v1> of <v0>, wearing a green shirt, in a forest"
NOTE = """## A person in a style

1. **Load Demo Model** brings a tiny portrait model and four photos of a made-up person, **Load the
   Miniature's Style Pictures** five watercolors of strangers. Nothing is downloaded.
2. **Train Person + Style** (MagiCapture) learns both in one run, in about a minute and a half on two CPU
   cores: `<v0>` is the person, `<v1>` the style.
3. **Regional Word** keeps `<v0>` on the face while drawing: the face is looked for once in the unfinished
   picture, and the rest of it belongs to the prompt and the style.
4. **Face Detailer** cuts the face out, enlarged, and draws it once more; then the picture is enlarged.

Left half of the result: as it was sampled. Right half: with the face redrawn.

### Your own pictures

Put a checkpoint loader (SD 1.5) in the Miniature's place and give each *Training Subject* your pictures;
masks are optional. Set the latent and *Face Detailer* to 512, and choose *auraface* where it says *the
Miniature*. With an upscale model, *Upscale Image* takes the place of *Upscale Image By*; *Restore Faces*
is there for photographs."""

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-480, 60), (440, 620), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 60), (300, 210), "", {"person": 0, "pictures": 4}),
    "paintings": ("LikenessMiniatureStyle", (0, 420), (300, 130), "", {"style": "watercolor", "pictures": 5}),
    "person": ("LikenessConcept", (360, 60), (320, 200), "The person", {"token": "<v0>", "role": "subject"}),
    "style": (
        "LikenessConcept", (360, 420), (320, 200), "The style",
        {"token": "<v1>", "role": "style", "class_word": "painting"},
    ),
    "learn": (
        "LikenessTrainMagiCapture", (740, 60), (360, 640), "",
        {"preview_every": 50, "preview_prompt": PROMPT, "seed": 0},
    ),
    "save": ("LikenessSave", (740, 860), (320, 120), "", {"name": "person-in-style"}),
    "apply": ("LikenessApply", (1160, 60), (320, 150), "", {"strength_model": 1.0, "strength_clip": 1.0}),
    "refocus": (
        "LikenessRefocus", (1160, 270), (360, 560), "",
        {"text": PROMPT, "token": "<v0>", "where": "find by face"},
    ),
    "nothing": ("CLIPTextEncode", (1160, 900), (360, 90), "Negative", {"text": ""}),
    "latent": (
        "EmptyLatentImage", (1580, 60), (320, 120), "", {"width": 128, "height": 128, "batch_size": 1},
    ),
    "sample": ("LikenessRefocusedSampler", (1580, 240), (340, 340), "", {**SAMPLING, "restart": True}),
    "picture": ("VAEDecode", (1580, 640), (200, 60), "", {}),
    "looked": ("PreviewImage", (1580, 760), (300, 300), "Where <v0> looked", {}),
    "face_prompt": (
        "CLIPTextEncode", (1980, 60), (340, 110), "Prompt for the face", {"text": "a <v1> of <v0>"},
    ),
    "finish": (
        "LikenessDetailFace", (1980, 230), (340, 640), "",
        {"found_by": "the Miniature", "size": 128, "denoise": 0.4, "seed": 7},
    ),
    "both": ("ImageStitch", (2380, 60), (260, 150), "", {"direction": "right", "spacing_width": 4}),
    "large": ("ImageScaleBy", (2380, 270), (260, 90), "", {"upscale_method": "lanczos", "scale_by": 3.0}),
    "show": ("PreviewImage", (2700, 60), (560, 330), "Sampled and finished", {}),
    "keep": ("SaveImage", (2700, 450), (320, 330), "", {"filename_prefix": "likeness/person-in-style"}),
}
# fmt: on
LINKS = """
base.images>person.images base.masks>person.masks base.class_word>person.class_word
paintings.images>style.images paintings.masks>style.masks
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae
person.concept>learn.concept style.concept>learn.style
learn.likeness>apply.likeness learn.likeness>save.likeness
base.MODEL>apply.model base.CLIP>apply.clip
apply.MODEL>refocus.model apply.CLIP>refocus.clip base.VAE>refocus.vae apply.CLIP>nothing.clip
refocus.MODEL>sample.model refocus.CONDITIONING>sample.positive nothing.CONDITIONING>sample.negative
latent.LATENT>sample.latent base.VAE>sample.vae
sample.LATENT>picture.samples base.VAE>picture.vae sample.attention>looked.images
apply.CLIP>face_prompt.clip
picture.IMAGE>finish.images apply.MODEL>finish.model face_prompt.CONDITIONING>finish.positive
nothing.CONDITIONING>finish.negative base.VAE>finish.vae base.images>finish.references
picture.IMAGE>both.image1 finish.images>both.image2
both.IMAGE>large.image large.IMAGE>show.images finish.images>keep.images
"""
GROUPS = """
1  A person and a style: -20 -10 720 650
2  Learn both: 720 -10 400 1020
3  Draw, refocused: 1140 -10 800 1100
4  Finish: 1960 -10 1330 920
"""
SHOWN = "Sampled and finished"  # the node whose picture is the thumbnail
