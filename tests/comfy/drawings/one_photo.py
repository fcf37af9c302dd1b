"""A person from a single picture, without learning: the same prompt without and with; also as an app."""

from . import BESIDE, SAMPLING, Nodes, Shown, Subgraph

TITLE = "05 One photo, no training"
PROMPT = "a photo of a woman wearing sunglasses, on a beach"
NOTE = """### Press Run. Then change the *prompt*, or the *person* in *Load Demo Model*.

1. *Load Demo Model* brings a tiny portrait model and a picture of a made-up person it never saw; nothing is
   downloaded.
2. *Face Identity from Images* cuts the face out and makes tokens of it, in a second. Nothing is learned.
3. Behind *Apply Face Identity* every person in a prompt is that person. Lower *weight* when prompts are ignored.

Left: the model's own woman. Right: the same prompt and seed with the face.

**Your own photograph:** the template *05 One photo, no training, SD 1.5*."""  # noqa: E501


def inside(size: int, sampling: dict) -> Nodes:
    """# noqa: E501Nodes inside *Draw without and with*."""
    # fmt: off
    return {
        "text": ("CLIPTextEncode", (0, 0), (300, 90), "Prompt", {"text": ""}),
        "nothing": ("CLIPTextEncode", (0, 180), (300, 90), "Negative", {"text": ""}),
        "latent": ("EmptyLatentImage", (0, 360), (300, 106), "",
                   {"width": size, "height": size, "batch_size": 1}),
        "before": ("KSampler", (360, 0), (280, 262), "Draw without", sampling),
        "after": ("KSampler", (360, 360), (280, 262), "Draw with", sampling),
        "before_picture": ("VAEDecode", (700, 0), (200, 46), "", {}),
        "after_picture": ("VAEDecode", (700, 360), (200, 46), "", {}),
        "both": ("ImageStitch", (960, 0), (260, 150), "", BESIDE),
        "large": ("ImageScaleBy", (960, 240), (260, 82), "", {
            "upscale_method": "lanczos", "scale_by": 3.0 if size == 128 else 1.0}),
    }
    # fmt: on


COMPARED = """
base.MODEL>before.model apply.MODEL>after.model base.CLIP>text.clip base.CLIP>nothing.clip
base.VAE>before_picture.vae base.VAE>after_picture.vae prompt.STRING>text.text
text.CONDITIONING>before.positive nothing.CONDITIONING>before.negative text.CONDITIONING>after.positive
nothing.CONDITIONING>after.negative latent.LATENT>before.latent_image latent.LATENT>after.latent_image
before.LATENT>before_picture.samples after.LATENT>after_picture.samples before_picture.IMAGE>both.image1
after_picture.IMAGE>both.image2 both.IMAGE>large.image large.IMAGE>show.images after_picture.IMAGE>keep.images
"""
NAMES = {"model": "model without", "model_1": "model with", "text": "prompt",
         "IMAGE": "without and with", "IMAGE_1": "with"}  # fmt: skip
INSIDE = inside(128, SAMPLING)

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -450), (1080, 240), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (40, -20), (300, 182), "", {"person": 5, "pictures": 1}),
    "photo": ("PreviewImage", (1020, 420), (300, 300), "The picture", {}),
    "identity": ("LikenessEncodeIdentity", (380, 380), (320, 360), "", {}),
    "apply": ("LikenessApplyIdentity", (720, -60), (340, 122), "", {"weight": 1.0}),
    "prompt": ("PrimitiveStringMultiline", (0, 260), (340, 130), "Prompt", {"value": PROMPT}),
    **INSIDE,
    "show": ("PreviewImage", (1420, -160), (620, 360), "Without and with", {}),
    "keep": ("SaveImage", (1500, 320), (300, 340), "", {"filename_prefix": "likeness/one-photo"}),
}
# fmt: on
LINKS = f"""
base.images>photo.images base.images>identity.images base.MODEL>apply.model
identity.identity>apply.identity {COMPARED}"""
SUBGRAPHS = {"draw": Subgraph("Draw without and with", list(INSIDE), (1080, 160), (300, 160), NAMES)}
APP = ([("base", "person"), ("apply", "weight"), ("prompt", "value")], ["show"])
SHOWN = [Shown("one picture", "photo"), Shown("without | with", "show")]
