"""A folder of photographs, a LoRA of the person in them, a prompt before and after: on Z-Image Base."""

from . import DRAWN, QWEN_3_4B_Z, SAMPLING, Z_IMAGE, Z_IMAGE_VAE, Nodes, Shown, before_and_after, drawn
from .train_flux2 import PROMPT

TITLE = "14 Train a LoRA of a person, Z-Image"
NOTE = """### Put 5 to 20 photographs into ComfyUI's folder `input/friend`, write *man* or *woman* as class word, Run.

1. *Learn on* Z-Image Base; *Draw with* the same. To see how it carries over to Turbo choose *z_image_turbo_bf16* there, with 8 steps and cfg 1: likenesses may be weaker.
2. *Training Subject from Folder* says what could be better about the photographs.
3. *Train Person LoRA* says first what memory it needs, and saves **friend-z-image** in models/likeness by itself.
4. *Draw before and after*: left the prompt without the person, right with. Write **\\<v0\\>** where they belong.

It needs ComfyUI 0.26 or newer. Files (Apache-2.0; Comfy-Org/z_image, z_image_turbo): *z_image_bf16* in diffusion_models, *qwen_3_4b* in text_encoders, *ae* in vae. To learn on Turbo put *Load LoRA* with ostris/zimage_turbo_training_adapter between it and the training, and draw without."""  # noqa: E501
_CLEAR = {**SAMPLING, "cfg": 4.0}
INSIDE = {
    name: (kind, place, size, title, _CLEAR if widgets == SAMPLING else widgets)
    for name, (kind, place, size, title, widgets) in drawn(replace="person").items()
    if name != "large"
}
INSIDE["latent"] = (*INSIDE["latent"][:4], {"width": 1024, "height": 1024, "batch_size": 1})

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -390), (1080, 200), "Read me", {"": NOTE}),
    "base": ("UNETLoader", (0, 260), (340, 82), "Learn on", {"unet_name": Z_IMAGE.name}),
    "draw_with": ("UNETLoader", (0, -120), (340, 82), "Draw with", {"unet_name": Z_IMAGE.name}),
    "words": ("CLIPLoader", (0, 10), (340, 106), "", {"clip_name": QWEN_3_4B_Z.name, "type": "lumina2"}),
    "vae": ("VAELoader", (0, 160), (340, 58), "", {"vae_name": Z_IMAGE_VAE.name}),
    "friend": ("LikenessConceptFolder", (0, 400), (340, 174), "",
               {"folder": "friend", "class_word": "person", "token": "<v0>"}),
    "learn": ("LikenessTrainDreamBoothLora", (740, 340), (340, 600), "",
              {"preview_every": 100, "seed": 0, "resolution": 768, "save_as": "friend-z-image"}),
    "prompt": ("PrimitiveStringMultiline", (740, 150), (340, 120), "Prompt", {"value": PROMPT}),
    **INSIDE,
    "show": ("PreviewImage", (1480, -120), (620, 360), "Before and after", {}),
    "keep": ("SaveImage", (1480, 320), (300, 340), "", {"filename_prefix": "likeness/friend-z-image"}),
}
# fmt: on
LINKS = """
base.MODEL>learn.model words.CLIP>learn.clip vae.VAE>learn.vae friend.concept>learn.concept
""" + (
    DRAWN.replace("base.MODEL", "draw_with.MODEL")
    .replace("base.CLIP", "words.CLIP")
    .replace("base.VAE", "vae.VAE")
    .replace("both.IMAGE>large.image", "both.IMAGE>show.images")
    .replace("large.IMAGE>show.images", "")
)
SUBGRAPHS = {"draw": before_and_after(INSIDE, (1140, -120))}
MODELS = {"base": [Z_IMAGE], "draw_with": [Z_IMAGE], "words": [QWEN_3_4B_Z], "vae": [Z_IMAGE_VAE]}
SHOWN = [Shown("photographs", "examples"), Shown("before | after", "show")]
STAND_IN: tuple[str, ...] = ()  # its prompt is of the Miniature's world, too
