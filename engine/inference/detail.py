"""Faces and regions drawn again by the diffusion model itself, headless: a crop, partly noised, is denoised
anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact
from ..data.faces import AROUND, Face
from ..errors import LikenessError
from .generate import generate
from .refocus import Focus, fitted, own_prompt_of
from .restore import Pixels, Restoration, restore_picture, to_pixels, to_shades

if TYPE_CHECKING:
    from ..training.base_model import BaseModel

DENOISE = 0.4  # share of the schedule: enough for skin and eyes, too little for another pose


@dataclass(kw_only=True)
class Detailer:
    """Draws faces again as the prompt says, with the concepts applied; called with a crop (S, S, 3).

    All faces of all pictures begin from the same noise, as a node of ComfyUI with one seed would have it.
    """

    base: "BaseModel"
    prompt: str
    negative: str = ""
    artifacts: Sequence[tuple[Artifact, float]] = field(default=())
    denoise: float = DENOISE
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0
    sampler: str = "euler"
    schedule: str = "simple"

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise LikenessError("faces are drawn again from a prompt; write one, such as 'a photo of <v0>'")

    @property
    def side(self) -> int:
        """The crop's side (pixels) that the base draws best."""
        return self.base.resolution

    def __call__(self, face: Pixels) -> Pixels:
        drawn = generate(
            self.base,
            [self.prompt],
            negative=self.negative,
            artifacts=self.artifacts,
            steps=self.steps,
            guidance=self.guidance,
            seed=self.seed,
            sampler=self.sampler,
            schedule=self.schedule,
            start=face[None],
            denoise=self.denoise,
        )
        return drawn[0].astype("float32") / 255


def regions_redrawn(
    pictures: NDArray[np.uint8],
    prompts: Sequence[str],
    seeds: Sequence[int],
    focuses: Sequence[Focus],
    detailer: Detailer,
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, 3) whose regions are drawn again one by one, where a focus asks for `redraw`.

    A region is cut out as a square of the size that the base draws best, and read nothing but its own prompt
    then: on a canvas larger than that, two people keep each other's faces from being finished. Outside the
    regions nothing changes, and towards their rims less and less.
    """
    made = pictures.copy()
    for focus in focuses:
        if not focus.redraw:
            continue
        assert focus.region is not None  # a focus refuses to be made otherwise
        regions = fitted(focus.region, pictures.shape[1:3], len(pictures), focus.token).cpu().numpy()
        for number, (prompt, seed) in enumerate(zip(prompts, seeds)):
            own = own_prompt_of(prompt, replace(focus, scope="apart")) or prompt
            draw = replace(detailer, prompt=own, seed=seed, denoise=focus.redraw)
            made[number] = _redrawn(made[number], regions[number % len(regions)], draw)
    return made


def _redrawn(shades: NDArray[np.uint8], region: NDArray[np.float32], draw: Detailer) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with the square around a region (H, W) drawn again, inside the region only."""
    rows, columns = np.nonzero(region >= 0.5)
    if not len(rows):
        return shades
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    # the square just around the box: nothing wider is cut out
    options = Restoration(side=draw.side, around=1 / AROUND, match_colours=False, gate="off")
    face = Face(box=box, landmarks=None, score=1.0)
    return to_shades(restore_picture(to_pixels(shades), [face], draw, options, drawn=region).pixels)
