"""The noise levels that show a subject: where the class word's attention covers its mask (PersonaMagic)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bases.base import BaseModel
from ..bases.features import CROSS_ATTENTION_MAPS, check_offered
from ..bases.process.ddpm import PUBLISHED_STEPS
from ..data.concepts import Concept
from ..data.examples import examples_of, generator_for
from ..errors import LikenessError
from .attention_maps import recorded
from .methods.personamagic import class_rows

PROMPT = "a photo of a {}"


@dataclass(frozen=True)
class Overlap:
    """How well the class word's attention covers the subject at each timestep, and where it is best."""

    timesteps: list[int]
    overlap: list[float]  # intersection over union with the masks, mean over pictures
    interval: tuple[int, int]  # as PersonaMagic's settings take it: the upper end is left out
    layers: dict[str, float]  # by layer, its own attention's mean over all timesteps; the best first


def measure_overlap(
    base: BaseModel,
    concept: Concept,
    *,
    points: int = 20,
    share: float = 0.8,
    seed: int = 0,
    check: Callable[[int, int], None] = lambda done, total: None,
) -> Overlap:
    """Sweeps the diffusion's timesteps; keeps the band around the peak that is above `share` of it."""
    check_offered("the search for an interval", [CROSS_ATTENTION_MAPS], base)
    class_rows(base, concept.class_word)  # raises unless it is one token
    examples = examples_of([concept], base.resolution)
    if bool((examples.masks == 1).all()):
        raise LikenessError("none of the pictures has a mask; make masks first, with `likeness masks`")
    latents = base.encode_pixels(examples.pixels)
    noise = torch.randn(latents.shape, generator=generator_for(seed, "interval")).to(latents.device)
    step = PUBLISHED_STEPS // points
    timesteps = list(range(step // 2, PUBLISHED_STEPS, step))
    overlaps: list[float] = []
    alone: dict[str, float] = {}  # by layer, the sum over timesteps
    for number, timestep in enumerate(timesteps):
        when = torch.full((len(latents),), base.process.published_time(timestep), device=latents.device)
        noisy = base.process.add_noise(latents, noise, when)
        maps = class_word_maps(base, noisy, when, concept.class_word)
        masks = examples.masks.to(noisy.device)
        overlaps.append(float(attention_overlap(mean_of(base, maps), masks).mean()))
        for name, map_ in maps.items():
            alone[name] = alone.get(name, 0.0) + float(attention_overlap(map_, masks).mean())
        check(number + 1, len(timesteps))
    first, last = band(overlaps, share)
    ranked = sorted(alone, key=lambda name: -alone[name])
    return Overlap(
        timesteps, overlaps, (first * step, min((last + 1) * step, PUBLISHED_STEPS)),
        {name: alone[name] / len(timesteps) for name in ranked},
    )  # fmt: skip


def mean_of(base: BaseModel, maps: Mapping[str, Tensor]) -> Tensor:
    """The mean of layers' maps, of those that the base's row names where it names any."""
    best = [map_ for name, map_ in maps.items() if name in base.traits.attention_layers]
    return torch.stack(best or list(maps.values())).mean(0)


def class_word_maps(base: BaseModel, noisy: Tensor, times: Tensor, class_word: str) -> dict[str, Tensor]:
    """Attention (B, side, side) to the class word, mean over heads, by layer of `attention_side`."""
    height, width = noisy.shape[-2:]
    layers = {
        name: layer
        for name, layer in base.denoiser.attention_layers().items()
        if layer.size((height, width))[0] == base.attention_side
    }
    prompt, encoder = PROMPT.format(class_word), next(iter(base.text_encoders))  # SDXL's two spell alike
    places = _places_of(base, prompt, class_word, encoder)
    with recorded(base.network, layers) as maps, torch.enable_grad():
        base.predict(noisy, times, base.encode_text([prompt] * len(noisy)))
        columns = {name: maps.probabilities(name)[..., places].sum(-1).mean(1) for name in maps.seen}
    return {
        name: column.detach().unflatten(-1, (base.attention_side, -1)) for name, column in columns.items()
    }


def _places_of(base: BaseModel, prompt: str, word: str, encoder: str) -> list[int]:
    """Where a word's tokens stand in a prompt that it ends."""
    ids = base.tokenize([prompt], encoder=encoder).ids[0].tolist()
    for spelled in (word, f" {word}"):  # to language models, a word within a text begins with its space
        pieces = base.tokenizers[encoder](spelled, add_special_tokens=False)["input_ids"]
        starts = [start for start in range(len(ids)) if ids[start : start + len(pieces)] == pieces]
        if starts:
            return list(range(starts[-1], starts[-1] + len(pieces)))
    raise LikenessError(f"'{word}' is not found in '{prompt}'; choose a common word for it")


def attention_overlap(maps: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union (B,) of the map's strongest cells, as many as the mask has, with the mask.

    maps (B, side, side); masks (B, 1, H, W) in [0, 1].
    """
    inside = F.interpolate(masks.float(), size=maps.shape[-2:], mode="area").flatten(1) > 0.5
    flat = maps.flatten(1)
    ranks = flat.argsort(1, descending=True).argsort(1)
    strongest = ranks < inside.sum(1, keepdim=True)
    union = (strongest | inside).sum(1).clamp(min=1)
    return (strongest & inside).sum(1) / union


def band(values: Sequence[float], share: float) -> tuple[int, int]:
    """First and last position of the unbroken stretch around the peak that is above `share` of it."""
    peak = max(range(len(values)), key=lambda number: values[number])
    low = high = peak
    while low > 0 and values[low - 1] >= share * values[peak]:
        low -= 1
    while high + 1 < len(values) and values[high + 1] >= share * values[peak]:
        high += 1
    return low, high
