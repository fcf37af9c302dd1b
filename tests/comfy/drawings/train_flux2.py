"""A folder of photographs, a LoRA of the person in them, the same prompt before and after: on FLUX.2 Klein,
learned on its base version and drawn with the distilled one."""

from . import (
    DRAWN,
    FLUX2_VAE,
    KLEIN,
    KLEIN_BASE,
    QWEN_3_4B,
    SAMPLING,
    Nodes,
    Shown,
    before_and_after,
    drawn,
)  # fmt: skip

TITLE = "13 Train a LoRA of a person, FLUX.2"
PROMPT = "a photo of <v0>, wearing a blue shirt, on a beach"
NOTE = """### Put 5 to 20 photographs into ComfyUI's folder `input/friend`, write *man* or *woman* as class word, Run.

1. *Learn on* the base version of FLUX.2 Klein 4B, never on the distilled one; *Draw with* the distilled one, in 4 steps.
2. *Training Subject from Folder* says what could be better about the photographs.
3. *Train Person LoRA* says first what memory it needs, and saves **friend-flux2** in models/likeness by itself.
4. *Draw before and after*: left the prompt without the person, right with. Write **\\<v0\\>** where they belong.

It needs ComfyUI 0.26 or newer. For Klein 9B choose its two models and *qwen_3_8b* instead (not for commercial use)."""  # noqa: E501
INSIDE = {
    name: (kind, place, size, title, {**widgets, "steps": 4, "cfg": 1.0} if widgets == SAMPLING else widgets)
    for name, (kind, place, size, title, widgets) in drawn(replace="person").items()
    if name != "large"
}
INSIDE["latent"] = (*INSIDE["latent"][:4], {"width": 1024, "height": 1024, "batch_size": 1})

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -390), (1080, 200), "Read me", {"": NOTE}),
    "base": ("UNETLoader", (0, 260), (340, 82), "Learn on", {"unet_name": KLEIN_BASE.name}),
    "klein": ("UNETLoader", (0, -120), (340, 82), "Draw with", {"unet_name": KLEIN.name}),
    "words": ("CLIPLoader", (0, 10), (340, 106), "", {"clip_name": QWEN_3_4B.name, "type": "flux2"}),
    "vae": ("VAELoader", (0, 160), (340, 58), "", {"vae_name": FLUX2_VAE.name}),
    "friend": ("LikenessConceptFolder", (0, 400), (340, 174), "",
               {"folder": "friend", "class_word": "person", "token": "<v0>"}),
    "learn": ("LikenessTrainDreamBoothLora", (740, 340), (340, 600), "",
              {"preview_every": 100, "seed": 0, "resolution": 768, "save_as": "friend-flux2"}),
    "prompt": ("PrimitiveStringMultiline", (740, 150), (340, 120), "Prompt", {"value": PROMPT}),
    **INSIDE,
    "show": ("PreviewImage", (1480, -120), (620, 360), "Before and after", {}),
    "keep": ("SaveImage", (1480, 320), (300, 340), "", {"filename_prefix": "likeness/friend-flux2"}),
}
# fmt: on
LINKS = """
base.MODEL>learn.model words.CLIP>learn.clip vae.VAE>learn.vae friend.concept>learn.concept
""" + (
    DRAWN.replace("base.MODEL", "klein.MODEL")
    .replace("base.CLIP", "words.CLIP")
    .replace("base.VAE", "vae.VAE")
    .replace("both.IMAGE>large.image", "both.IMAGE>show.images")
    .replace("large.IMAGE>show.images", "")
)
SUBGRAPHS = {"draw": before_and_after(INSIDE, (1140, -120))}
MODELS = {"base": [KLEIN_BASE], "klein": [KLEIN], "words": [QWEN_3_4B], "vae": [FLUX2_VAE]}
SHOWN = [Shown("photographs", "examples"), Shown("before | after", "show")]
STAND_IN: tuple[str, ...] = ()  # its prompt is of the Miniature's world, too
