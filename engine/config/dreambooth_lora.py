"""DreamBooth-LoRA's settings and presets."""

from dataclasses import dataclass

from ..errors import LikenessError
from .adapters import ADAPTED, ADAPTERS, block_ranks
from .checks import RANKS, above_zero, at_least, at_most, chosen_preset, one_of
from .prior import PriorSettings, behind


@behind(
    steps=("unet_learning_rate", "text_encoder_learning_rate"),
    weight_decay=(
        "adapter",
        "layers",
        "rank",
        "alpha",
        "rslora",
        "rank_by_block",
        "min_rank",
        "orthogonal",
        "text_encoder",
        "train_token",
    ),  # fmt: skip
    vectors=("identifier",),
)
@dataclass(frozen=True, kw_only=True)
class DreamBoothLoraSettings(PriorSettings):
    """Learns low-rank updates of the attention layers, beside pictures of the class that the base itself drew
    (Ruiz et al. 2023; Hu et al. 2021); the default suits a person on SD 1.x."""

    steps: int = 800  # 4 to 8 pictures; more overfits
    unet_learning_rate: float = 1e-4  # of the U-Net's LoRA
    text_encoder_learning_rate: float = 5e-5  # of the text encoder's LoRA; lower, for it forgets faster
    weight_decay: float = 1e-2  # as the diffusers example has it
    adapter: str = "lora"  # or dora, loha, lokr, oft: kinds of updates
    layers: str = "attention"  # feed-forward: these too; convolutions: these too
    rank: int = 16  # of the updates; 4 to 32, larger files and likeness with it
    alpha: float = 16.0  # updates are scaled by alpha / rank
    rslora: bool = False  # by alpha / sqrt(rank) instead, so that high ranks learn as fast
    rank_by_block: tuple[str, ...] = ()  # other ranks (and alphas) in layers: up_blocks=32, mid_block=8:4
    min_rank: int | None = None  # of the U-Net's ranks at pure noise; more as it falls (T-LoRA); None: all
    orthogonal: bool = False  # the U-Net's LoRA begins with orthogonal halves; files have twice the rank
    text_encoder: bool = False  # give the text encoder a LoRA too: closer likeness, looser prompts
    train_token: bool = True  # the placeholder has rows of its own, begun from the class word
    identifier: str = "sks"  # without train_token the placeholder reads "<identifier> <class word>"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "unet_learning_rate", "text_encoder_learning_rate")
        at_least(self, 1, "rank", "min_rank")
        at_most(self, RANKS, "rank")
        above_zero(self, "alpha")
        one_of("kind of adapter", self.adapter, ADAPTERS)
        one_of("kind of layers", self.layers, ADAPTED)
        block_ranks(self.rank_by_block)
        self._check_kind()
        if self.min_rank is not None and self.min_rank > self.rank:
            raise LikenessError(f"'min_rank' is {self.min_rank}, but the rank is {self.rank}; give no more")

    def _check_kind(self) -> None:
        """Raises for what a kind of adapter has not: T-LoRA's switches are a LoRA's, on attention alone."""
        switch = "min_rank" if self.min_rank is not None else "orthogonal" if self.orthogonal else None
        if switch and (self.adapter != "lora" or self.layers == "convolutions" or self.rank_by_block):
            raise LikenessError(
                f"'{switch}' is for a LoRA of one rank, without convolutions; leave it away, or adapter, "
                "layers and rank_by_block"
            )
        if self.rslora and self.adapter == "oft":
            raise LikenessError("'rslora' scales updates, and an oft has none, it rotates; leave it away")

    @classmethod
    def preset(cls, name: str = "default") -> "DreamBoothLoraSettings":
        """`default`, `reference` (diffusers' LoRA example with prior preservation), one of each Miniature."""
        small = {"steps": 150, "unet_learning_rate": 5e-3, "text_encoder": True,
                 "text_encoder_learning_rate": 2e-3, "token_learning_rate": 5e-3,
                 "schedule": "cosine", "rank": 8, "alpha": 8.0,
                 "batch_size": 4, "prior_batch_size": 2, "prior_pictures": 16, "prior_steps": 12,
                 "weight_decay": 0.0, "masked_loss": True, "min_snr_gamma": 5.0,
                 "templates": ("a photo of {}", "a portrait photo of {}"),
                 "prior_templates": ("a photo of a {}", "a portrait photo of a {}")}  # fmt: skip
        presets = {
            "default": {},
            "reference": {"steps": 500, "rank": 4, "alpha": 4.0, "batch_size": 1, "prior_batch_size": 1,
                          "prior_pictures": 100, "train_token": False, "templates": ("a photo of {}",),
                          "prior_templates": ("a photo of {}",)},
            "miniature": small,
            "miniature-2": {**small, "min_snr_gamma": None, "prior_weight": 0.0},
        }  # fmt: skip
        return cls(**chosen_preset(cls, name, presets))
