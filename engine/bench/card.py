"""The Miniature's card: the scores of the shipped weights on people that no network has seen."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..bases.families import SECOND_MINIATURE
from ..config import BaseSpec
from ..inference.generate import generate
from ..miniature import judges as judging
from ..miniature import model, second, world

if TYPE_CHECKING:
    from ..bases.base import BaseModel
    from ..miniature.judges import Judges

_FACE = [world.PART_ID[part] for part in world.FACE_PARTS]
_PICTURES_EACH = 6


@dataclass(frozen=True)
class Renders:
    """Real pictures: pixels (N, S, S, 3), labels (N, S, S), person (N,), captions and true attributes."""

    pixels: np.ndarray
    labels: np.ndarray
    person: np.ndarray
    captions: list[str]
    truths: list[dict[str, str]]


def render_people(people: range) -> Renders:
    """`PICTURES_EACH` pictures of each person in contexts of their own."""
    pixels, labels, person, captions, truths = [], [], [], [], []
    for seed in people:
        identity = world.sample_identity(seed)
        for number in range(_PICTURES_EACH):
            context = world.sample_context(seed * _PICTURES_EACH + number)
            portrait = world.render(identity, context)
            pixels.append(portrait.pixels)
            labels.append(portrait.labels)
            person.append(seed)
            captions.append(world.caption(identity, context))
            truths.append(world.attributes(identity, context))
    return Renders(np.stack(pixels), np.stack(labels), np.asarray(person), captions, truths)


def decibels(squared_error: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error on pixels in [0, 1]."""
    return round(-10 * float(np.log10(squared_error)), 2)


def autoencoder_scores(base: "BaseModel", renders: Renders) -> dict[str, float]:
    """PSNR of encoded and decoded renders, over the whole picture and inside the face."""
    pixels = judging.to_tensor(renders.pixels)
    with torch.no_grad():
        decoded = torch.cat([base.decode(base.encode_pixels(part)).clamp(-1, 1) for part in pixels.split(16)])
    error = ((decoded - pixels) / 2).square().mean(1).numpy()
    return {
        "psnr": decibels(error.mean()),
        "face_psnr": decibels(error[np.isin(renders.labels, _FACE)].mean()),
    }


def recogniser_scores(vectors: np.ndarray, person: np.ndarray) -> dict[str, float]:
    """AUC, true-accept rate at 1 % false-accept, mean cosines; vectors (N, D) of unit length, person (N,)."""
    first, second = np.triu_indices(len(person), 1)
    cosine, same = (vectors @ vectors.T)[first, second], person[first] == person[second]
    genuine, strangers = cosine[same], np.sort(cosine[~same])
    threshold = strangers[int(0.99 * len(strangers))]
    return {
        "auc": round(float(np.searchsorted(strangers, genuine).mean() / len(strangers)), 4),
        "tar_at_1_far": round(float((genuine > threshold).mean()), 4),
        "same_person": round(float(genuine.mean()), 4),
        "strangers": round(float(strangers.mean()), 4),
    }


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the two recognisers' cosines over all pairs of pictures."""
    upper = np.triu_indices(len(first), 1)
    return round(float(np.corrcoef((first @ first.T)[upper], (second @ second.T)[upper])[0, 1]), 4)


def parser_score(judges: "Judges", renders: Renders) -> float:
    """Mean intersection over union of all parts."""
    parsed = np.concatenate([judges.parse(part) for part in np.array_split(renders.pixels, 10)])
    overlaps = [
        ((parsed == part) & (renders.labels == part)).sum()
        / ((parsed == part) | (renders.labels == part)).sum()
        for part in range(len(world.PARTS))
    ]
    return round(float(np.mean(overlaps)), 4)


def reading_accuracy(
    judges: "Judges", pictures: np.ndarray, truths: list[dict[str, str]]
) -> dict[str, float]:
    """By attribute, the share of pictures in which the reader sees what was asked for."""
    read = judges.read(pictures)
    return {
        name: round(
            float(np.mean([seen == truth[name] for seen, truth in zip(values, truths, strict=True)])), 3
        )
        for name, values in read.items()
    }


