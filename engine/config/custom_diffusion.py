"""Custom Diffusion's settings and presets."""

from dataclasses import dataclass

from .checks import RANKS, WORDS, at_least, at_most, chosen_preset
from .prior import PriorSettings, behind


@behind(steps=("learning_rate",), weight_decay=("rank", "identifier"))
@dataclass(frozen=True, kw_only=True)
class CustomDiffusionSettings(PriorSettings):
    """Learns the U-Net's text keys and values with the placeholder, beside pictures of the class that the
    base drew (Kumari et al. 2023, arXiv 2212.04488); the default suits a person on SD 1.x."""

    steps: int = 1000  # people need more than the paper's 250
    learning_rate: float = 1e-5  # of keys and values, per step
    weight_decay: float = 1e-2  # draws the keys and values back to the base's
    rank: int | None = None  # of the saved differences; None: all that there is, 16 makes small files
    identifier: str = ""  # a rare word that the placeholder begins as, before the class word
    vectors: int = 1  # rows per placeholder, without an identifier

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "learning_rate")
        at_least(self, 1, "rank")
        at_most(self, RANKS, "rank")
        at_most(self, WORDS, "vectors")

    @classmethod
    def preset(cls, name: str = "default") -> "CustomDiffusionSettings":
        """`default`, `paper` (250 steps of 8, rate 1e-5 times batch, a rare word), one of each Miniature."""
        small = {"steps": 200, "learning_rate": 5e-4, "token_learning_rate": 1e-2,
                 "schedule": "cosine", "batch_size": 4, "vectors": 4, "prior_batch_size": 2,
                 "prior_pictures": 16, "prior_steps": 12, "weight_decay": 0.0, "masked_loss": True,
                 "min_snr_gamma": 5.0, "templates": ("a photo of {}", "a portrait photo of {}"),
                 "prior_templates": ("a photo of a {}", "a portrait photo of a {}")}  # fmt: skip
        presets = {
            "default": {},
            "paper": {"steps": 250, "learning_rate": 8e-5, "token_learning_rate": 8e-5, "batch_size": 8,
                      "prior_batch_size": 8, "prior_pictures": 200, "identifier": "ktn",
                      "templates": ("a photo of a {}",), "prior_templates": ("a photo of a {}",)},
            "miniature": small, "miniature-2": {**small, "min_snr_gamma": None},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))
