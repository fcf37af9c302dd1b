"""Refocusing: every concept's words act only where the concept is to be; plain torch, for both halves.

MagiCapture (arXiv 2309.06895, section 4.3) refocuses attention in training alone and names the spill of a
subject into the scene as what is left when drawing. Here the same idea is carried over to drawing: a word's
region becomes an additive log-mask on the logits of every cross-attention, so that one fused call does it.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..bases.attention import AttentionSite
from ..config import TOKEN, finite, one_of
from ..config.choices import FOCUS_MODES, FOCUS_SCOPES
from ..data.masks import connected_components as label_pieces
from ..errors import LikenessError

log = logging.getLogger(__name__)

FLOOR = 1e-4  # of a word's weight: a row whose words are all masked still has a softmax
FEATHER = 1 / 16  # of the picture's shorter side: how far soft edges reach
CLEAR = 0.5  # what the brightest part of an attention map is multiplied with, to tell region from rest
HEADLIKE = 0.25  # of the smallest head that is a word's: what else a parser marked, if smaller, is no head
_RIM = 0.2  # of a head's size: how far the region of one by itself goes beyond it
_SURE = 1.05  # by how much another order of faces must be attended to, before it is preferred
_JOINT = r"(?:,\s*and|,|and|with|&|beside|next to)"  # what joins two people in a prompt
RATIO = 0.04  # by how much a mask's shape may differ from the picture's


Box = tuple[float, float, float, float]  # left, top, width, height as shares of the picture
Region = Tensor | Box  # or a mask (B or 1, H, W) in [0, 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Focus:
    """Which word belongs where, how strictly, and for how long."""

    token: str  # a placeholder such as <v0>, or any words of the prompt
    region: Region | None = None  # where, over the whole picture; None: found while drawing, by face
    mode: str = "hard"
    scope: str = "apart"  # word: the word alone; apart: see `log_mask`
    inside: str | None = None  # with apart: the word's name in its region; outside, nothing is known of it
    own_prompt: str | None = None  # with apart: all that the region reads; None: see `own_prompt_of`
    strength: float = 1.0  # of the log-mask
    start: float = 0.0  # as ComfyUI counts noise levels: 0 is pure noise, 1 the picture
    end: float = 1.0
    find_at: float = 0.3  # share of the steps after which a region is looked for
    redraw: float = 0.0  # share of the schedule for which the finished region is drawn again by itself
    only: str = ""  # "redraw": what is named inside is not there before, when the picture is drawn
    tries: int = 1  # how often at most, each time from other noise; the most like their pictures is kept
    like: str | None = None  # folder of those pictures

    def __post_init__(self) -> None:
        if isinstance(self.region, tuple):
            check_box(self.region)
        finite({f"the strength of {self.token}": self.strength})
        one_of("mode", self.mode, FOCUS_MODES)
        one_of("scope", self.scope, FOCUS_SCOPES)
        if not self.token.strip():
            raise LikenessError(
                "no word is named; write the placeholder, such as <v0>, or a word of the prompt"
            )
        if not 0 <= self.start <= self.end <= 1:
            raise LikenessError(
                f"refocusing cannot last from {self.start:g} to {self.end:g}; use 0 for the first noise "
                "level, 1 for the last, and start before the end"
            )
        if not 0 < self.find_at < 1:
            raise LikenessError(f"{self.find_at:g} is no share of the steps; use 0.2 to 0.4")
        self._check_redrawing()

    def _check_redrawing(self) -> None:
        if not 0 <= self.redraw <= 1:
            raise LikenessError(
                f"redraw={self.redraw:g} is no share of the schedule; use 0.4 to 0.7, or 0 for not"
            )
        one_of("part of the drawing", self.only, ("", "redraw"))
        if self.only and not (self.redraw and self.inside):
            raise LikenessError(
                f"only=redraw draws '{self.token}' as it stands, then the region as somebody else: say how "
                "much with redraw=0.7, and as whom with inside=<v0>"
            )
        if self.tries < 1 or (self.tries > 1 and not self.redraw):
            raise LikenessError(
                f"tries={self.tries} says how often a region is drawn again; use 1 or more, with redraw=0.6"
            )

    def strength_at(self, progress: float) -> float:
        """The log-mask's factor at a noise level, counted from 0 (pure noise) to 1."""
        if self.region is None or not self.start <= progress <= self.end:
            return 0.0
        return self.strength


