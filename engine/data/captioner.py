"""Captions by a model in a folder on this machine: BLIP, GIT, Florence-2, LLaVA, Qwen-VL and whatever else
transformers knows as image-text-to-text. Nothing is downloaded, and no code out of the folder is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..artifact.inert_folder import from_folder, pretrained
from ..errors import LikenessError, first_line
from ..files import write_atomically
from .captions import LONGEST
from .layout import look_into
from .pictures import read_picture

QUESTION = (  # what is said of the face in words is not learned as the person's
    "Describe this picture in one sentence: the clothes, the pose, the place and the light. Say nothing "
    "about the face."
)
_TASKS = {"florence2": "<DETAILED_CAPTION>"}  # models that understand words of their own alone
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_LONGER_SIDE = 1024  # pixels; a model that takes any size would look at a photograph for minutes
_AGAIN = "get a model of transformers' kind image-text-to-text"
_OnPicture = Callable[[int, int, str], None]


class Captioner:
    """Says in words what a picture shows; always the same for the same picture."""

    def __init__(self, model: Any, processor: Any, prompt: str | None = None, longest: int = 60) -> None:
        """prompt: what is asked, by default what fits the kind of model; longest: tokens."""
        self.model, self.processor, self.longest = model, processor, longest
        chats = bool(getattr(processor, "chat_template", None))
        usual = QUESTION if chats else _TASKS.get(model.config.model_type, "")
        self._text = self._in_chat(prompt or usual) if chats else prompt or usual

    def _in_chat(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8]) -> str:
        """A caption in one line of pixels (H, W, 3); empty where the model says nothing."""
        image = Image.fromarray(pixels)
        image.thumbnail((_LONGER_SIDE, _LONGER_SIDE), Image.Resampling.LANCZOS)
        asked = {"text": [self._text]} if self._text else {}
        inputs = self.processor(images=[image], **asked, return_tensors="pt").to(self.model.device)
        tokens = self.model.generate(**inputs, max_new_tokens=self.longest, do_sample=False)[0]
        question = inputs["input_ids"][0] if "input_ids" in inputs else tokens[:0]
        if torch.equal(tokens[: len(question)], question):  # some models repeat what they were asked
            tokens = tokens[len(question) :]
        text = getattr(self.processor, "tokenizer", self.processor).decode(tokens, skip_special_tokens=True)
        return " ".join(text.split())[:LONGEST]


def load_captioner(
    folder: str | Path, prompt: str | None = None, longest: int = 60, device: str = "cpu"
) -> Captioner:
    """The model in a folder; LikenessError where there is none, or none that describes pictures."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place = Path(folder)
    _check_there(place)
    model = pretrained(AutoModelForImageTextToText, place, _AGAIN)
    try:
        processor = from_folder(AutoProcessor, place)
    except LikenessError:
        raise
    except Exception as error:  # transformers and tokenizers each raise their own
        raise LikenessError(
            f"{place} has no processor that can be read ({first_line(error)}); {_AGAIN}"
        ) from error
    if not hasattr(processor, "image_processor"):
        raise LikenessError(f"{place} has no preprocessor_config.json for pictures; {_AGAIN}")
    return Captioner(model.to(device), processor, prompt, longest)


def _check_there(place: Path) -> None:
    """Raises where a folder does not hold a model's files, and says which go where."""
    missing = [name for name in ("config.json", "preprocessor_config.json") if not (place / name).is_file()]
    if "preprocessor_config.json" in missing and (place / "processor_config.json").is_file():
        missing.remove("preprocessor_config.json")
    if not any(any(place.glob(pattern)) for pattern in _WEIGHTS):
        missing.append("model.safetensors")
    if missing:
        what = f"lacks {', '.join(missing)}" if place.is_dir() else "is no folder on this machine"
        raise LikenessError(
            f"{place} {what}, and nothing is downloaded; put config.json, preprocessor_config.json, the "
            "tokenizer's files and model.safetensors of an image-text-to-text model, such as "
            "https://huggingface.co/Salesforce/blip-image-captioning-base (BSD-3-Clause), into one folder "
            "and give that"
        )


def caption_folder(
    folder: Path, captioner: Captioner, *, overwrite: bool = False, on_picture: _OnPicture | None = None
) -> tuple[list[Path], list[str]]:
    """Writes `<picture>.txt` beside every picture of a concept folder that has no caption, or all of them.

    Returns the files, and the names of pictures of which nothing was said.
    """
    layout = look_into(folder)
    pictures = [path for path in layout.pictures if overwrite or path not in layout.captions]
    written, silent = [], []
    for number, path in enumerate(pictures, start=1):
        text = captioner(read_picture(path))
        target = layout.captions.get(path, path.with_suffix(".txt"))
        if text:
            with write_atomically(target) as temporary:
                temporary.write_text(text + "\n", "utf-8")
            written.append(target)
        else:
            silent.append(path.name)
        if on_picture is not None:
            on_picture(number, len(pictures), path.name)
    return written, silent
