"""Learn a LoRA of a made-up person on the Miniature, the same prompt before and after; also as an app."""

from . import DRAWN, Nodes, Shown, before_and_after, drawn

TITLE = "01 Try it, learn a demo person"
PROMPT = "a photo of a smiling <v0>, wearing a blue shirt, on a beach"
NOTE = """### Press Run. Then change the *prompt*: \\<v0\\>, in any scene, is the person that was learned.

1. *Load Demo Model* brings a tiny portrait model and four pictures of a made-up person; nothing is downloaded.
2. *Train Person LoRA* learns that person, in about a minute on two CPU cores. Watch the previews in it.
3. *Draw before and after*: left the model's own woman or man, right the same prompt with the person.

**Your own photographs:** the template *02 Train a LoRA of a person, SDXL*, or *03* for SD 1.5."""  # noqa: E501
INSIDE = drawn()

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -390), (1080, 190), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, -120), (300, 182), "", {"person": 5, "pictures": 4}),
    "examples": ("PreviewImage", (0, 160), (300, 300), "The four pictures", {}),
    "concept": ("LikenessConcept", (360, 350), (320, 170), "", {"token": "<v0>", "role": "subject"}),
    "learn": ("LikenessTrainDreamBoothLora", (740, 300), (340, 560), "",
              {"preview_every": 25, "seed": 0, "save_as": "demo-person"}),
    "prompt": ("PrimitiveStringMultiline", (740, 100), (340, 120), "Prompt", {"value": PROMPT}),
    **INSIDE,
    "show": ("PreviewImage", (1480, -120), (620, 360), "Before and after", {}),
    "keep": ("SaveImage", (1480, 320), (300, 340), "", {"filename_prefix": "likeness/try-it"}),
}
# fmt: on
LINKS = f"""
base.images>examples.images base.images>concept.images base.masks>concept.masks
base.class_word>concept.class_word base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae
concept.concept>learn.concept {DRAWN} base.class_word>plain.replace"""
SUBGRAPHS = {"draw": before_and_after(INSIDE, (1140, -120))}
APP = (
    [("base", "person"), ("base", "pictures"), ("learn", "steps"), ("learn", "seed"), ("prompt", "value")],
    ["show"],
)
SHOWN = [Shown("four pictures", "examples"), Shown("before | after", "show")]