@dataclass(frozen=True)
class Spot:
    """A focus, and where its word stands among the text states: flat positions in the prompt."""

    focus: Focus
    positions: tuple[int, ...]
    alone: tuple[int, ...] = ()  # and in a prompt without the other concepts, for words kept apart
    length: int = 0  # text states of that prompt, which follow those of the whole one; 0: there is none

    def found(self, region: Tensor) -> "Spot":
        """The same with a region, for a focus that had to look for it."""
        return replace(self, focus=replace(self.focus, region=region))


def find_sequence(pieces: Sequence[object], run: Sequence[object]) -> tuple[int, ...]:
    """All places in `pieces` that lie in a run equal to `wanted`; none where it does not occur."""
    size = len(run)
    return tuple(
        start + step
        for start in range(len(pieces) - size + 1)
        if size and all(_same(pieces[start + i], run[i]) for i in range(size))
        for step in range(size)
    )


def _same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        both = isinstance(first, Tensor) and isinstance(second, Tensor)
        return both and first.shape == second.shape and torch.equal(first.cpu(), second.cpu())  # type: ignore[union-attr]
    return first == second


def own_prompt_of(prompt: str, focus: Focus) -> str | None:
    """What a concept kept apart reads; None where that is the prompt itself, or it is not kept apart.

    The prompt without other placeholders: "a photo of <v0> and <v1>, on a beach" is, to <v0>, "a photo of
    <v0>, on a beach". With another name inside, "a woman on a beach" becomes "<v0> on a beach" there.
    """
    if focus.scope != "apart":
        return None
    text = prompt if focus.own_prompt is None else focus.own_prompt
    if focus.own_prompt is None:
        text = text.replace(focus.token, focus.inside) if focus.inside else text
        for name in set(TOKEN.findall(prompt)) - {focus.token, focus.inside}:
            other = rf"(?:\(\s*{name}\s*(?::[^()]*)?\)|{name})"  # with its weight, where it has one
            text = re.sub(rf"\s*{_JOINT}\s+{other}", "", text)
            text = re.sub(other, "", re.sub(rf"{other}\s*{_JOINT}\s+", "", text))
    text = " ".join(text.split())
    return None if text == " ".join(prompt.split()) else text


def absent(token: str, prompt: str) -> LikenessError:
    """What to say where the prompt lacks the word."""
    return LikenessError(
        f"'{token}' is not in the prompt '{prompt}'; write it there, or refocus a word that is"
    )


# ------------------------------------------------------------------------------------------------ regions


def check_box(box: Box) -> None:
    """Raises for a box that does not lie in the picture."""
    left, top, width, height = box
    if not (0 <= left < 1 and 0 <= top < 1 and 0 < width <= 1.001 - left and 0 < height <= 1.001 - top):
        raise LikenessError(
            f"the box {left:g}, {top:g}, {width:g}, {height:g} does not lie in the picture; give left, top, "
            "width and height as shares from 0 to 1"
        )


def box_region(box: Box, size: tuple[int, int]) -> Tensor:
    """(1, H, W): ones in a box, parts of 1 at its rim."""
    left, top, width, height = box
    return (_cover(top, height, size[0])[:, None] * _cover(left, width, size[1])[None])[None]


def _cover(start: float, length: float, cells: int) -> Tensor:
    """How much of each of so many cells a stretch covers."""
    edges = torch.arange(cells + 1) / cells
    return ((edges[1:].clamp(max=start + length) - edges[:-1].clamp(min=start)) * cells).clamp(0, 1)


def fitted(region: Region, latents: tuple[int, int], batch: int, token: str) -> Tensor:
    """The region over latents (h, w), (1 or B, h, w); raises where it cannot belong to them."""
    if isinstance(region, tuple):
        return box_region(region, latents)
    height, width = region.shape[-2:]
    if len(region) not in (1, batch):
        raise LikenessError(
            f"there are {len(region)} regions for {token} but {batch} pictures; give one region, or one "
            "for each"
        )
    if not region.any():
        raise LikenessError(f"the region for {token} is empty; paint where it should be, or leave it out")
    if abs(math.log(width * latents[0] / (height * latents[1]))) > RATIO:
        raise LikenessError(
            f"the region for {token} is {width} x {height}, which is not the shape of the picture "
            f"({latents[1]} x {latents[0]} latent pixels); make it as large as the picture"
        )
    return F.adaptive_avg_pool2d(region.float()[:, None], latents)[:, 0]


def everywhere(region: Region | None) -> bool:
    """Whether a region covers all of the picture, so that there is nothing to be done."""
    if isinstance(region, tuple):
        return region == (0, 0, 1, 1)
    return region is not None and bool((region >= 1).all())