def retrieval_scores(people: range, visible: bool = False) -> dict[str, float]:
    """By attribute, how often the true caption beats all captions in which that attribute alone differs.

    With `visible`, attributes that cannot be seen in a picture (eyes behind sunglasses) are not asked for.
    """
    from ..miniature.making.clip import load_pair, retrieval

    return retrieval(load_pair(), people, visible=visible)


def timing(spec: BaseSpec, repeats: int = 3) -> dict[str, float]:
    """Processor seconds to load a Miniature, and to draw a picture at 25 steps: the best of `repeats`.

    Imports are not counted. On one thread these are the seconds that pass where nothing else runs.
    """
    from ..bases.base import load_base

    def best(action: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            began = time.process_time()
            action()
            times.append(time.process_time() - began)
        return round(min(times), 2)

    base = load_base(spec)
    return {
        "loading": best(lambda: load_base(spec)),
        "picture": best(lambda: generate(base, ["a photo of a smiling woman, on a beach"], seed=1)),
        "threads": torch.get_num_threads(),
    }


def digests(networks: Sequence[str] = model.NETWORKS) -> dict[str, str]:
    """A short hash of every network's file: shows that the card was measured on these very weights."""
    files = {name: model.weights_file(name) for name in networks}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items()}


def measure_card(people: int = 50, drawn: int = 96) -> dict[str, Any]:
    """All scores: `people` held-out people for the judges, `drawn` captions for the diffusion model.

    Only `learnability` takes longer than a few minutes (`evaluation.learnability`); it stays as recorded.
    """
    from ..bases.base import load_base
    from ..miniature.judges import load_judges

    base, judges, held_out = load_base(BaseSpec()), load_judges(), world.REPORTING_SEEDS[:people]
    renders = render_people(held_out)
    first, other = judges.embed(renders.pixels), judges.embed_reporting(renders.pixels)
    return {
        "autoencoder": autoencoder_scores(base, renders),
        "clip": {
            "retrieval": retrieval_scores(held_out),
            "retrieval_visible": retrieval_scores(held_out, visible=True),
        },
        "unet": drawing_scores(base, judges, renders, drawn),
        "recogniser": recogniser_scores(first, renders.person),
        "reporting_recogniser": recogniser_scores(other, renders.person),
        "recognisers_agree": agreement(first, other),
        "reader": reading_accuracy(judges, renders.pixels, renders.truths),
        "parser": {"mean_iou": parser_score(judges, renders)},
        "learnability": model.card().get("learnability") if (model.WEIGHTS / "card.json").exists() else None,
        "seconds": timing(BaseSpec()),
        "size_mb": megabytes(model.NETWORKS),
        "fingerprint": model.fingerprint(),
        "digests": digests(),
    }


def measure_second_card(people: int = 50, drawn: int = 96) -> dict[str, Any]:
    """The second Miniature's, on the same people, captions and seeds; the judges are the first's.

    `transformer` is what `unet` is in the first's.
    """
    from ..bases.base import load_base
    from ..miniature.judges import load_judges

    spec = BaseSpec(kind=SECOND_MINIATURE)
    base, renders = load_base(spec), render_people(world.REPORTING_SEEDS[:people])
    return {
        "autoencoder": autoencoder_scores(base, renders),
        "transformer": drawing_scores(base, load_judges(), renders, drawn),
        "learnability": second.second_card().get("learnability") if second.card_file().exists() else None,
        "seconds": timing(spec),
        "size_mb": megabytes(second.SECOND_NETWORKS),
        "size_of_both_mb": megabytes((*model.NETWORKS, *second.SECOND_NETWORKS)),
        "fingerprint": second.second_fingerprint(),
        "digests": digests(second.SECOND_NETWORKS),
    }


def drawing_scores(base: "BaseModel", judges: "Judges", renders: Renders, drawn: int) -> dict[str, Any]:
    """By attribute, how often so many captions are drawn as they ask, and how often real renders show it."""
    asked = np.linspace(0, len(renders.captions) - 1, drawn).astype(int)
    captions, truths = [renders.captions[k] for k in asked], [renders.truths[k] for k in asked]
    pictures = generate(base, captions, seed=list(range(drawn)))
    return {
        "accuracy": reading_accuracy(judges, pictures, truths),
        "ceiling": reading_accuracy(judges, renders.pixels[asked], truths),
        "pictures": drawn,
    }


