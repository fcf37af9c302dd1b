"""A person and a style from two sets of pictures, joined and finished."""

from . import SAMPLING, Nodes, Shown

TITLE = "07 A person in a style"
PROMPT = "a <v1> of <v0>, wearing a green shirt, in a forest"
NOTE = """### Press Run. Then change the *prompt* in *Regional Word*: \\<v0\\> is the person, \\<v1\\> the style.

1. *Load Demo Model* brings photos of a made-up person, *Demo Style Images* posters of strangers; nothing is downloaded.
2. *Train Person + Style* (MagiCapture) learns both in one run, in about a minute and a half on two CPU cores.
3. *Regional Word* keeps **\\<v0\\>** on the face, which is looked for in the unfinished picture; the rest belongs to
   the prompt and the style.

**Your own pictures:** a checkpoint loader (SD 1.5) in the demo model's place and your pictures in both *Training
Subjects*; set the latent to 512. *Face Detailer* and *Upscale Image* finish what is small."""  # noqa: E501
# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -430), (1080, 230), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, -90), (300, 182), "", {"person": 5, "pictures": 4}),
    "paintings": ("LikenessMiniatureStyle", (0, 660), (300, 102), "", {"style": "poster", "pictures": 5}),
    "person": ("LikenessConcept", (340, 350), (300, 170), "Subject: the person",
               {"token": "<v0>", "role": "subject"}),
    "style": ("LikenessConcept", (340, 640), (300, 170), "Subject: the style",
              {"token": "<v1>", "role": "style", "class_word": "painting"}),
    "learn": ("LikenessTrainMagiCapture", (680, 260), (340, 600), "",
              {"preview_every": 50, "preview_prompt": PROMPT, "seed": 0, "save_as": "person-in-style"}),
    "apply": ("LikenessApply", (960, 10), (280, 146), "", {}),
    "refocus": ("LikenessRefocus", (1280, -160), (320, 420), "",
                {"text": PROMPT, "token": "<v0>", "where": "find by face"}),
    "nothing": ("CLIPTextEncode", (1260, 500), (320, 90), "Negative", {"text": ""}),
    "latent": ("EmptyLatentImage", (1260, 670), (320, 106), "",
               {"width": 128, "height": 128, "batch_size": 1}),
    "sample": ("LikenessRefocusedSampler", (1620, 340), (280, 306), "", {**SAMPLING, "restart": True}),
    "picture": ("VAEDecode", (1920, -380), (200, 46), "", {}),
    "keep": ("SaveImage", (2090, -240), (320, 340), "", {"filename_prefix": "likeness/person-in-style"}),
    "looked": ("PreviewImage", (1940, 450), (280, 300), "Where the person's word looked", {}),
}
# fmt: on
LINKS = """
base.images>person.images base.masks>person.masks base.class_word>person.class_word
paintings.images>style.images paintings.masks>style.masks
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae
person.concept>learn.concept style.concept>learn.style
learn.likeness>apply.likeness base.MODEL>apply.model base.CLIP>apply.clip
apply.MODEL>refocus.model apply.CLIP>refocus.clip base.VAE>refocus.vae apply.CLIP>nothing.clip
refocus.MODEL>sample.model refocus.CONDITIONING>sample.positive nothing.CONDITIONING>sample.negative
latent.LATENT>sample.latent base.VAE>sample.vae
sample.LATENT>picture.samples base.VAE>picture.vae sample.attention>looked.images
picture.IMAGE>keep.images
"""
SHOWN = [Shown("person", "photos"), Shown("style", "posters"), Shown("the person in the style", "keep")]
