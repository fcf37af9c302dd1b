"""This person with that hair, learned together in one run."""

from . import DRAWN, Nodes, Shown, before_and_after, drawn

TITLE = "08 This person, that hair"
PROMPT = "a photo of <v0> with <v1>, wearing a blue shirt, on a beach"
NOTE = """### Press Run. Then change the *prompt*: \\<v0\\> is the person, \\<v1\\> the other's hair; either works alone.

1. Two times *Load Demo Model*: pictures of a person, and of somebody whose hair is to be had; nothing is downloaded.
2. *Mask by Text* marks the head but not the hair, *Face Parts Mask* the other's hair alone.
3. *Train Person + Part* (MagicTailor) learns both together, in about a minute and a half on two CPU cores.

**Your own pictures:** a checkpoint loader in the first demo model's place, *Load Image* for the pictures; choose
*clipseg* or *grounded-sam2*, and *photographs*, in the mask nodes. Glasses, a beard or a hat work as well."""  # noqa: E501
INSIDE = drawn(replace="a woman")

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -390), (1080, 210), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (320, -100), (300, 182), "The person", {"person": 5}),
    "other": ("LikenessMiniature", (-20, 560), (300, 182), "Somebody with the hair", {"person": 7}),
    "head": ("LikenessSegmentText", (680, 250), (300, 380), "Head without hair",
             {"words": "head", "but_not": "hair", "keep_largest": True}),
    "hair": ("LikenessParseFace", (320, 240), (300, 380), "Only the hair", {"parts": "hair"}),
    "subject": ("LikenessConcept", (980, -10), (300, 170), "Subject: the person",
                {"token": "<v0>", "role": "subject"}),
    "component": ("LikenessConcept", (680, 690), (300, 170), "Subject: the hair",
                  {"token": "<v1>", "role": "component", "class_word": "hair"}),
    "learn": ("LikenessTrainMagicTailor", (1160, 250), (340, 610), "",
              {"preview_every": 50, "preview_prompt": PROMPT, "seed": 0, "save_as": "that-hair"}),
    "prompt": ("PrimitiveStringMultiline", (1120, -260), (340, 100), "Prompt", {"value": PROMPT}),
    **INSIDE,
    "show": ("PreviewImage", (1820, 80), (575, 360), "Before and after", {}),
    "keep": ("SaveImage", (1840, -380), (300, 340), "", {"filename_prefix": "likeness/that-hair"}),
}
# fmt: on
LINKS = f"""
base.images>head.images other.images>hair.images
base.images>subject.images head.masks>subject.masks base.class_word>subject.class_word
other.images>component.images hair.masks>component.masks
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae
subject.concept>learn.concept component.concept>learn.component {DRAWN}"""
SUBGRAPHS = {"draw": before_and_after(INSIDE, (1520, -160))}
SHOWN = [Shown("person | hair", "head hair", (0,)),
         Shown("before | after", "show")]  # fmt: skip
