"""The plain denoising loss of single pictures, at the same noise and times whenever it is asked for.

Of pictures that are held out it is the validation loss; of those learned from, at the end, it says which is
learned worst.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data.captions import with_placeholder
from ..data.concepts import Concept, Picture
from ..data.examples import generator_for
from .losses import squared_error
from .methods.base import Method

_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # from picture (0) to noise (1)
VALIDATIONS = 10  # at the held-out pictures over a run
ASKED_IN_THE_END = 32  # pictures that are looked at in the end
_WORSE = 1.5  # times the median loss: a picture that is learned badly


class PictureLosses:
    """Losses of a concept's pictures under one method; they are encoded once."""

    def __init__(self, method: Method, concept: Concept, pictures: Sequence[Picture]) -> None:
        self.names = [picture.name for picture in pictures]
        self._method = method
        self._prompts = [_prompt(method, concept, picture) for picture in pictures]
        self._means: list[Tensor] = []  # (1, C, h, w)
        examples = method.examples_for([replace(concept, pictures=tuple(pictures), held=())])
        with torch.no_grad():
            for number in range(len(pictures)):
                mean, _ = method.base.encode_posterior(examples.pixels[torch.tensor([number])])
                self._means.append(mean)

    @torch.no_grad()
    def measure(self) -> list[float]:
        """The mean over `_TIMES` for each picture, in order."""
        base, losses = self._method.base, []
        for number, (mean, prompt) in enumerate(zip(self._means, self._prompts)):
            generator = generator_for("validation", self._method.job.seed, number)
            context, errors = self._method.text_states([prompt]), []
            for time in _TIMES:  # one by one: memory that a step fits into is enough
                noise = torch.randn(mean.shape, generator=generator).to(mean.device)
                times = torch.tensor([time], device=mean.device)
                prediction = base.predict(base.process.add_noise(mean, noise, times), times, context)
                errors.append(squared_error(prediction, base.process.target(mean, noise, times)).mean())
            losses.append(float(torch.stack(errors).mean()))
        return losses


def learned_worst(names: Sequence[str], losses: Sequence[float]) -> str:
    """Which pictures are learned how well, the worst first, and what to do about one that stands out."""
    order = sorted(zip(losses, names), reverse=True)
    listed = ", ".join(f"{name} {loss:.3f}" for loss, name in order[:8])
    more = f" and {len(order) - 8} more" if len(order) > 8 else ""
    middle = sorted(losses)[len(losses) // 2]
    worst = f"; {order[0][1]} is learned worst: look at it" if order[0][0] > _WORSE * middle else ""
    return f"loss by picture, worst first: {listed}{more}{worst}"


def _prompt(method: Method, concept: Concept, picture: Picture) -> str:
    """The picture's first caption, else the plainest words for it."""
    if picture.captions:
        return with_placeholder(picture.captions[0], concept.token)
    return f"a photo of {concept.token}"
