"""The noise levels that show a subject: where the class word's attention covers its mask (PersonaMagic)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bases.base import BaseModel
from ..bases.denoisers.protocol import CrossAttention
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
    overlaps = []
    for number, timestep in enumerate(timesteps):
        when = torch.full((len(latents),), base.process.published_time(timestep), device=latents.device)
        noisy = base.process.add_noise(latents, noise, when)
        maps = class_word_maps(base, noisy, when, concept.class_word)
        overlaps.append(float(attention_overlap(maps, examples.masks.to(maps.device)).mean()))
        check(number + 1, len(timesteps))
    first, last = band(overlaps, share)
    return Overlap(timesteps, overlaps, (first * step, min((last + 1) * step, PUBLISHED_STEPS)))


def class_word_maps(base: BaseModel, noisy: Tensor, times: Tensor, class_word: str) -> Tensor:
    """Attention (B, side, side) to the class word, mean over heads and the layers of `attention_side`."""
    height, width = noisy.shape[-2:]
    layers: dict[str, CrossAttention] = {
        name: layer
        for name, layer in base.denoiser.cross_attention().items()
        if layer.size((height, width))[0] == base.attention_side
    }
    prompt, encoder = PROMPT.format(class_word), next(iter(base.text_encoders))  # SDXL's two spell alike
    ids = base.tokenize([prompt], encoder=encoder).ids[0].tolist()
    (word,) = base.tokenizers[encoder](class_word, add_special_tokens=False)["input_ids"]
    with recorded(base.network, layers) as maps, torch.enable_grad():
        base.predict(noisy, times, base.encode_text([prompt] * len(noisy)))
        columns = [rows[..., ids.index(word)].mean(1) for rows in maps.all()]
    return torch.stack(columns).mean(0).detach().unflatten(-1, (base.attention_side, -1))


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
