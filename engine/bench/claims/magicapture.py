"""MagiCapture's claims: the person and the style are both there, and each word keeps to its own region."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...artifact import Artifact
from ...data.concepts import Concept, Picture
from ...data.examples import generator_for
from ...evaluation.metrics import attributes_kept, similarity_to_references
from ...evaluation.people import HEAD, Shot
from ...inference.generate import applied
from ...miniature import world
from ...miniature.judges import to_tensor
from ...miniature.styles import STYLES, style_pictures
from ...training.attention_maps import mask_layers, recorded
from ...training.capture_losses import attention_to_words
from .bench import Arm, Bench, Claim, Metrics, arm_of
from .written import claims_of

if TYPE_CHECKING:
    from ...bases.base import BaseModel

_SUBJECT, _STYLE = "<v0>", "<v1>"
STYLE_PICTURES = 5
STYLE_WORD = "painting"  # for every style alike: it names none of them
STYLE_TEMPLATES = ("a {} of a man", "a {} of a woman", "a {} of a person")
_LOOKED_AT = 500  # the noise level at which attention is weighed
STATED = ("gender", "hair_colour", "hair_style")  # what a stranger's prompt says, and the subject may replace
_ASKED = ("scene", "clothes", "clothes_colour")  # of the test contexts: what composed prompts ask for beside
# equal budgets (bench.BUDGET): 1200 pictures through the U-Net, halves for person and style where they are
# learned apart; MagiCapture's are 80 steps of 6 and 120 of 6
_HALF: dict[str, dict[str, Any]] = {
    "textual-inversion": {"steps": 150},
    "dreambooth-lora": {"steps": 100},
    "custom-diffusion": {"steps": 100},
}


_arm = partial(arm_of, "magicapture")


class MagiCaptureClaims:
    """A person from four pictures, a style from five of strangers, and prompts that name both."""

    name = "magicapture"
    paper = "arXiv 2309.06895"
    arms = (
        *(Arm(name=method, method=method, settings=settings) for method, settings in _HALF.items()),
        _arm("magicapture", headline=True),
        _arm("without refocusing", attention_weight=0.0),
        _arm("without composed prompts", composed=False),
        _arm("without both", attention_weight=0.0, composed=False),
        _arm("without identity loss", identity="none"),
    )
    claims = (
        *(
            Claim(
                claim=f"The person is recognised, more than with {against}",
                method="magicapture", against=against, metric="identity",
            )
            for against in _HALF
        ),
        *(
            Claim(
                claim=f"The style is there as with {against}, within 5 points",
                method="magicapture", against=against, metric="style", better="not lower", margin=0.05,
            )
            for against in _HALF
        ),
    ) + claims_of(
        """
        Composed prompts bring the person into the style
            magicapture > without composed prompts in identity
        The identity loss brings the person into the style
            magicapture > without identity loss in identity
        Refocusing keeps the person's word on the face
            magicapture < without refocusing in attention_outside
        Refocusing keeps the person's features off strangers in the style
            magicapture < without refocusing in leakage
        Refocusing costs no likeness, within 0.03
            magicapture >= without refocusing - 0.03 in identity
        Refocusing costs no style, within 5 points
            magicapture >= without refocusing - 0.05 in style
        Composed prompts and refocusing together recognise the person better than neither
            magicapture > without both in identity
        """
    )  # fmt: skip

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> Metrics:
        used = [(artifact, 1.0) for artifact in learned(arm, person, seed, bench)]
        shots, strangers = composed_shots(bench.quick), stranger_shots(person, bench.quick)
        drawn = bench.draw_shots([*shots, *strangers], used)  # together: fuller passes
        composed, others = drawn[: len(shots)], drawn[len(shots) :]
        return {
            **composed_scores(bench, composed, shots, person),
            "attention_outside": rounded(attention_outside(bench, composed, shots, used)),
            "leakage": rounded(leakage(bench, others, strangers, person)),
        }


def learned(arm: Arm, person: int, seed: int, bench: Bench) -> list[Artifact]:
    """One file for both, or one for each where a method's prompts know a single concept."""
    subject, style = subject_of(person), style_of(style_for(person))
    assert arm.method is not None
    if arm.method == "magicapture":
        return [bench.learn(arm.method, arm.settings, [subject, style], seed)]
    in_style = {**arm.settings, "templates": list(STYLE_TEMPLATES)}
    return [
        bench.learn(arm.method, arm.settings, [subject], seed),
        bench.learn(arm.method, in_style, [style], seed),
    ]


def style_for(person: int) -> str:
    """The styles in turn."""
    return STYLES[person % len(STYLES)]


def subject_of(person: int) -> Concept:
    """Four pictures of a person with masks of the head, under <v0>."""
    portraits = world.example_pictures(person, 4)
    pictures = tuple(
        Picture(f"person {n}", portrait.pixels, portrait.mask(HEAD)) for n, portrait in enumerate(portraits)
    )
    word = world.class_word(world.sample_identity(person))
    return Concept(token=_SUBJECT, class_word=word, role="subject", pictures=pictures)


def style_of(style: str) -> Concept:
    """Strangers in a style, their heads left out, under <v1>."""
    portraits = style_pictures(style, STYLE_PICTURES)
    pictures = tuple(
        Picture(f"style {n}", portrait.pixels, 1 - portrait.mask(HEAD))
        for n, portrait in enumerate(portraits)
    )
    return Concept(token=_STYLE, class_word=STYLE_WORD, role="style", pictures=pictures)


# --------------------------------------------------------------------------------------------- what is drawn


