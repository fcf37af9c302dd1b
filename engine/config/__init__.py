"""What a training run is asked to do: frozen settings that validate themselves and go to JSON and back.

The way of the data: plain values from YAML, JSON (`plain`), the command line or a node are read (`reading`)
into a `Job` (`job`), which names a base and concepts (`specs`), a method (`methods`) and its settings (a
module each; `prior` holds what two of them share). All of them check themselves (`checks`; `places`:
where data may lie). The method then makes its `Phase`s (`phase`) out of the settings. Nothing here loads a
library or touches a picture.
"""

from .adapters import ADAPTERS, BlockRank, block_ranks
from .checks import above_zero, at_least, at_most, chosen_preset, finite, one_of, spoken, with_gap
from .custom_diffusion import CustomDiffusionSettings
from .dreambooth_lora import DreamBoothLoraSettings
from .job import DEVICES, PRECISIONS, TRACKERS, Job, as_earlier
from .magicapture import MagiCaptureSettings
from .magictailor import DEGRADATIONS, MagicTailorSettings
from .masterweaver import (
    EDIT_TEMPLATES,
    EDITS,
    MINIATURE_EDIT_TEMPLATES,
    MINIATURE_EDITS,
    MasterWeaverSettings,
)
from .methods import METHODS, PRESETS, presets_of, settings_for
from .paths import typed_path
from .personamagic import MINIATURE_OPEN_PROMPTS, PersonaMagicSettings
from .phase import LR_SCHEDULES, Phase, divided
from .places import check_place, is_address
from .plain import check_plain, check_text, from_json, from_yaml
from .reading import convert, known_keys, read
from .recipe import OPTIMIZERS, TIMESTEP_SAMPLING, Recipe, gathered
from .specs import BASE_KINDS, CAPTION_SOURCES, HUB_NAME, MODEL_FILES, ROLES, TOKEN, BaseSpec, ConceptSpec
from .textual_inversion import TextualInversionSettings

__all__ = [
    "ADAPTERS", "BASE_KINDS", "CAPTION_SOURCES", "DEGRADATIONS", "DEVICES", "EDITS", "EDIT_TEMPLATES",
    "HUB_NAME", "METHODS",
    "MINIATURE_EDITS", "MINIATURE_EDIT_TEMPLATES", "MINIATURE_OPEN_PROMPTS", "MODEL_FILES", "OPTIMIZERS",
    "PRECISIONS", "PRESETS",
    "ROLES", "LR_SCHEDULES", "TOKEN", "TRACKERS", "BaseSpec", "BlockRank", "ConceptSpec",
    "CustomDiffusionSettings",
    "DreamBoothLoraSettings", "Job", "MagiCaptureSettings", "MagicTailorSettings", "MasterWeaverSettings",
    "PersonaMagicSettings", "Phase", "Recipe", "TIMESTEP_SAMPLING", "TextualInversionSettings", "above_zero",
    "as_earlier", "at_least", "at_most", "block_ranks",
    "check_place", "check_plain", "check_text", "chosen_preset", "convert", "divided", "finite",
    "from_json", "from_yaml", "gathered", "is_address", "known_keys", "one_of", "presets_of", "read",
    "settings_for", "spoken", "typed_path", "with_gap",
]  # fmt: skip
