"""Two people learned apart, in one picture: each in a region, each drawn again."""

from . import SAMPLING, Nodes, Shown, Subgraph

TITLE = "06 Two people in one picture"
PROMPT = "a photo of <v0> and <v1>, on a beach"
NOTE = """### Press Run. Then change the *prompt* in *People in Regions*: \\<v0\\> and \\<v1\\> are the two people.

1. *First person* and *Second person* each learn somebody as a word of their own (Textual Inversion), in a minute or two
   each on two CPU cores; nothing is downloaded. Open one (the sign at its upper right) to choose another person.
2. *People in Regions* keeps each in their half; *layout* may also be thirds, your masks, or faces found while drawing.
3. *KSampler (Regional)* draws both, then each of them again by themselves (*redraw each person*).

**Your own people:** the template *06 Two people in one picture, saved*. People learned as words (Textual Inversion,
PersonaMagic's class word) stay apart best; a LoRA of a person changes the whole picture a little."""  # noqa: E501


def learning(person: int, token: str, mark: str = "") -> Nodes:
    """Nodes that learn a made-up person as a word."""
    # fmt: off
    return {
        f"base{mark}": ("LikenessMiniature", (0, 0), (300, 182), "", {"person": person, "pictures": 4}),
        f"concept{mark}": ("LikenessConcept", (360, 0), (320, 170), "", {"token": token, "role": "subject"}),
        f"learn{mark}": ("LikenessTrainTextualInversion", (740, 0), (340, 520), "",
                         {"preview_every": 0, "seed": 0}),
    }
    # fmt: on


FIRST, SECOND = learning(5, "<v0>"), learning(7, "<v1>", "_2")
DRAWN = {**SAMPLING, "seed": 11, "redraw": 0.6}

# fmt: off
NODES: Nodes = {
    "note": ("MarkdownNote", (0, -400), (1080, 230), "Read me", {"": NOTE}),
    **FIRST,
    **SECOND,
    "people": ("LikenessPeople", (360, 130), (360, 400), "", {"prompt": PROMPT}),
    "nothing": ("CLIPTextEncode", (760, -100), (300, 90), "Negative", {"text": ""}),
    "latent": ("EmptyLatentImage", (760, 240), (300, 106), "",
               {"width": 256, "height": 128, "batch_size": 1}),
    "sample": ("LikenessRefocusedSampler", (1100, 0), (320, 346), "", DRAWN),
    "keep": ("SaveImage", (1460, -340), (620, 400), "", {"filename_prefix": "likeness/two-people"}),
    "looked": ("PreviewImage", (1460, 140), (620, 300), "Where each word looked", {}),
}
# fmt: on
LINKS = """
base.images>concept.images base.masks>concept.masks base.class_word>concept.class_word
base_2.images>concept_2.images base_2.masks>concept_2.masks base_2.class_word>concept_2.class_word
base.MODEL>learn.model base.CLIP>learn.clip base.VAE>learn.vae concept.concept>learn.concept
base_2.MODEL>learn_2.model base_2.CLIP>learn_2.clip base_2.VAE>learn_2.vae concept_2.concept>learn_2.concept
base.MODEL>people.model base.CLIP>people.clip base.VAE>sample.vae
learn.likeness>people.likeness_1 learn_2.likeness>people.likeness_2
people.MODEL>sample.model people.CONDITIONING>sample.positive people.people>sample.people
people.CLIP>nothing.clip nothing.CONDITIONING>sample.negative latent.LATENT>sample.latent
sample.images>keep.images sample.attention>looked.images
"""
SUBGRAPHS = {
    "first": Subgraph("First person, and the model", list(FIRST), (0, 20), (320, 120)),
    "second": Subgraph("Second person", list(SECOND), (0, 280), (320, 60)),
}
SHOWN = [Shown("two people, each in their region", "keep"), Shown("where the words looked", "looked")]
