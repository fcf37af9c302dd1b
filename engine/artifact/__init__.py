"""The concept file, and the way from and to other tools' files.

The way of the data: a method's tensors become an `Artifact` (`concept_file`), which checks them and writes
them with what they mean (`tensors`); reading goes back the same way. LoRAs (`lora_layouts`) and `embeddings`
of other tools become artifacts too, and artifacts become such files (`other_tools`).
"""

from .card import full_card, grid_card, settings_lines, short_card, shown, thumbnail_of
from .concept_file import (
    ARTIFACT_KINDS,
    FORMAT_VERSION,
    Artifact,
    Token,
    merge,
    placeholders,
    read_metadata,
)
from .embeddings import CLIP_WORDS
from .other_tools import export_numbered, export_stock, import_file

__all__ = [
    "CLIP_WORDS", "FORMAT_VERSION", "ARTIFACT_KINDS", "Artifact", "Token",
    "full_card", "grid_card", "settings_lines", "short_card", "shown", "thumbnail_of",
    "export_numbered", "export_stock", "import_file", "merge", "placeholders", "read_metadata",
]  # fmt: skip
