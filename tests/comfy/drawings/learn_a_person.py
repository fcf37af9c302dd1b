"""workflows/learn-a-person.json: learn a LoRA of a person, the same prompt before and after."""

from . import SAMPLING, Nodes

PROMPT = "a watercolor painting of a smiling {}, wearing a green shirt, in a forest"
NOTE = """## Learn a person, then draw them anywhere

1. **Load Demo Model** brings a tiny portrait model and four pictures of a made-up person. Nothing is
   downloaded.
2. **Train Person LoRA** learns that person in about a minute on two CPU cores. Watch the previews in the
   node; the cancel button keeps what was learned.
3. Behind **Apply Likeness**, `<v0>` in any prompt is that person.

Left half of the result: the model's own *woman*. Right half: the same prompt and seed with `<v0>`.

### Your own pictures

Put a checkpoint loader (SD 1.5) in the Miniature's place, give *Training Subject* your pictures and write
what they show as the class word, or use *Training Subject from Folder*. Set the latent to the
model's size."""

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-440, 60), (400, 420), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 60), (300, 210), "", {"person": 0, "pictures": 4}),
    "examples": ("PreviewImage", (0, 330), (300, 300), "The four pictures", {}),
    "concept": ("LikenessConcept", (360, 60), (320, 180), "", {"token": "<v0>", "role": "subject"}),
    "learn": (
        "LikenessTrainDreamBoothLora", (360, 300), (360, 540), "",
        {"preview_every": 25, "preview_prompt": PROMPT.format("<v0>"), "seed": 0},
    ),
    "save": ("LikenessSave", (780, 620), (320, 120), "", {"name": "learn-a-person"}),
    "apply": ("LikenessApply", (780, 60), (320, 150), "", {"strength_model": 1.0, "strength_clip": 1.0}),
    "before_prompt": (
        "CLIPTextEncode", (1160, 60), (360, 110), "Prompt before", {"text": PROMPT.format("woman")},
    ),
    "after_prompt": (
        "CLIPTextEncode", (1160, 230), (360, 110), "Prompt after", {"text": PROMPT.format("<v0>")},
    ),
    "before_nothing": ("CLIPTextEncode", (1160, 400), (360, 90), "Negative before", {"text": ""}),
    "after_nothing": ("CLIPTextEncode", (1160, 550), (360, 90), "Negative after", {"text": ""}),
    "latent": (
        "EmptyLatentImage", (780, 400), (320, 120), "", {"width": 128, "height": 128, "batch_size": 1},
    ),
    "before": ("KSampler", (1580, 60), (300, 270), "Draw before", SAMPLING),
    "after": ("KSampler", (1580, 400), (300, 270), "Draw after", SAMPLING),
    "before_picture": ("VAEDecode", (1940, 60), (200, 60), "", {}),
    "after_picture": ("VAEDecode", (1940, 400), (200, 60), "", {}),
    "both": ("ImageStitch", (1940, 170), (260, 150), "", {"direction": "right", "spacing_width": 4}),
    "large": ("ImageScaleBy", (1940, 520), (260, 90), "", {"upscale_method": "lanczos", "scale_by": 3.0}),
    "show": ("PreviewImage", (2260, 60), (560, 330), "Before and after", {}),
    "keep": ("SaveImage", (2260, 450), (320, 330), "", {"filename_prefix": "likeness/learn-a-person"}),
}
# fmt: on
COMPARED = """
before.LATENT>before_picture.samples base.VAE>before_picture.vae after.LATENT>after_picture.samples
base.VAE>after_picture.vae before_picture.IMAGE>both.image1 after_picture.IMAGE>both.image2
both.IMAGE>large.image large.IMAGE>show.images after_picture.IMAGE>keep.images
"""  # what was drawn before and after, side by side
DRAWN = f"""
base.MODEL>apply.model base.CLIP>apply.clip
base.CLIP>before_prompt.clip base.CLIP>before_nothing.clip
apply.CLIP>after_prompt.clip apply.CLIP>after_nothing.clip
base.MODEL>before.model apply.MODEL>after.model
latent.LATENT>before.latent_image latent.LATENT>after.latent_image
before_prompt.CONDITIONING>before.positive before_nothing.CONDITIONING>before.negative
after_prompt.CONDITIONING>after.positive after_nothing.CONDITIONING>after.negative
{COMPARED}"""  # the same prompt without and with what was learned
LINKS = f"""
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae base.images>examples.images
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
concept.concept>learn.concept learn.likeness>apply.likeness learn.likeness>save.likeness
{DRAWN}"""
GROUPS = """
1  A model and four pictures: -20 -10 340 660
2  Learn: 340 -10 400 1060
3  Use what was learned: 760 -10 360 770
4  Draw before and after: 1140 -10 1700 810
"""
SHOWN = "Before and after"  # the node whose picture is the thumbnail
