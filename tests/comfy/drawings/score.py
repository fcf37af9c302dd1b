"""Learn words for a person, then judge them over prompts and strengths."""

from . import Nodes, Shown

TITLE = "11 Score and compare"
PROMPTS = "a photo of <v0>, wearing a blue suit, on a beach\na photo of <v0>, in a forest"
NOTE = """### Press Run. Then change the grid's *prompts*, one a line, and its *strengths*.

1. *Train Attention LoRA* learns a made-up person. *stop by likeness* (advanced) looks every 40 steps, ends when the
   likeness stands still and keeps the best state; its curve is shown in the node.
2. *XY Grid with Similarity* draws and scores; its report with the frontier of identity and prompt is in the output
   folder. Take the strength at its upper right.
3. *Face Similarity Score* says the same of any pictures, in words.

**Your own pictures:** a checkpoint loader in the demo model's place, your photographs in *Training Subject*, and
a face pack in models/insightface; with CLIP and DINOv2 prompts and whole pictures are judged too."""  # noqa: E501

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -420), (1080, 240), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 150), (300, 182), "", {"person": 2, "pictures": 4}),
    "examples": ("PreviewImage", (340, 410), (300, 300), "The four pictures", {}),
    "concept": ("LikenessConcept", (340, -20), (300, 170), "", {"token": "<v0>", "role": "subject"}),
    "learn": ("LikenessTrainCustomDiffusion", (680, 300), (340, 500), "",
              {"steps": 160, "preview_every": 0, "seed": 0, "stop_by_likeness": 40}),
    "grid": ("LikenessGrid", (1060, 190), (400, 620), "",
             {"prompts": PROMPTS, "strengths": "0.4, 0.7, 1", "seed": 1, "seeds": 2, "faces": "miniature",
              "name": "likeness/grid"}),
    "judge": ("LikenessMeasure", (1500, 70), (380, 212), "", {"faces": "miniature", "prompt": ""}),
    "show": ("PreviewImage", (1500, 360), (620, 420), "The grid with its scores", {}),
}
# fmt: on
LINKS = """
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae base.images>examples.images
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
concept.concept>learn.concept concept.concept>grid.concept concept.concept>judge.concept
base.MODEL>grid.model base.CLIP>grid.clip base.VAE>grid.vae learn.likeness>grid.likeness
grid.sheet>show.images grid.images>judge.images
"""
SHOWN = [Shown("four pictures", "examples"), Shown("a scored grid", "show", upper=0.52)]
