"""Learn words that follow the noise level, the same prompt before and after."""

from . import BESIDE, SAMPLING, Nodes, Shown, Subgraph

TITLE = "12 Staged words"
PROMPT = "a photo of a smiling <v0>, wearing a green shirt, in a forest"
NOTE = """### Press Run. Then change the *prompt*; *Staged Prompt*'s advanced *bypass*, *start* and *end* say when words act.

1. *Load Demo Model* brings a tiny portrait model and four pictures of a made-up person; nothing is downloaded.
2. *Train Staged Embedding* (PersonaMagic) learns what **\\<v0\\>** means at each noise level. The model stays as it is.
3. *Staged Prompt* puts it to use. Connect *both* its outputs: without its MODEL the picture's own hint is left out.

**Your own pictures:** a checkpoint loader in the demo model's place, *Load CLIP Vision* on the training node, your
photographs in *Training Subject*, and the latent in *Draw before and after* as large as the model draws."""  # noqa: E501
# fmt: off
INSIDE: Nodes = {
    "plain": ("RegexReplace", (0, 0), (300, 200), "Without the trigger word", {"regex_pattern": r"<\w+>"}),
    "latent": ("EmptyLatentImage", (0, 390), (300, 106), "", {"width": 128, "height": 128, "batch_size": 1}),
    "before_prompt": ("CLIPTextEncode", (360, 0), (300, 90), "Prompt before", {"text": ""}),
    "nothing": ("CLIPTextEncode", (360, 180), (300, 90), "Negative", {"text": ""}),
    "staged": ("LikenessStagedPrompt", (360, 390), (300, 152), "", {"text": ""}),
    "before": ("KSampler", (720, 0), (280, 262), "Draw before", SAMPLING),
    "after": ("KSampler", (720, 360), (280, 262), "Draw after", SAMPLING),
    "before_picture": ("VAEDecode", (1060, 0), (200, 46), "", {}),
    "after_picture": ("VAEDecode", (1060, 360), (200, 46), "", {}),
    "both": ("ImageStitch", (1320, 0), (260, 150), "", BESIDE),
    "large": ("ImageScaleBy", (1320, 240), (260, 82), "", {"upscale_method": "lanczos", "scale_by": 3.0}),
}
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -410), (1080, 210), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, -120), (300, 182), "", {"person": 5, "pictures": 4}),
    "examples": ("PreviewImage", (0, 160), (300, 300), "The four pictures", {}),
    "concept": ("LikenessConcept", (360, 350), (320, 170), "", {"token": "<v0>", "role": "subject"}),
    "learn": ("LikenessTrainPersonaMagic", (740, 300), (340, 560), "",
              {"preview_every": 75, "seed": 0, "save_as": "staged-words"}),
    "prompt": ("PrimitiveStringMultiline", (740, 100), (340, 120), "Prompt", {"value": PROMPT}),
    **INSIDE,
    "show": ("PreviewImage", (1480, -120), (620, 360), "Before and after", {}),
    "keep": ("SaveImage", (1480, 320), (300, 340), "", {"filename_prefix": "likeness/staged-words"}),
}
# fmt: on
LINKS = """
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae base.images>examples.images
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
concept.concept>learn.concept
base.MODEL>staged.model base.MODEL>before.model base.CLIP>staged.clip base.CLIP>before_prompt.clip
base.CLIP>nothing.clip base.VAE>before_picture.vae base.VAE>after_picture.vae learn.likeness>staged.likeness
prompt.STRING>staged.text prompt.STRING>plain.string plain.STRING>before_prompt.text staged.MODEL>after.model
latent.LATENT>before.latent_image latent.LATENT>after.latent_image
before_prompt.CONDITIONING>before.positive nothing.CONDITIONING>before.negative
staged.CONDITIONING>after.positive nothing.CONDITIONING>after.negative
before.LATENT>before_picture.samples after.LATENT>after_picture.samples
before_picture.IMAGE>both.image1 after_picture.IMAGE>both.image2 both.IMAGE>large.image
large.IMAGE>show.images after_picture.IMAGE>keep.images base.class_word>plain.replace
"""
NAMES = {"text": "prompt", "string": "prompt", "replace": "class word", "IMAGE": "before and after",
         "IMAGE_1": "after"}  # fmt: skip
SUBGRAPHS = {"draw": Subgraph("Draw before and after", list(INSIDE), (1140, -120), (280, 160), NAMES)}
SHOWN = [Shown("four pictures", "examples"), Shown("before | after", "show")]
