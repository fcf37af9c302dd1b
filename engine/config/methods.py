"""Which methods there are, and where each one's settings start."""

from typing import Any

from ..errors import LikenessError
from .checks import one_of
from .custom_diffusion import CustomDiffusionSettings
from .dreambooth_lora import DreamBoothLoraSettings
from .magicapture import MagiCaptureSettings
from .magictailor import MagicTailorSettings
from .masterweaver import MasterWeaverSettings
from .personamagic import PersonaMagicSettings
from .specs import MINIATURES, BaseSpec
from .textual_inversion import TextualInversionSettings

METHODS: dict[str, type] = {
    "textual-inversion": TextualInversionSettings,
    "dreambooth-lora": DreamBoothLoraSettings,
    "custom-diffusion": CustomDiffusionSettings,
    "personamagic": PersonaMagicSettings,
    "magictailor": MagicTailorSettings,
    "masterweaver": MasterWeaverSettings,
    "magicapture": MagiCaptureSettings,
}


# where settings may start; not all methods have all, and the last two are of the bases of that name
PRESETS = ("default", "paper", "reference", *MINIATURES)


def presets_of(method: str) -> dict[str, Any]:
    """The method's settings by the names of its presets, `default` first."""
    presets = {}
    for name in PRESETS:
        try:
            presets[name] = METHODS[method].preset(name)
        except LikenessError:
            continue  # a paper without code has no reference
    return presets


def settings_for(method: str, base: BaseSpec | None = None) -> Any:
    """The method's settings before anybody changes them: tuned for a Miniature, or the default."""
    one_of("method", method, METHODS)
    base = base or BaseSpec()
    return METHODS[method].preset(base.kind if base.own_world else "default")
