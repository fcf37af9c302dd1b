"""workflows/staged-words.json: learn words that follow the noise level, the same prompt before and after."""

from . import SAMPLING, Nodes
from .learn_a_person import COMPARED, PROMPT
from .learn_a_person import NODES as LEARN_A_PERSON

NOTE = """## Words that change while the picture emerges

1. **Load Demo Model** brings a tiny portrait model and four pictures of a made-up person. Nothing is
   downloaded.
2. **Train Staged Embedding** (PersonaMagic) learns a small network that says what `<v0>` means at each noise
   level. The model itself stays as it is, so that the result goes with any LoRA, identity adapter or
   ControlNet.
3. **Staged Prompt** puts it to use: the class word lays out the picture, the learned words take over
   as the noise clears. Connect *both* its outputs; without its MODEL the picture's own hint is left out.

Left half of the result: the model's own *woman*. Right half: the same prompt and seed with `<v0>`.

### To change

*bypass* is how much of the pictures goes past the text encoder; *start*, *end* and *at the end* say at which
noise levels the learned words stand.

### Your own pictures

Put a checkpoint loader (SD 1.5) in the Miniature's place, connect a *Load CLIP Vision* to *Learn Staged
Words*, and give *Training Subject* your pictures."""
SHARED = ("base", "examples", "concept", "before_prompt", "before_nothing", "latent", "before",
          "before_picture", "after_picture", "both", "large", "show")  # fmt: skip

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-460, 60), (420, 560), "Read me", {"": NOTE}),
    **{name: LEARN_A_PERSON[name] for name in SHARED},
    "learn": (
        "LikenessTrainPersonaMagic", (360, 300), (360, 540), "",
        {"preview_every": 75, "preview_prompt": PROMPT.format("<v0>"), "seed": 0},
    ),
    "save": ("LikenessSave", (780, 620), (320, 120), "", {"name": "staged-words"}),
    "after_prompt": (
        "LikenessStagedPrompt", (1160, 540), (360, 330), "", {"text": PROMPT.format("<v0>")},
    ),
    "after": ("KSampler", (1580, 400), (300, 270), "Draw after", SAMPLING),
    "keep": ("SaveImage", (2260, 450), (320, 330), "", {"filename_prefix": "likeness/staged-words"}),
}
# fmt: on
LINKS = f"""
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae base.images>examples.images
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
concept.concept>learn.concept learn.likeness>save.likeness
base.CLIP>before_prompt.clip base.CLIP>before_nothing.clip
base.MODEL>after_prompt.model base.CLIP>after_prompt.clip learn.likeness>after_prompt.likeness
base.MODEL>before.model after_prompt.MODEL>after.model
latent.LATENT>before.latent_image latent.LATENT>after.latent_image
before_prompt.CONDITIONING>before.positive before_nothing.CONDITIONING>before.negative
after_prompt.CONDITIONING>after.positive before_nothing.CONDITIONING>after.negative
{COMPARED}"""
GROUPS = """
1  A model and four pictures: -20 -10 340 660
2  Learn: 340 -10 400 1060
3  Keep: 760 560 360 200
4  Draw before and after: 1140 -10 1700 900
"""
SHOWN = "Before and after"  # the node whose picture is the thumbnail
