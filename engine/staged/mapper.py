"""PersonaMagic's mapper: a diffusion timestep and a picture's feature to pseudo-words (arXiv 2412.15674).

Everything is batched: one timestep, and one picture, per sample.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE_WIDTH = 2048  # of the time code
LONGEST_WAVE = 10_000.0


def time_code(timesteps: Tensor, width: int = CODE_WIDTH) -> Tensor:
    """The sinusoidal code (B, width) of raw timesteps (B,): all cosines, then all sines."""
    half = width // 2
    steps = torch.arange(half, device=timesteps.device, dtype=torch.float32)
    phases = timesteps.float()[:, None] * torch.exp(-math.log(LONGEST_WAVE) * steps / half)
    return torch.cat([phases.cos(), phases.sin()], dim=-1)


def anchor_codes(count: int, interval: tuple[int, int], width: int = CODE_WIDTH) -> Tensor:
    """Time codes (count, width) of timesteps spread evenly over the interval, its upper end left out."""
    low, high = interval
    return time_code(low + torch.arange(count) * ((high - low) / count), width)


def _two_layers(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
    )  # fmt: skip


class Mapper(nn.Module):
    """Timesteps and image features to `words` pseudo-words: their token vectors, and what is added to their
    states at the text encoder's end ("bypass"). Sub-modules are named as in the reference's checkpoints.
    """

    def __init__(
        self,
        *,
        text_widths: Mapping[str, int],  # by text encoder: SDXL's two share one head each, side by side
        image_width: int,  # of the picture's feature; 0: none, the bypass too depends on time alone
        words: int = 4,
        anchors: int = 200,
        interval: tuple[int, int] = (400, 800),
        hidden: int = 128,
        zero_init: bool = False,
        bypass_width: int | None = None,  # of what values are moved by; None: as the text encoders' states
    ) -> None:
        super().__init__()
        self.text_widths = dict(text_widths)
        self.bypass_widths = self.text_widths
        if bypass_width is not None:
            self.bypass_widths = {next(iter(self.text_widths)): bypass_width}
        self.words = words
        self.image_width = image_width
        outputs = words * sum(self.text_widths.values())
        self.input_layer = nn.Linear(CODE_WIDTH, anchors)
        self.timestep_proj = _two_layers(anchors, hidden)
        self.image_proj = _two_layers(hidden + image_width, hidden)
        moved = words * sum(self.bypass_widths.values())
        self.image_output_layer = nn.Sequential(nn.Linear(hidden, moved))
        self.output_layer = nn.Sequential(nn.Linear(hidden, outputs))
        with torch.no_grad():
            self.input_layer.weight.copy_(anchor_codes(anchors, interval))
            if zero_init:  # then the pseudo-words begin as the class word, without a bypass
                for weight in (*self.output_layer.parameters(), *self.image_output_layer.parameters()):
                    weight.zero_()

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], text_widths: Mapping[str, int]) -> "Mapper":
        """The mapper whose state dict `weights` is; its sizes are read off the shapes.

        Raises KeyError, IndexError, ValueError or RuntimeError where these do not fit together.
        """
        anchors = weights["input_layer.weight"].shape[0]
        hidden = weights["timestep_proj.0.weight"].shape[0]
        image_width = weights["image_proj.0.weight"].shape[1] - hidden
        words = weights["output_layer.0.weight"].shape[0] // sum(text_widths.values())
        if image_width < 0 or words < 1:
            raise ValueError(f"{words} words, a picture's feature {image_width} wide")
        moved = weights["image_output_layer.0.weight"].shape[0] // words
        mapper = cls(
            text_widths=text_widths, image_width=image_width, words=words, anchors=anchors, hidden=hidden,
            bypass_width=None if moved == sum(text_widths.values()) else moved,
        )  # fmt: skip
        mapper.load_state_dict(dict(weights))
        return mapper.requires_grad_(False).eval()

    def forward(
        self, timesteps: Tensor, class_rows: Mapping[str, Tensor], norms: Mapping[str, float], image: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Token vectors and bypass by text encoder, each (B, words, D).

        timesteps (B,); class_rows (D,): the class word's token vectors; norms: the length every token vector
        gets; image (B, image_width).
        """
        hidden = self.timestep_proj(self.input_layer(time_code(timesteps)))
        mixed = self.image_proj(torch.cat([hidden, image], dim=-1))
        heads = self._by_encoder(self.output_layer(hidden), self.text_widths)
        vectors = {
            name: norms[name] * F.normalize(head + class_rows[name], dim=-1) for name, head in heads.items()
        }
        return vectors, self._by_encoder(self.image_output_layer(mixed), self.bypass_widths)

    def _by_encoder(self, flat: Tensor, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """(B, words * all widths) as (B, words, D) for each text encoder."""
        rows = flat.unflatten(-1, (self.words, -1))
        return dict(zip(widths, rows.split(list(widths.values()), dim=-1)))