def weights(region: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """What a word's attention is multiplied with at a layer's queries: (B, h, w), from latents' (B, H, W)."""
    if mode == "hard":
        share = F.adaptive_avg_pool2d(region[:, None], grid)[:, 0]
        level = share.amax((1, 2), keepdim=True).clamp(max=0.5)  # a small region keeps its best query
        return torch.where(share >= level, 1.0, FLOOR)
    return F.adaptive_avg_pool2d(_feathered(region)[:, None], grid)[:, 0].clamp(min=FLOOR)


def _feathered(region: Tensor) -> Tensor:
    """(B, H, W) with its edges blurred; what is all ones stays so."""
    reach = round(min(region.shape[-2:]) * FEATHER)
    if not reach:
        return region
    padded = F.pad(region[:, None], (reach,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * reach + 1, stride=1)[:, 0].clamp(0, 1)


# ----------------------------------------------------------------------------------------------- log-masks


def log_mask(
    spots: Sequence[Spot],
    regions: Sequence[Tensor],
    grid: tuple[int, int],
    tokens: int,
    progress: float,
    weigh: Callable[[int], Tensor] | None = None,
) -> Tensor | None:
    """What is added to a layer's logits (B, h * w, T); None where nothing is, so that all stays as it was.

    `regions` (B, H, W) are the spots' own over the latents of this pass. T is `tokens` and the lengths of
    the spots' own prompts, if they have any. A concept's own words heed its own region alone. A concept kept
    apart has a prompt of its own, in which no other is mentioned: its region reads that one, all the rest of
    the picture the whole one.
    `weigh` gives a spot's weights (B, h * w) by its number, for those who know them already.
    """

    def own_weights(number: int) -> Tensor:
        return weights(regions[number], grid, spots[number].focus.mode).flatten(1)

    acting = {
        number: (spot.focus.strength_at(progress), (weigh or own_weights)(number))
        for number, spot in enumerate(spots)
        if spot.focus.strength_at(progress) and not _idle(spot)
    }
    if not acting:
        return None
    batch = max(len(share) for _, share in acting.values())
    total = tokens + sum(spot.length for spot in spots)
    bias = acting[min(acting)][1].new_zeros(batch, grid[0] * grid[1], total)
    whole, end = bias[..., :tokens], tokens
    for number, spot in enumerate(spots):
        if spot.length:
            columns, end = bias[..., end : end + spot.length], end + spot.length
            strength, share = acting.get(number, (0.0, torch.zeros_like(bias[..., 0])))
            share = (share * strength).clamp(0, 1)[..., None]
            columns += share.log()  # nothing at all where it does not act
            whole[:] = torch.minimum(whole, (1 - share).clamp(min=FLOOR).log())
    for number, (strength, share) in acting.items():
        whole[:, :, list(spots[number].positions)] += (share.log() * strength)[..., None]
    return bias if bias.any() else None


def _idle(spot: Spot) -> bool:
    """Whether there is nothing to be done: a word that may be everywhere, unless it has its own prompt."""
    return not spot.length and everywhere(spot.focus.region)


def places_in_all(spots: Sequence[Spot], number: int, tokens: int, longer: bool) -> tuple[int, ...]:
    """Where a spot's word stands; in its own prompt too, where those follow the whole one of `tokens`."""
    spot = spots[number]
    if not (longer and spot.length):
        return spot.positions
    start = tokens + sum(before.length for before in spots[:number])
    return (*spot.positions, *(start + position for position in spot.alone))


class LogMasks:
    """The log-masks of one prompt's pass, built once for each size of layer and each strength."""

    def __init__(self, spots: Sequence[Spot], regions: Sequence[Tensor]) -> None:
        self.spots = tuple(spots)
        self._regions = tuple(regions)
        self._known: dict[tuple, Tensor | None] = {}
        self._weights: dict[tuple, Tensor] = {}  # by spot and size of layer: the same at every strength

    def acts(self, progress: float) -> bool:
        """Whether anything is masked at this noise level."""
        return any(spot.focus.strength_at(progress) and not _idle(spot) for spot in self.spots)

    def strengths(self, progress: float) -> tuple[float, ...]:
        """Each spot's at this noise level."""
        return tuple(spot.focus.strength_at(progress) for spot in self.spots)

    def at(self, grid: tuple[int, int], tokens: int, progress: float) -> Tensor | None:
        """(B, h * w, tokens) for a layer of this size, or None."""
        key = (grid, tokens, self.strengths(progress))
        if key not in self._known:
            if len(self._known) > 64:  # a strength that changes at every step
                self._known.clear()
            self._known[key] = log_mask(
                self.spots, self._regions, grid, tokens, progress, lambda number: self._weigh(number, grid)
            )
        return self._known[key]

    def words_at(self, whole: Tensor, site: AttentionSite, front: int, progress: float) -> None:
        """Writes into a joint bias (B, N, N) what words ask of the picture and of others' words: those of the
        whole prompt, the first `front`, and of the spots' own prompts behind it."""
        assert site.grid is not None
        end, acting = front, []
        for number, spot in enumerate(self.spots):
            strength = 0.0 if _idle(spot) else spot.focus.strength_at(progress)
            share = self._weigh(number, site.grid)  # (B, P)
            behind, end = slice(end, end + spot.length), end + spot.length
            whole[:, behind, site.image] = (share * strength).clamp(0, 1).log()[:, None]
            if strength:
                acting.append((list(spot.positions), strength))
                whole[:, list(spot.positions), site.image] = (share.log() * strength)[:, None]
        for places, strength in acting:
            for others, other in acting:
                if places is not others:
                    rows = torch.tensor(places)[:, None]
                    whole[:, rows, torch.tensor(others)] = min(strength, other) * math.log(FLOOR)

    def _weigh(self, number: int, grid: tuple[int, int]) -> Tensor:
        if (number, grid) not in self._weights:
            shares = weights(self._regions[number], grid, self.spots[number].focus.mode)
            self._weights[number, grid] = shares.flatten(1)
        return self._weights[number, grid]


# ------------------------------------------------------------------------------------------ attention maps

Area = tuple[int, int, int, int]  # height, width, top, left, in latent pixels


def word_attention(
    queries: Tensor, keys: Tensor, words: Sequence[Sequence[int]], bias: Tensor | None = None
) -> Tensor:
    """Probability that each query gives to each of K words (their positions together), mean over heads.

    queries (B, Q, heads, d), keys (B, T, heads or fewer, d), bias (B or 1, Q, T) or None; gives (B, K, Q) in
    fp32.
    """
    queries, keys = (x.float().transpose(1, 2) for x in (queries, keys))
    if keys.shape[1] != queries.shape[1]:
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
    logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if bias is not None:
        logits = logits + bias[:, None]
    shares = logits.softmax(-1).mean(1)
    return torch.stack([shares[..., list(positions)].sum(-1) for positions in words], 1)


@dataclass
class Maps:
    """Attention maps of words over the latents, summed over layers and steps: (B, K, h, w)."""

    latents: tuple[int, int]
    total: Tensor | None = None
    count: int = 0

    def add(self, shares: Tensor, grid: tuple[int, int], area: "Area | None" = None) -> None:
        """One layer's (B, K, Q), which looks at an area of the latents or at all of them."""
        height, width, top, left = area or (*self.latents, 0, 0)
        maps = F.interpolate(shares.unflatten(-1, grid), size=(height, width), mode="bilinear")
        rest = (left, self.latents[1] - left - width, top, self.latents[0] - top - height)
        maps = F.pad(maps, rest)
        self.total = maps if self.total is None else self.total + maps
        self.count += 1

    def mean(self) -> Tensor | None:
        """(B, K, h, w), averaged over layers and steps; None before the first."""
        return None if self.total is None else self.total / self.count


def mean_maps(maps: Sequence[Sequence[Maps]]) -> Tensor | None:
    """Those of each picture's words together, (B, K, h, w); None before the first."""
    means = [[mean for map_ in words if (mean := map_.mean()) is not None] for words in maps]
    joined = [torch.cat(words, 1) for words in means if words]
    return torch.cat(joined) if joined else None


def regions_from_attention(maps: Tensor) -> Tensor:
    """Regions (B, K, h, w) of zeros and ones, from the maps (B, K, h, w) of K words.

    A place belongs to the word that it attends to most, each map being measured by its own mean; and only if
    the attention there is nearer to that map's brightest place than to its darkest.
    """
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    bright = (maps - low) / (high - low).clamp(min=1e-12)
    most = (bright >= bright.amax(1, keepdim=True)).float()
    return ((bright >= CLEAR).float() * most).clamp(0, 1)


def regions_from_picture(masks: Tensor, maps: Tensor) -> Tensor:
    """Regions (B, K, h, w) around the pieces of what a parser marked (B, H, W), each given to one of K words.

    As many pieces as there are words, the largest ones, are handed out: from left to right in the words'
    order, unless their attention is clearly larger in another. With fewer, attention alone decides
    within what was marked. Beside other heads a word gets all that is nearer to its own, for it is a body and
    a place too that make two people two; a head by itself gets its rim, for hair that the class has not.
    """
    regions, (height, width) = [], maps.shape[-2:]
    for mask, word_maps in zip(F.adaptive_avg_pool2d(masks[:, None].float(), (height, width))[:, 0], maps):
        marked = mask >= CLEAR
        parts = sorted(mask_components(marked), key=lambda part: -int(part.sum()))
        heads = parts[: len(word_maps)]
        if len(heads) < len(word_maps):
            regions.append(regions_from_attention(word_maps[None])[0] * marked)
            continue
        shares = word_maps / word_maps.mean((1, 2), keepdim=True).clamp(min=1e-12)
        mine = _handed_out(sorted(heads, key=_across), shares)
        others = [part for part in parts[len(word_maps) :] if part.sum() >= HEADLIKE * heads[-1].sum()]
        regions.append(torch.stack(_around(mine, others)).float())
    return torch.stack(regions)


def _around(heads: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """What belongs to each head (h, w), none of which nor of the others is the rest's."""
    far = torch.stack([_distance(head) for head in (*heads, *others)])
    if len(far) > 1:
        nearest = far.argmin(0)
        return [nearest == number for number in range(len(heads))]
    return [far[0] <= _RIM * float(heads[0].sum()) ** 0.5]


def _distance(part: Tensor) -> Tensor:
    """How far (h, w) each place is from a part, in latent pixels."""
    return torch.from_numpy(ndimage.distance_transform_edt(~part.cpu().numpy())).float().to(part.device)


def _handed_out(parts: Sequence[Tensor], shares: Tensor) -> Sequence[Tensor]:
    """The parts in the order in which words (K, h, w) attend to them most; as they come if no other is better
    by SURE."""

    def attended(order: Sequence[Tensor]) -> float:
        return sum(float((share * part).sum() / part.sum()) for share, part in zip(shares, order))

    best = max(permutations(parts), key=attended)
    return best if attended(best) > _SURE * attended(parts) else parts


def _across(part: Tensor) -> float:
    """How far to the right a part lies, in latent pixels."""
    return float(part.nonzero()[:, 1].float().mean())


def mask_components(mask: Tensor) -> list[Tensor]:
    """The connected parts (h, w) of a mask (h, w) of booleans, by their sides and corners."""
    numbers, count = label_pieces(mask.cpu().numpy())
    labels = torch.from_numpy(numbers).to(mask.device)
    return [labels == number for number in range(1, count + 1)]


AttentionLook = Callable[
    [Tensor], Tensor
]  # clean latents (B, C, h, w) -> what a parser marks in them, (B, H, W)


def look_for(spots: Sequence[Spot], maps: Tensor, clean: Tensor, look: AttentionLook | None) -> list[Spot]:
    """The spots with the regions they lacked, from maps (B, K, h, w) in the spots' order and clean latents.

    A region in which nothing was found is left out: its word stays free everywhere.
    """
    missing = [number for number, spot in enumerate(spots) if spot.focus.region is None]
    if not missing:
        return list(spots)
    if look is None:
        raise LikenessError("finding faces needs a decoder; connect a VAE, or say where")
    both = regions_from_picture(look(clean), maps[:, missing])
    regions = {number: both[:, place] for place, number in enumerate(missing)}
    for number, region in regions.items():
        without = int((~region.flatten(1).any(1)).sum())
        if without:
            numbers = (spots[number].focus.token, without, len(region))
            log.warning(
                "no region was found for %s by face in %d of %d pictures: it may be anywhere there", *numbers
            )
    return [
        spot.found(_or_all(regions[number])) if number in regions else spot
        for number, spot in enumerate(spots)
    ]


def _or_all(region: Tensor) -> Tensor:
    """(B, h, w) with the pictures in which nothing was found open everywhere."""
    return torch.where(region.flatten(1).any(1)[:, None, None], region, torch.ones_like(region))


# ----------------------------------------------------------------------------------------------- heat maps


def heat_maps(pictures: Tensor, maps: Tensor) -> Tensor:
    """Maps (B, K, h, w) as colours over pictures (B, H, W, 3) in [0, 1]: (B * K, H, W, 3), words inmost."""
    size = pictures.shape[1:3]
    heat = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
    low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
    heat = ((heat - low) / (high - low).clamp(min=1e-12))[..., None]
    red, green, blue = (1.5 - (4 * heat - peak).abs() for peak in (3, 2, 1))
    colours = torch.cat([red, green, blue], -1).clamp(0, 1)
    grey = pictures.float().mean(-1, keepdim=True)[:, None]
    return (0.45 * grey + 0.55 * colours).flatten(0, 1)
