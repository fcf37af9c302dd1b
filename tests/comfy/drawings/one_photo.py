"""workflows/one-photo.json: a person from a single picture, without learning; prompts without and with."""

from . import SAMPLING, Nodes

FOREST = "a watercolor painting of a smiling woman, wearing a green shirt, in a forest"
BEACH = "a photo of a woman wearing sunglasses, on a beach"
NOTE = """## One picture, no learning

1. **Load Demo Model** brings a tiny portrait model and a picture of a made-up person it never saw.
   Nothing is downloaded.
2. **Face Identity from Images** cuts the face out, and the identity adapter that comes with the
   Miniature turns it into a few tokens. That takes a second.
3. Behind **Apply Face Identity**, every person in a prompt is that person. Lower the weight when prompts
   are ignored.

Left: the model's own *woman*. Right: the same prompt and seed with the identity.

### Your own pictures

Put *Load Image* and a checkpoint loader (SD 1.5) in the Miniature's place, load MasterWeaver's adapter with
*Load Likeness*, CLIP ViT-L/14 with *Load CLIP Vision*, and connect both to *Face Identity from Images*. Set
the latent to 512. For two people use two of each node, with a mask each."""

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-440, 60), (400, 460), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 60), (300, 210), "", {"person": 0, "pictures": 1}),
    "photo": ("PreviewImage", (0, 330), (300, 300), "The picture", {}),
    "identity": ("LikenessEncodeIdentity", (360, 60), (340, 420), "", {}),
    "apply": ("LikenessApplyIdentity", (360, 560), (340, 260), "", {"weight": 1.0}),
    "forest": ("CLIPTextEncode", (760, 60), (360, 110), "First prompt", {"text": FOREST}),
    "beach": ("CLIPTextEncode", (760, 230), (360, 110), "Second prompt", {"text": BEACH}),
    "nothing": ("CLIPTextEncode", (760, 400), (360, 90), "Negative prompt", {"text": ""}),
    "latent": (
        "EmptyLatentImage", (760, 560), (360, 120), "", {"width": 128, "height": 128, "batch_size": 1},
    ),
    "before_1": ("KSampler", (1180, 60), (280, 270), "First without", SAMPLING),
    "after_1": ("KSampler", (1180, 400), (280, 270), "First with", SAMPLING),
    "before_2": ("KSampler", (1500, 60), (280, 270), "Second without", SAMPLING),
    "after_2": ("KSampler", (1500, 400), (280, 270), "Second with", SAMPLING),
    "before_1_picture": ("VAEDecode", (1820, 60), (200, 60), "", {}),
    "after_1_picture": ("VAEDecode", (1820, 170), (200, 60), "", {}),
    "before_2_picture": ("VAEDecode", (1820, 280), (200, 60), "", {}),
    "after_2_picture": ("VAEDecode", (1820, 390), (200, 60), "", {}),
    "pair_1": ("ImageStitch", (2060, 60), (260, 150), "", {"direction": "right", "spacing_width": 4}),
    "pair_2": ("ImageStitch", (2060, 280), (260, 150), "", {"direction": "right", "spacing_width": 4}),
    "all": ("ImageStitch", (2060, 500), (260, 150), "", {"direction": "down", "spacing_width": 4}),
    "large": ("ImageScaleBy", (2060, 720), (260, 90), "", {"upscale_method": "lanczos", "scale_by": 2.0}),
    "show": ("PreviewImage", (2380, 60), (480, 480), "Without and with", {}),
    "keep": ("SaveImage", (2380, 600), (320, 330), "", {"filename_prefix": "likeness/one-photo"}),
}
# fmt: on
LINKS = """
base.images>photo.images base.images>identity.images base.MODEL>apply.model
identity.identity>apply.identity base.CLIP>forest.clip base.CLIP>beach.clip base.CLIP>nothing.clip
base.MODEL>before_1.model base.MODEL>before_2.model apply.MODEL>after_1.model apply.MODEL>after_2.model
forest.CONDITIONING>before_1.positive forest.CONDITIONING>after_1.positive
beach.CONDITIONING>before_2.positive beach.CONDITIONING>after_2.positive
nothing.CONDITIONING>before_1.negative nothing.CONDITIONING>before_2.negative
nothing.CONDITIONING>after_1.negative nothing.CONDITIONING>after_2.negative
latent.LATENT>before_1.latent_image latent.LATENT>before_2.latent_image
latent.LATENT>after_1.latent_image latent.LATENT>after_2.latent_image
before_1.LATENT>before_1_picture.samples before_2.LATENT>before_2_picture.samples
after_1.LATENT>after_1_picture.samples after_2.LATENT>after_2_picture.samples
base.VAE>before_1_picture.vae base.VAE>before_2_picture.vae base.VAE>after_1_picture.vae
base.VAE>after_2_picture.vae before_1_picture.IMAGE>pair_1.image1 after_1_picture.IMAGE>pair_1.image2
before_2_picture.IMAGE>pair_2.image1 after_2_picture.IMAGE>pair_2.image2
pair_1.IMAGE>all.image1 pair_2.IMAGE>all.image2 all.IMAGE>large.image large.IMAGE>show.images
after_1_picture.IMAGE>keep.images
"""
GROUPS = """
1  A model and a picture: -20 -10 340 660
2  Who is it?: 340 -10 380 860
3  What to draw: 740 -10 400 710
4  Without and with: 1160 -10 1720 960
"""
SHOWN = "Without and with"  # the node whose picture is the thumbnail
