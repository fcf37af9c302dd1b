"""The Miniature's own parser as a back end: for pictures of its world, without any download."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...errors import LikenessError, nearest
from ...miniature import world
from ...miniature.judges import load_judge, to_tensor
from ...miniature.model import RESOLUTION
from .base import Found, enlarged

_SETS = {
    "face": world.FACE_PARTS,
    "head": (*world.FACE_PARTS, "hair", "ear", "neck"),
    "person": tuple(part for part in world.PARTS if part != "background"),
}
# the parser's mean certainty below which a picture is of another world: sixteen renders had .973 and more,
# ten pictures drawn by the Miniature .960 and more, nine photographs .942 and less
FOREIGN = 0.945
DOUBT = (
    "is no picture of the Miniature's world, which is all that the back end 'miniature' knows; "
    "choose another, such as clipseg"
)
ALSO = {"man": "person", "woman": "person", "eyes": "eye", "brows": "brow", "ears": "ear", "lips": "mouth"}


def world_parts_of(word: str) -> tuple[str, ...]:
    name = word.strip().lower()
    name = ALSO.get(name, name)
    if name in _SETS:
        return _SETS[name]
    if name in world.PARTS:
        return (name,)
    valid = [*_SETS, *world.PARTS]
    hint = nearest(name, valid) or f"; valid are {', '.join(dict.fromkeys(valid))}"
    raise LikenessError(f"the Miniature's parser knows no '{word}'{hint}")


class MiniatureParser:
    def __init__(self) -> None:
        self.network = load_judge("parser")

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[str]) -> Found:
        ids_by_word = [[world.PART_ID[part] for part in world_parts_of(word)] for word in words]
        shares = self.network(to_tensor(_small(pixels)[None]))[0].softmax(0)  # (parts, S, S)
        maps = torch.stack([shares[parts].sum(0) for parts in ids_by_word])
        seen = shares.amax((1, 2)).tolist()
        instead = {part: share for part, share in zip(world.PARTS, seen) if share > 0.5}
        doubt = DOUBT if float(shares.amax(0).mean()) < FOREIGN else ""
        scores = tuple(maps.amax((1, 2)).tolist())
        return Found(enlarged(maps, pixels.shape[:2]), scores, instead, doubt)


@torch.no_grad()
def certainty(pictures: Sequence[NDArray[np.uint8]]) -> float:
    """The parser's mean certainty about pictures (H, W, 3): `FOREIGN` and more for those of its own world."""
    with torch.random.fork_rng(devices=[]):  # a run asks this between its seed and its first weights
        network = load_judge("parser")
    shares = [network(to_tensor(_small(pixels)[None]))[0].softmax(0).amax(0).mean() for pixels in pictures]
    return float(torch.stack(shares).mean())


def check_own_world(pictures: Sequence[NDArray[np.uint8]], what: str, instead: str) -> None:
    """Raises LikenessError where pictures are photographs: `what` they are, and what to do `instead`."""
    if pictures and certainty(pictures) < FOREIGN:
        raise LikenessError(
            f"{what}: no picture of the Miniature's world, which is all that it knows; {instead}"
        )


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most twice the parser's size, so that a large photograph never becomes floating point as a whole."""
    image = Image.fromarray(pixels)
    if max(image.size) > 2 * RESOLUTION:
        image = image.resize((2 * RESOLUTION, 2 * RESOLUTION), Image.Resampling.BOX)
    return np.array(image)


def load(*_: object) -> MiniatureParser:
    return MiniatureParser()
