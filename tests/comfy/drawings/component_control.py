"""workflows/component-control.json: this person with that hair, learned together in one run."""

from . import Nodes
from .learn_a_person import DRAWN
from .learn_a_person import NODES as LEARN_A_PERSON

PROMPT = "a photo of {}, wearing a blue shirt, on a beach"
NOTE = """## This person, with that hair

1. Two times **Load Demo Model**: pictures of a person, and pictures of somebody whose hair is to be had.
   Nothing is downloaded.
2. **Mask by Text** marks the person's head *but not* the hair; **Face Parts Mask** marks the other's
   hair alone. What is not marked is drowned in noise while learning, less and less of it.
3. **Train Person + Part** (MagicTailor) learns both together, in about a minute and a half on two
   CPU cores.
4. `<v0> with <v1>` joins them; either word alone works too.

Left half of the result: the model's own *woman*. Right half: the same prompt and seed with `<v0> with <v1>`.

### Your own pictures

Put a checkpoint loader (SD 1.5) in the Miniature's place, *Load Image* for the pictures, and choose *clipseg*
or *grounded-sam2* and *photographs* in the mask nodes. Any other part works as well: glasses, beard, hat."""
SHARED = ("base", "before_prompt", "before_nothing", "after_prompt", "after_nothing", "latent", "before",
          "after", "before_picture", "after_picture", "both", "large", "show", "apply")  # fmt: skip

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-480, 60), (440, 560), "Read me", {"": NOTE}),
    **{name: LEARN_A_PERSON[name] for name in SHARED},
    "other": ("LikenessMiniature", (0, 720), (300, 210), "Somebody with the hair", {"person": 5}),
    "head": (
        "LikenessSegmentText", (360, 60), (340, 560), "Head without hair",
        {"words": "head", "but_not": "hair", "keep_largest": True},
    ),
    "hair": ("LikenessParseFace", (360, 720), (340, 560), "Only the hair", {"parts": "hair"}),
    "subject": ("LikenessConcept", (760, 60), (320, 200), "The person", {"token": "<v0>", "role": "subject"}),
    "component": (
        "LikenessConcept", (760, 720), (320, 200), "The hair",
        {"token": "<v1>", "role": "component", "class_word": "hair"},
    ),
    "learn": (
        "LikenessTrainMagicTailor", (1140, 60), (360, 640), "",
        {"preview_every": 50, "preview_prompt": PROMPT.format("<v0> with <v1>"), "seed": 0},
    ),
    "save": ("LikenessSave", (1140, 860), (320, 120), "", {"name": "component-control"}),
    "keep": ("SaveImage", (2260, 450), (320, 330), "", {"filename_prefix": "likeness/component-control"}),
}
RIGHT = 800  # how far what draws is moved, beside what learns
for name in (*SHARED[1:], "keep"):
    kind, (x, y), size, title, widgets = NODES[name]
    NODES[name] = (kind, (x + RIGHT, y), size, title, widgets)
for name, subject in (("before_prompt", "a woman"), ("after_prompt", "<v0> with <v1>")):
    kind, place, size, title, _ = NODES[name]
    NODES[name] = (kind, place, size, title, {"text": PROMPT.format(subject)})
# fmt: on
LINKS = f"""
base.images>head.images other.images>hair.images
base.images>subject.images head.masks>subject.masks base.class_word>subject.class_word
other.images>component.images hair.masks>component.masks
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae
subject.concept>learn.concept component.concept>learn.component
learn.likeness>apply.likeness learn.likeness>save.likeness
{DRAWN}"""
GROUPS = """
1  The person: -20 -10 1120 680
2  The hair: -20 690 1120 640
3  Learn both: 1120 -10 400 1020
4  Draw before and after: 1560 -10 2080 810
"""
SHOWN = "Before and after"  # the node whose picture is the thumbnail
