"""Where a base stops giving numbers: weights that are none, or values too large for their precision."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import LikenessError

if TYPE_CHECKING:
    from .base import BaseModel


def first_broken(base: "BaseModel") -> str | None:
    """A weight of the base that holds NaN or infinity, and of which part; None where all are numbers."""
    kind = "U-Net" if base.traits.denoiser == "unet" else "transformer"
    parts = {kind: base.network, "VAE": base.vae}
    parts |= {f"text encoder {name}": encoder for name, encoder in base.text_encoders.items()}
    for part, network in parts.items():
        for name, weight in network.state_dict().items():
            wide = weight.float() if weight.element_size() == 1 else weight  # nobody asks 8 bits
            if weight.is_floating_point() and not bool(wide.isfinite().all()):
                return f"{name} of its {part}"
    return None


def check_latents(base: "BaseModel", latents: Tensor) -> Tensor:
    """The latents that were drawn; raises where they are no numbers, and says what is at fault."""
    if bool(latents.isfinite().all()):
        return latents
    broken = first_broken(base)
    if broken is not None:
        raise LikenessError(
            f"the base draws nothing: {broken} holds values that are no numbers; get its file again, or "
            "lower the strength of what is applied to it"
        )
    kind = str(next(base.network.parameters()).dtype).removeprefix("torch.")
    raise LikenessError(
        f"numbers became too large for {kind} while drawing, though all weights are sound; lower the "
        "guidance or the strength of what is applied"
    )


def check_pixels(pixels: Tensor) -> Tensor:
    """Decoded pixels; raises where they are no numbers."""
    if pixels.device != torch.device("meta") and not bool(pixels.isfinite().all()):
        raise LikenessError(
            "the VAE gives values that are no numbers for this picture; it is damaged or made for another "
            "base: name another with --vae, or connect another"
        )
    return pixels


def check_encoded(latents: Tensor) -> Tensor:
    """The latents (N, C, h, w) of pictures; raises where some are no numbers."""
    wrong = int((~latents.flatten(1).isfinite().all(1)).sum())
    if wrong:
        raise LikenessError(
            f"the VAE gives values that are no numbers for {wrong} of {len(latents)} pictures; it is damaged "
            "or made for another base: name another with --vae, or connect another"
        )
    return latents
