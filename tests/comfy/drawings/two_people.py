"""workflows/two-people.json: two people learned apart, in one picture: plainly, in regions, drawn again."""

from . import SAMPLING, Nodes

PROMPT = "a photo of <v0> and <v1>, on a beach"
ALONE = "a photo of {}, on a beach"
NOTE = """## Two people who stay two

1. Two made-up people of the **Miniature**, four pictures each. Nothing is downloaded.
2. **Learn Words** learns each of them as words of their own, `<v0>` and `<v1>`: a minute or two each on two
   CPU cores. **Apply Likeness** twice, one after the other, teaches CLIP both.
3. One prompt names both. Drawn plainly, one face goes to both: every word of a prompt colours those behind
   it.
4. **Regional Word** keeps `<v0>` in the left half and `<v1>` in the right. Its *region* can also be a mask,
   or be found while drawing (*find by face*).
5. **Face Detailer** twice, once for each of the *regions* (*which face* 0 and 1): the model knows square
   portraits, and on a wide canvas faces often stay unfinished. Each region is drawn again by itself, from a
   prompt that names one person.

Above: without. In the middle: with regions, same prompt and seed. Below: each region drawn again. Under the
samplers, where each word looked.

### Your own people

Use *Load Likeness* for two that you have learned under different placeholders, and a checkpoint loader in
the Miniature's place. A LoRA of a person changes the whole picture; people learned as words (Textual
Inversion, PersonaMagic) stay apart best."""
PICTURES = {"pictures": 4}
DRAWN = {**SAMPLING, "seed": 11}
DOWN = {"direction": "down", "spacing_width": 4}
AGAIN = {
    "found_by": "my mask", "denoise": 0.6, "steps": 25, "cfg": 5.0, "seed": 11,
    "control_after_generate": "fixed", "size": 128, "feather": 0.08, "gate": "off",
}  # fmt: skip

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (-460, 60), (420, 560), "Read me", {"": NOTE}),
    "base": ("LikenessMiniature", (0, 60), (300, 210), "The first person, and the model",
             {"person": 0, **PICTURES}),
    "other": ("LikenessMiniature", (0, 330), (300, 210), "The second person", {"person": 7, **PICTURES}),
    "concept": ("LikenessConcept", (360, 60), (320, 180), "", {"token": "<v0>", "role": "subject"}),
    "concept_2": ("LikenessConcept", (360, 640), (320, 180), "", {"token": "<v1>", "role": "subject"}),
    "learn": ("LikenessTrainTextualInversion", (720, 60), (340, 520), "", {"preview_every": 0, "seed": 0}),
    "learn_2": ("LikenessTrainTextualInversion", (720, 640), (340, 520), "", {"preview_every": 0, "seed": 0}),
    "apply": ("LikenessApply", (1110, 60), (300, 130), "", {}),
    "apply_2": ("LikenessApply", (1110, 260), (300, 130), "", {}),
    "prompt": ("CLIPTextEncode", (1110, 460), (340, 100), "Prompt", {"text": PROMPT}),
    "nothing": ("CLIPTextEncode", (1110, 620), (340, 90), "Negative", {"text": ""}),
    "latent": ("EmptyLatentImage", (1110, 770), (300, 120), "",
               {"width": 256, "height": 128, "batch_size": 1}),
    "left": ("LikenessRefocus", (1500, 60), (340, 520), "Left",
             {"text": PROMPT, "token": "<v0>", "width": 0.5}),
    "right": ("LikenessRefocus", (1500, 680), (340, 520), "Right",
              {"text": PROMPT, "token": "<v1>", "left": 0.5, "width": 0.5}),
    "before": ("KSampler", (1890, 60), (300, 270), "Without regions", DRAWN),
    "after": ("LikenessRefocusedSampler", (1890, 400), (300, 350), "With regions", DRAWN),
    "before_picture": ("VAEDecode", (2240, 60), (200, 60), "", {}),
    "after_picture": ("VAEDecode", (2240, 400), (200, 60), "", {}),
    "both": ("ImageStitch", (2240, 180), (260, 150), "", DOWN),
    "left_prompt": (
        "CLIPTextEncode", (2560, 60), (340, 100), "Prompt of the left", {"text": ALONE.format("<v0>")},
    ),
    "right_prompt": (
        "CLIPTextEncode", (2950, 60), (340, 100), "Prompt of the right", {"text": ALONE.format("<v1>")},
    ),
    "left_again": ("LikenessDetailFace", (2560, 220), (340, 720), "Left again", {**AGAIN, "number": 0}),
    "right_again": ("LikenessDetailFace", (2950, 220), (340, 720), "Right again", {**AGAIN, "number": 1}),
    "all": ("ImageStitch", (3340, 60), (260, 150), "", DOWN),
    "large": ("ImageScaleBy", (3340, 270), (260, 90), "", {"upscale_method": "lanczos", "scale_by": 3.0}),
    "keep": ("SaveImage", (3340, 420), (280, 330), "", {"filename_prefix": "likeness/two-people"}),
    "show": ("PreviewImage", (3650, 60), (560, 860), "Plainly, in regions, drawn again", {}),
    "looked": ("PreviewImage", (1890, 810), (560, 380), "Where each word looked", {}),
}
# fmt: on
LINKS = """
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
other.images>concept_2.images other.masks>concept_2.masks other.class_word>concept_2.class_word
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae concept.concept>learn.concept
base.MODEL>learn_2.model base.CLIP>learn_2.clip base.VAE>learn_2.vae concept_2.concept>learn_2.concept
base.MODEL>apply.model base.CLIP>apply.clip learn.likeness>apply.likeness
apply.MODEL>apply_2.model apply.CLIP>apply_2.clip learn_2.likeness>apply_2.likeness
apply_2.CLIP>prompt.clip apply_2.CLIP>nothing.clip
apply_2.MODEL>left.model apply_2.CLIP>left.clip
left.MODEL>right.model apply_2.CLIP>right.clip left.CONDITIONING>right.conditioning
apply_2.MODEL>before.model prompt.CONDITIONING>before.positive nothing.CONDITIONING>before.negative
latent.LATENT>before.latent_image right.MODEL>after.model right.CONDITIONING>after.positive
nothing.CONDITIONING>after.negative latent.LATENT>after.latent base.VAE>after.vae
before.LATENT>before_picture.samples base.VAE>before_picture.vae
after.LATENT>after_picture.samples base.VAE>after_picture.vae
before_picture.IMAGE>both.image1 after_picture.IMAGE>both.image2 after.attention>looked.images
apply_2.CLIP>left_prompt.clip apply_2.CLIP>right_prompt.clip
after_picture.IMAGE>left_again.images apply_2.MODEL>left_again.model base.VAE>left_again.vae
left_prompt.CONDITIONING>left_again.positive nothing.CONDITIONING>left_again.negative
after.regions>left_again.masks
left_again.images>right_again.images apply_2.MODEL>right_again.model base.VAE>right_again.vae
right_prompt.CONDITIONING>right_again.positive nothing.CONDITIONING>right_again.negative
after.regions>right_again.masks
both.IMAGE>all.image1 right_again.images>all.image2 all.IMAGE>large.image
large.IMAGE>show.images right_again.images>keep.images
"""
GROUPS = """
1  A model and two people: -20 -10 340 570
2  Learn each: 340 -10 740 1190
3  Use both: 1090 -10 380 920
4  A region for each word: 1480 -10 380 1230
5  Draw without and with regions: 1870 -10 650 1220
6  Draw each region again, by itself: 2540 -10 1690 1000
"""
SHOWN = "Plainly, in regions, drawn again"  # the node whose picture is the thumbnail
