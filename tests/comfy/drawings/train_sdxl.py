"""A folder of photographs, a LoRA of the person in them, four pictures: on SDXL."""

from . import SDXL, Nodes, Shown, Subgraph

TITLE = "02 Train a LoRA of a person, SDXL"
NOTE = """### Put 5 to 20 photographs into ComfyUI's folder `input/friend`, write *man* or *woman* as class word, Run.

1. *Load Checkpoint*: {base}. {time}
2. *Training Subject from Folder* says what could be better about the photographs.
3. *Train Person LoRA* shows a preview every 100 steps and saves **{name}** in models/likeness by itself.
4. *Draw four prompts*: write **\\<v0\\>** where the person belongs.

Afterwards draw with the template *04 Draw a trained person, SDXL*; it loads what was saved, without learning again."""  # noqa: E501
TIME = "1024 pixels, about 12 GB of GPU memory, some 15 minutes there; *resolution* 768 or 512 needs less."
PROMPTS = [
    "a photo of <v0>, close-up portrait, natural light",
    "a photo of <v0> on a beach, wearing a blue shirt",
    "a photo of <v0> in a suit, in an office",
    "a watercolor painting of <v0>, in a forest",
]
SAMPLING = {
    "seed": 7, "control_after_generate": "fixed", "steps": 25, "cfg": 6.0, "sampler_name": "dpmpp_2m",
    "scheduler": "karras", "denoise": 1.0,
}  # fmt: skip


def inside(size: int) -> Nodes:
    """# noqa: E501Nodes inside *Draw four prompts*."""
    found: Nodes = {
        "apply": ("LikenessApply", (0, 0), (300, 146), "", {}),
        "nothing": ("CLIPTextEncode", (360, 1020), (300, 90), "Negative", {"text": ""}),
        "latent": ("EmptyLatentImage", (0, 260), (300, 106), "", {
            "width": size, "height": size, "batch_size": 1}),
    }  # fmt: skip
    for number in range(1, 5):
        top = 260 * number - 260
        found |= {
            f"text{number}": ("CLIPTextEncode", (360, top), (300, 90), f"Prompt {number}", {}),
            f"draw{number}": ("KSampler", (720, 320 * number - 320), (280, 262), "", SAMPLING),
            f"picture{number}": ("VAEDecode", (1060, 320 * number - 320), (200, 46), "", {}),
        }
    for number in range(1, 4):
        found[f"with{number}"] = ("ImageBatch", (1320 + 240 * (number - 1), 0), (200, 46), "", {})
    return found


def nodes(base: str, size: int, name: str, note: str) -> Nodes:
    # fmt: off
    return {
        "note": ("MarkdownNote", (0, -390), (1080, 200), "Read me", {"": note}),
        "base": ("CheckpointLoaderSimple", (0, -100), (340, 98), "", {"ckpt_name": base}),
        "friend": ("LikenessConceptFolder", (0, 160), (340, 174), "",
                   {"folder": "friend", "class_word": "person", "token": "<v0>"}),
        "learn": ("LikenessTrainDreamBoothLora", (420, 140), (360, 600), "",
                  {"preview_every": 100, "seed": 0, "save_as": name}),
        **inside(size),
        "keep": ("SaveImage", (1280, -100), (620, 680), "", {"filename_prefix": f"likeness/{name}"}),
    }
    # fmt: on


LINKS = """
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae friend.concept>learn.concept
base.MODEL>apply.model base.CLIP>apply.clip base.VAE>picture1.vae base.VAE>picture2.vae
base.VAE>picture3.vae base.VAE>picture4.vae learn.likeness>apply.likeness apply.CLIP>nothing.clip
picture1.IMAGE>with1.image1 picture2.IMAGE>with1.image2 with1.IMAGE>with2.image1 picture3.IMAGE>with2.image2
with2.IMAGE>with3.image1 picture4.IMAGE>with3.image2 with3.IMAGE>keep.images
"""
for each in range(1, 5):
    LINKS += f"""apply.CLIP>text{each}.clip apply.MODEL>draw{each}.model
text{each}.CONDITIONING>draw{each}.positive
nothing.CONDITIONING>draw{each}.negative latent.LATENT>draw{each}.latent_image
draw{each}.LATENT>picture{each}.samples
"""


def subgraphs(size: int) -> dict[str, Subgraph]:
    fields = {f"text{number}.text": prompt for number, prompt in enumerate(PROMPTS, start=1)}
    names = {"text": "prompt 1", "text_1": "prompt 2", "text_2": "prompt 3", "text_3": "prompt 4",
             "IMAGE": "images"}  # fmt: skip
    return {"draw": Subgraph("Draw four prompts", list(inside(size)), (860, -100), (340, 460), names, fields)}


NODES = nodes(
    SDXL.name,
    1024,
    "friend",
    NOTE.format(base="SDXL, or any checkpoint of its kind", time=TIME, name="friend"),
)
SUBGRAPHS = subgraphs(1024)
MODELS = {"base": [SDXL]}
SHOWN = [Shown("photographs", "examples"), Shown("four prompts", "keep")]
STAND_IN = (  # its thumbnail is drawn with the Miniature in the checkpoint's place, from prompts of its world
    "a photo of <v0>, wearing a blue shirt, on a beach",
    "a photo of a smiling <v0>, wearing a green shirt, in a forest",
    "a photo of <v0>, wearing sunglasses, in a city",
    "a poster of <v0>, wearing a red shirt, in the mountains",
)
