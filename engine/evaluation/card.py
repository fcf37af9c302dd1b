"""The Miniature's card: the scores of the shipped weights on people that no network has seen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..config import BaseSpec
from ..inference.generate import generate
from ..miniature import judges as judging
from ..miniature import model, world

if TYPE_CHECKING:
    from ..miniature.judges import Judges
    from ..training.base_model import BaseModel

FACE = [world.PART_ID[part] for part in world.FACE_PARTS]
PICTURES_EACH = 6


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
        for number in range(PICTURES_EACH):
            context = world.sample_context(seed * PICTURES_EACH + number)
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
        "face_psnr": decibels(error[np.isin(renders.labels, FACE)].mean()),
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
    found = np.concatenate([judges.parse(part) for part in np.array_split(renders.pixels, 10)])
    overlaps = [
        ((found == part) & (renders.labels == part)).sum()
        / ((found == part) | (renders.labels == part)).sum()
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


def retrieval_scores(people: range) -> dict[str, float]:
    """By attribute, how often the true caption beats all captions in which that attribute alone differs."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from ..miniature.making.clip import Pair, retrieval

    text_encoder = CLIPTextModel(CLIPTextConfig(**model.text_config()))
    text_encoder.load_state_dict(model.state_dict("text_encoder"))
    pair = Pair(text_encoder).eval()
    pair.load_state_dict(model.state_dict("image_encoder"))
    return retrieval(pair, people)


def measure(people: int = 50, drawn: int = 96) -> dict[str, Any]:
    """All scores: `people` held-out people for the judges, `drawn` captions for the diffusion model."""
    from ..miniature.judges import load_judges
    from ..training.base_model import load_base

    base, judges = load_base(BaseSpec()), load_judges()
    renders = render_people(world.REPORTING_SEEDS[:people])
    first, second = judges.embed(renders.pixels), judges.embed_reporting(renders.pixels)
    asked = np.linspace(0, len(renders.captions) - 1, drawn).astype(int)
    captions, truths = [renders.captions[k] for k in asked], [renders.truths[k] for k in asked]
    pictures = generate(base, captions, seed=list(range(drawn)))
    files = [model.weights_file(name) for name in model.NETWORKS]
    return {
        "autoencoder": autoencoder_scores(base, renders),
        "clip": {"retrieval": retrieval_scores(world.REPORTING_SEEDS[:people])},
        "unet": {
            "accuracy": reading_accuracy(judges, pictures, truths),
            "ceiling": reading_accuracy(judges, renders.pixels[asked], truths),
            "pictures": drawn,
        },
        "recogniser": recogniser_scores(first, renders.person),
        "reporting_recogniser": recogniser_scores(second, renders.person),
        "recognisers_agree": agreement(first, second),
        "reader": reading_accuracy(judges, renders.pixels, renders.truths),
        "parser": {"mean_iou": parser_score(judges, renders)},
        "size_mb": round(sum(file.stat().st_size for file in files if file.exists()) / 1e6, 2),
        "fingerprint": model.fingerprint(),
    }