def megabytes(networks: Sequence[str]) -> float:
    """The size of the networks' files that are there."""
    files = [model.weights_file(name) for name in networks]
    return round(sum(file.stat().st_size for file in files if file.exists()) / 1e6, 2)


@dataclass(frozen=True)
class Gate:
    """A figure of the card and what it should be: at least `wanted`, or at most it."""

    figure: str
    value: float | None
    wanted: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        return f"{'met   ' if self.met else 'MISSED'}  {self.figure}: {self.value} ({sign} {self.wanted})"


DRAWN_GATES = {
    **dict.fromkeys(("style", "scene", "gender"), 0.95),
    **dict.fromkeys(("hat", "glasses", "clothes"), 0.85),
    **dict.fromkeys(("hair_colour", "clothes_colour", "expression"), 0.70),
}


def gates(card: Mapping[str, Any]) -> list[Gate]:
    """What the Miniature should reach, figure by figure."""
    checks = [Gate("face PSNR, dB", card["autoencoder"]["face_psnr"], 24)]
    checks += [Gate(f"retrieval, {name}", share, 0.95) for name, share in card["clip"]["retrieval"].items()]
    checks += [Gate(f"drawn, {k}", card["unet"]["accuracy"][k], least) for k, least in DRAWN_GATES.items()]
    for name in ("recogniser", "reporting_recogniser"):
        minima = {"auc": 0.98, "tar_at_1_far": 0.90, "same_person": 0.7}
        checks += [Gate(f"{name}, {key}", card[name][key], least) for key, least in minima.items()]
        checks.append(Gate(f"{name}, strangers", card[name]["strangers"], 0.15, at_most=True))
    checks.append(Gate("parser, mean IoU", card["parser"]["mean_iou"], 0.85))
    learned = card.get("learnability") or {}
    lora = learned.get("methods", {}).get("dreambooth-lora", {})
    inversion = learned.get("methods", {}).get("textual-inversion", {})
    checks += [
        Gate("learned, identity", learned.get("identity"), 0.55),
        Gate("learned, scene loss", learned.get("scene_loss"), 0.10, at_most=True),
        Gate("learned, CPU seconds", lora.get("cpu_seconds"), 180, at_most=True),  # 90 on each of two cores
        Gate("Textual Inversion, low end of the gain", inversion.get("gain", {}).get("low"), 0.05),
    ]
    checks.append(Gate("size, MB", card["size_mb"], 30, at_most=True))
    return [*checks, *_quick(card)]


_NEAR = 0.05  # of the first's share of captions drawn as they ask, the second's should be


def second_gates(card: Mapping[str, Any], first: Mapping[str, Any]) -> list[Gate]:
    """What the second Miniature should reach, some of it beside the first's card."""
    shares = {name: round(share - _NEAR, 3) for name, share in first["unet"]["accuracy"].items()}
    drawn = card["transformer"]["accuracy"]
    learned = card.get("learnability") or {}
    lora = learned.get("methods", {}).get("dreambooth-lora", {})
    return [
        Gate("face PSNR, dB", card["autoencoder"]["face_psnr"], 24),
        *(Gate(f"drawn, {name}", drawn[name], least) for name, least in shares.items()),
        Gate("learned, identity", learned.get("identity"), 0.60),
        Gate("learned, scene loss", learned.get("scene_loss"), 0.10, at_most=True),
        Gate("learned, CPU seconds", lora.get("cpu_seconds"), 120, at_most=True),
        Gate("Textual Inversion, gain", learned.get("textual_inversion_gain"), 0.5),
        Gate("size of both, MB", card["size_of_both_mb"], 50, at_most=True),
        *_quick(card),
    ]


def _quick(card: Mapping[str, Any]) -> list[Gate]:
    seconds = card.get("seconds", {})
    limits = {"loading": ("loading, s", 1), "picture": ("a picture, s", 2)}
    return [Gate(figure, seconds.get(name), most, at_most=True) for name, (figure, most) in limits.items()]
