"""Where a network's pictures look: probabilities of words at the sites asked for, with gradients.

Queries and keys are kept as they meet; nothing is added inside the layer, so that gradient checkpointing
(non-re-entrant) recomputes what it computed. Each site keeps its last pass.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..bases.attention import AttentionSite, AttentionUser, Bias, text_probabilities
from ..bases.denoisers.protocol import AttentionLayer
from ..bases.denoisers.seam import using
from ..errors import LikenessError

if TYPE_CHECKING:
    from ..bases.base import BaseModel


def mask_layers(base: "BaseModel") -> dict[str, AttentionLayer]:
    """The layers whose attention is compared with masks: those at the base's attention side that its family's
    row names, if it names any that this base has."""
    factor = base.resolution // base.pixels_per_latent // base.attention_side
    layers = base.denoiser.attention_layers().items()
    at_side = {name: layer for name, layer in layers if layer.reduction == factor and layer.part != "middle"}
    best = {name: layer for name, layer in at_side.items() if name in base.traits.attention_layers}
    if not at_side:
        raise LikenessError(
            f"this base has no cross-attention at a side of {base.attention_side}; set attention_weight to 0"
        )
    return best or at_side


@dataclass(eq=False)
class AttentionMaps(AttentionUser):
    """What was caught of each site in its last pass that took gradients."""

    layers: Mapping[str, AttentionLayer]
    over: bool = False  # what a backward pass computes again is not looked at
    seen: dict[str, tuple[AttentionSite, Tensor, Tensor]] = field(default_factory=dict)  # queries, keys

    def before(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None
    ) -> tuple[Tensor, Tensor, Tensor, Bias | None]:
        to_record = site.name in self.layers and not self.over
        if to_record and torch.is_grad_enabled():  # a teacher's pass is nobody's loss
            self.seen[site.name] = site, q, k
        return q, k, v, bias

    def probabilities(self, name: str) -> Tensor:
        """What the picture reads of each word, (B, heads, Q, T) in fp32."""
        return text_probabilities(*self.seen[name])

    def all(self) -> list[Tensor]:
        """The probabilities at every site that was passed, in order."""
        return [self.probabilities(name) for name in self.layers if name in self.seen]

    def clear(self) -> None:
        self.seen.clear()


@contextmanager
def recorded(network: nn.Module, layers: Mapping[str, AttentionLayer]) -> Iterator[AttentionMaps]:
    """Within, passes that take gradients leave their queries and keys here; afterwards nobody listens.

    What was caught stays valid, for a loss and its backward pass outside.
    """
    maps = AttentionMaps(dict(layers))
    with ExitStack() as stack:
        if layers:
            stack.enter_context(using(network, "maps", maps))
        try:
            yield maps
        finally:
            maps.over = True
