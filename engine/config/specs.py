"""What a training starts from: a base model, and concepts as folders of pictures."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import LikenessError
from ..files import check_name
from .checks import one_of, spoken
from .paths import typed_path

ROLES = ("subject", "style", "component")
CAPTION_SOURCES = ("files", "pictures", "trigger", "none")  # beside the pictures; in their own files too
MINIATURES = ("miniature", "miniature-2")  # kinds that come with Likeness, and draw a world of their own
BASE_KINDS = (*MINIATURES, "checkpoint", "diffusers", "hub", "graph")
PREDICTIONS = ("epsilon", "v_prediction")  # the noise, or the velocity
TOKEN = re.compile(r"<[A-Za-z0-9_-]+>")
MODEL_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """Which diffusion model to start from."""

    kind: str = "miniature"
    path: str | None = None  # a single-file checkpoint, a diffusers folder, or a model's name on the hub
    tokenizer: str | None = None  # a CLIP tokenizer's folder: single-file checkpoints hold none
    vae: str | None = None  # another VAE for a single-file checkpoint: a file, a checkpoint or a folder
    clip: str | None = None  # other text encoders for it: a checkpoint of its kind or a diffusers folder
    prediction: str | None = None  # what it predicts, of PREDICTIONS; None: as its files say

    def __post_init__(self) -> None:
        for name in ("path", "tokenizer", "vae", "clip"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, typed_path(getattr(self, name)))
        given = [name for name in ("vae", "clip", "tokenizer") if getattr(self, name) is not None]
        if given and self.kind != "checkpoint":
            raise LikenessError(
                f"{given[0]} is for a single-file checkpoint; {self.path or self.kind} has its own: leave it "
                "away, or change that folder"
            )
        one_of("base kind", self.kind, BASE_KINDS)
        if self.prediction is not None:
            one_of("prediction", self.prediction, PREDICTIONS)
            if self.own_world:
                raise LikenessError("it is known what the Miniatures predict; leave the prediction away")
        if self.kind in ("checkpoint", "diffusers", "hub") and not self.path:
            raise LikenessError(f"a base of kind '{self.kind}' needs a path; give the file or folder")

    @property
    def own_world(self) -> bool:
        """Whether it draws a drawn world, whose people, parts and judges come with it."""
        return self.kind in MINIATURES

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        vae: str | None = None,
        clip: str | None = None,
        tokenizer: str | None = None,
        prediction: str | None = None,
    ) -> "BaseSpec":
        """A Miniature, a folder, a file or a model in the hub's cache (`owner/name`), as typed.

        `vae`, `clip` and `tokenizer` stand in place of a checkpoint's own; `prediction` says what it predicts
        where its files do not.
        """
        text = typed_path(text)
        path = Path(text)
        kind = "diffusers" if path.is_dir() else "checkpoint"
        if text in MINIATURES:
            kind = text
        elif not path.exists() and HUB_NAME.fullmatch(text) and path.suffix.lower() not in MODEL_FILES:
            kind = "hub"
        where = None if kind in MINIATURES else text
        return cls(kind=kind, path=where, vae=vae, clip=clip, tokenizer=tokenizer, prediction=prediction)


@dataclass(frozen=True, kw_only=True)
class ConceptSpec:
    """A folder of pictures, and what to call its content in prompts."""

    folder: str
    token: str = "<v0>"
    class_word: str | None = None  # None: as concept.json says
    role: str | None = None  # None: as concept.json says
    asset: int | None = None  # in MagicTailor's folder of several concepts: the number before its file names
    regularisation: str | None = None  # a folder of pictures of the class, in place of drawn ones
    captions: str = "files"  # where they come from; trigger: the placeholder alone; none: templates

    def __str__(self) -> str:
        """As nodes show it."""
        words = [self.token, self.class_word, self.role and f"({self.role})", f"from {self.folder}"]
        return " ".join(word for word in words if word)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", typed_path(self.folder))
        if self.regularisation is not None:
            object.__setattr__(self, "regularisation", typed_path(self.regularisation))
        if not TOKEN.fullmatch(self.token):
            raise LikenessError(
                f"'{self.token:.80}' cannot be a placeholder; write letters, digits, - or _ between < and >, "
                "such as <v0>"
            )
        check_name(self.token[1:-1])  # exported, its file is named so
        if self.class_word is not None:
            spoken(self.class_word)
        if self.role is not None:
            one_of("role", self.role, ROLES)
        one_of("source of captions", self.captions, CAPTION_SOURCES)
