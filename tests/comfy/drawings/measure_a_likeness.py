"""workflows/measure-a-likeness.json: learn words for a person, then judge them over prompts and strengths."""

from . import Nodes

PROMPTS = "a photo of <v0>, wearing a blue suit, on a beach\na watercolor painting of <v0>, in a forest"
NOTE = """## How much is it them, and does it still do what the prompt says?

1. **Load Demo Model** brings a tiny model and four pictures of a made-up person; nothing is downloaded.
2. **Train Attention LoRA** learns that person. *stop by likeness* looks every 40 steps, ends when the
   likeness stands still and keeps the best state; its curve is shown in the node.
3. **XY Grid with Similarity** draws two prompts at three strengths and scores every picture. The report, with
   the frontier of identity and prompt, is in ComfyUI's output folder. Take the strength at its upper right.
4. **Face Similarity Score** says the same of any pictures, in words.

### Your own pictures

Put a checkpoint loader in the Miniature's place, give *Training Subject* your pictures, set *size*, and
choose *auraface* as the judge (files in `models/insightface/models/auraface`). With CLIP and DINOv2 in
`models/likeness/clip` and `models/likeness/dinov2` prompts and whole pictures are judged too."""

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-460, 60), (420, 480), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 60), (300, 210), "", {"person": 2, "pictures": 4}),
    "examples": ("PreviewImage", (0, 330), (300, 300), "The four pictures", {}),
    "concept": ("LikenessConcept", (360, 60), (320, 180), "", {"token": "<v0>", "role": "subject"}),
    "learn": (
        "LikenessTrainCustomDiffusion", (360, 300), (360, 560), "",
        {"steps": 160, "preview_every": 0, "seed": 0, "stop_by_likeness": 40},
    ),
    "grid": (
        "LikenessGrid", (780, 60), (400, 560), "",
        {"prompts": PROMPTS, "strengths": "0.4, 0.7, 1", "seed": 1, "seeds": 2, "faces": "miniature",
         "name": "likeness/grid", "size": 128},
    ),
    "judge": ("LikenessMeasure", (780, 700), (400, 260), "", {"faces": "miniature", "prompt": ""}),
    "show": ("PreviewImage", (1240, 60), (620, 720), "The grid with its scores", {}),
}
# fmt: on
LINKS = """
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae base.images>examples.images
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
concept.concept>learn.concept concept.concept>grid.concept concept.concept>judge.concept
base.MODEL>grid.model base.CLIP>grid.clip base.VAE>grid.vae learn.likeness>grid.likeness
grid.sheet>show.images grid.images>judge.images
"""
GROUPS = """
1  A model and four pictures: -20 -10 340 660
2  Learn, until the likeness stands still: 340 -10 400 900
3  Judge: 760 -10 440 1000
4  See: 1220 -10 660 820
"""
SHOWN = "The grid with its scores"  # the node whose picture is the thumbnail