def composed_shots(quick: bool) -> list[Shot]:
    """The person in the style, in the test contexts' scenes and clothes, bareheaded."""
    shots = []
    for index, asked in enumerate(world.TEST_CONTEXTS[: 4 if quick else 8]):
        attributes = {name: asked[name] for name in _ASKED if name in asked}
        context = world.Context(**attributes)  # pyright: ignore[reportArgumentType]
        shots.append(
            Shot(
                prompt=f"a {_STYLE} of {_SUBJECT}{world.context_phrase(context)}",
                asked=attributes,
                seed=300 + index,
            )
        )
    return shots


def stranger_shots(person: int, quick: bool) -> list[Shot]:
    """Other people in the style: what their prompts say differs from the subject in every point."""
    mine, shots = world.sample_identity(person), []
    others = world.TUNING_SEEDS if person in world.REPORTING_SEEDS else world.REPORTING_SEEDS
    for seed in others:
        who = world.sample_identity(seed)
        same = any(getattr(who, name) == getattr(mine, name) for name in STATED)
        if same or who.hair_style == "bald" or who.beard != "none":
            continue
        text = f"a {_STYLE} of a {who.gender} with {who.hair_colour} {who.hair_style} hair"
        shots.append(
            Shot(prompt=text, asked={name: getattr(who, name) for name in STATED}, seed=400 + len(shots))
        )
        if len(shots) == (3 if quick else 6):
            return shots
    raise AssertionError("a hundred people are different enough")


# ---------------------------------------------------------------------------------------------- how it scores


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def composed_scores(
    bench: Bench, pictures: np.ndarray, shots: Sequence[Shot], person: int
) -> dict[str, list[float]]:
    """Per picture (N, H, W, 3).

    identity: cosine by the reporting recogniser to the person really rendered in the style;
    identity_training: the same by the recogniser that training used; identity_photos: by the reporting one
    to the pictures that were learned from; style: 1 where the reader sees the style; prompt: share of scene
    and clothes asked for.
    """
    judges, who, style = bench.judges, world.sample_identity(person), style_for(person)
    bare = {"style": style, "hat": "none", "glasses": "none"}
    contexts = [replace(world.test_context(index), **bare) for index in range(len(world.TEST_CONTEXTS))]
    truth = np.stack([world.render(who, context).pixels for context in contexts])
    photos = np.stack([portrait.pixels for portrait in world.example_pictures(person, 4)])
    read, seen = judges.read(pictures), judges.embed_reporting(pictures)
    scores = {
        "identity": similarity_to_references(seen, judges.embed_reporting(truth)),
        "identity_training": similarity_to_references(judges.embed(pictures), judges.embed(truth)),
        "identity_photos": similarity_to_references(seen, judges.embed_reporting(photos)),
        "style": np.array([float(value == style) for value in read["style"]]),
        "prompt": attributes_kept(read, [shot.asked for shot in shots]),
    }
    return {name: rounded(values) for name, values in scores.items()}


def leakage(bench: Bench, pictures: np.ndarray, shots: Sequence[Shot], person: int) -> np.ndarray:
    """Share (N,) of what each stranger's prompt says in which the subject's own value is read instead."""
    mine = world.sample_identity(person)
    of_subject = {
        name: getattr(mine, name)
        for name in STATED
        if not (name == "hair_colour" and mine.hair_style == "bald")
    }
    return attributes_kept(bench.judges.read(pictures), [of_subject] * len(shots))


def attention_outside(
    bench: Bench, pictures: np.ndarray, shots: Sequence[Shot], used: Sequence[tuple[Artifact, float]]
) -> np.ndarray:
    """Share (N,) of the subject's word's attention that lies outside the head, in the pictures themselves.

    They are noised to `LOOKED_AT` and shown to the U-Net once more, with the prompts that drew them.
    """
    base = bench.base
    parts = [world.PART_ID[part] for part in HEAD]
    heads = np.isin(bench.judges.parse(pictures), parts).astype(np.float32)
    shares = []
    with applied(base, list(used)) as rows:
        for picture, head, shot in zip(pictures, heads, shots):
            looks = attention_map(base, picture, shot, rows)
            inside = torch.nn.functional.interpolate(
                torch.from_numpy(head)[None, None], size=looks.shape, mode="area"
            )[0, 0]
            shares.append(float((looks * (1 - inside)).sum() / looks.sum()))
    return np.array(shares)


def attention_map(base: "BaseModel", picture: np.ndarray, shot: Shot, rows: Any) -> torch.Tensor:
    """Attention (y, x) to the subject's word, summed over the layers at the base's attention side."""
    layers = mask_layers(base)
    latents, _ = base.encode_posterior(to_tensor(picture[None]))
    noise = torch.randn(latents.shape, generator=generator_for("attention", shot.seed))
    times = torch.tensor([base.process.published_time(_LOOKED_AT)])
    encoder = next(iter(base.text_encoders))
    tokens = base.tokenize([shot.prompt], rows, encoder)
    positions = torch.zeros(1, 1, tokens.ids.shape[1])
    positions[0, 0, [place for _, place, token, _ in tokens.places if token == _SUBJECT]] = 1
    with (
        torch.enable_grad(),
        recorded(base.unet, layers) as maps,
    ):  # passes without gradients are not recorded
        base.predict(
            base.process.add_noise(latents, noise, times), times, base.encode_text([shot.prompt], rows)
        )
    side = next(iter(layers.values())).size((latents.shape[-2], latents.shape[-1]))
    with torch.no_grad():
        return attention_to_words(maps.all(), positions).sum((0, 1, 2)).unflatten(0, side)
