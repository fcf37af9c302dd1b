"""A base that draws somebody: ID tokens on the rows that follow the prompt, nobody's on the others."""

import torch
from torch import Tensor

from ..bases.conditioning import Conditioning
from ..bases.denoisers.seam import Seam
from ..bases.sampling import DiffusionModel
from .attention import IdAttention, IdentityAttention, Person


class GuidedIdentityDenoiser:
    """A `DiffusionModel` for `count` pictures of one person under classifier-free guidance.

    Both sets of tokens are projected once for all steps: tokens and nobody (1, n, D).
    """

    def __init__(
        self,
        base: DiffusionModel,
        seam: Seam,  # of the base's network
        attention: IdAttention,
        tokens: Tensor,
        nobody: Tensor,
        count: int,
        scale: float = 1.0,
    ) -> None:
        self.process = base.process
        self._base, self._seam, self._count = base, seam, count
        somebody = attention(tokens.expand(count, -1, -1))
        nothing = attention(nobody.expand(count, -1, -1))
        both = {
            name: (torch.cat([nothing[name][0], keys]), torch.cat([nothing[name][1], values]))
            for name, (keys, values) in somebody.items()
        }
        self._alone, self._guided = Person(somebody, scale), Person(both, scale)

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """(B, C, h, w) for B = count, or twice that with the unconditional half first."""
        person = self._guided if len(noisy) == 2 * self._count else self._alone
        with self._seam.using("identity", IdentityAttention([person])):
            return self._base.predict(noisy, t, conditioning)
