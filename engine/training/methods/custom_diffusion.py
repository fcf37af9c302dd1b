"""Custom Diffusion (Kumari et al. 2023, arXiv 2212.04488): only the U-Net's text keys and values are trained.

What is left out of the paper: the random resizing of the pictures with "very small" and "close up" in their
prompts; pictures of the class are drawn by the base instead of being found on the web.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...artifact import Artifact
from ...artifact import lora as kohya
from ...bases import features
from ...bases.base import BaseModel
from ...config import CustomDiffusionSettings, Job, Phase
from ...data.concepts import Concept
from ..tokens import TokenRows, initial_rows
from .base import single_phase
from .plain_diffusion import BesidePrior

CUT_OFF = 1e-6  # singular values below this share of the largest are rounding


class Shifted(nn.Module):
    """A linear layer and a trained difference of its weight (out, in) that begins at 0."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.shift = nn.Parameter(torch.zeros(layer.weight.shape, device=layer.weight.device))
        self.on = True

    def forward(self, states: Tensor) -> Tensor:
        if not self.on:
            return self.layer(states)
        return self.layer(states) + F.linear(states, self.shift.to(states.dtype))


class CustomDiffusion(BesidePrior):
    """Differences of the cross-attentions' key and value projections, and the placeholder's rows."""

    @classmethod
    def needs(cls, job: Job) -> tuple[str, ...]:
        return (features.TEXT_PROJECTIONS,)

    def __init__(self, job: Job, base: BaseModel, concepts: Sequence[Concept]) -> None:
        super().__init__(job, base, concepts)
        self.settings: CustomDiffusionSettings = job.settings
        self.tokens = TokenRows({c.token: self._first_rows(c) for c in self.concepts})
        self._shifts: dict[str, Shifted] = {}  # by the layer's path; the modules themselves are in the U-Net

    def _first_rows(self, concept: Concept) -> dict[str, Tensor]:
        rare = self.settings.identifier
        if rare:  # as published: a rare word before the class word
            return initial_rows(self.base, f"{rare} {concept.class_word}")
        return initial_rows(self.base, concept.class_word, self.settings.vectors)

    def attach(self) -> None:
        text_side = self.base.denoiser.lora_targets["text"]
        modules = self.base.network.named_modules()
        layers = [(path, part) for path, part in modules if path.endswith(text_side)]
        for path, layer in layers:
            shifted = Shifted(layer)
            _put(self.base.network, path, shifted)
            self._shifts[path] = shifted

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        rates = {"cross_attention": settings.learning_rate, "tokens": settings.token_learning_rate}
        return [single_phase("tuning", settings, rates)]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        shifts = [shifted.shift for shifted in self._shifts.values()]
        return {"cross_attention": shifts, "tokens": list(self.tokens.parameters())}

    def artifact(self) -> Artifact:
        tensors: dict[str, Tensor] = {}
        for path, shifted in self._shifts.items():
            down, up = factors(shifted.shift.detach().float().cpu(), self.settings.rank)
            name = kohya.unet_name(path)
            tensors[name + kohya.DOWN], tensors[name + kohya.UP] = down, up
            tensors[name + kohya.ALPHA] = torch.tensor(float(len(down)))
        return self.learned("lora", {**tensors, **self.tokens.tensors()}, self.rows_each())

    @contextmanager
    def untouched(self) -> Iterator[None]:
        for shifted in self._shifts.values():
            shifted.on = False
        try:
            yield
        finally:
            for shifted in self._shifts.values():
                shifted.on = True

    def close(self) -> None:
        for path, shifted in self._shifts.items():
            _put(self.base.network, path, shifted.layer)
        self._shifts = {}


def factors(shift: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """(down (r, in), up (out, r)) whose product is the difference (out, in), or nearest it at that rank."""
    left, values, right = torch.linalg.svd(shift, full_matrices=False)
    kept = max(1, int((values > CUT_OFF * values[0]).sum()))
    kept = min(kept, rank) if rank else kept
    root = values[:kept].sqrt()
    return (root[:, None] * right[:kept]).contiguous(), (left[:, :kept] * root).contiguous()


def _put(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, layer)
