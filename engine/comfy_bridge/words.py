"""Using what was learned: LoRAs onto MODEL and CLIP, words into CLIP, both into other tools' files."""

import copy
import filecmp
import hashlib
import logging
import re
import shutil
import uuid
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import comfy.sd1_clip
import safetensors.torch
import torch

from ..artifact import Artifact, export_stock
from ..artifact.concept_file import lora_layer
from ..artifact.flux2_lora import core_name, for_core
from ..artifact.lora import RANK_BY_NOISE
from ..bases.families import FAMILIES
from ..bases.text.krea2 import KREA2_BEFORE
from ..bases.text.prompt_weights import weighted
from ..bases.text.qwen import MARKS
from ..bases.text.token_tables import diff_patch
from ..config import TOKEN, finite
from ..errors import LikenessError
from ..files import write_atomically
from .folders import inside, temporary_folder
from .weights import check_kind, text_towers_of

log = logging.getLogger(__name__)

_WHOLE_RANK = (
    "%s was learned with fewer ranks where there is more noise; here all of them count at every step: lower "
    "the strength where pictures look overdone"
)


def apply(
    model: Any, clip: Any, artifact: Artifact, strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP that carry the artifact: its LoRA in the weights, its words in the prompts."""
    if artifact.kind not in ("lora", "embedding"):
        nodes = {"staged_embedding": "Staged Prompt", "id_adapter": "Face Identity from Images"}
        node = nodes[artifact.kind]
        raise LikenessError(f"a {artifact.kind} cannot be applied to a model; use the node '{node}'")
    finite({"strength in the model": strength_model, "strength in the text encoder": strength_clip})
    check_kind(model, artifact.base_family, "this likeness")
    _check_clip(clip, artifact)
    lora = artifact.lora()
    if lora:
        _check_layers(model, clip, lora)
        if RANK_BY_NOISE in artifact.extra:
            log.warning(_WHOLE_RANK, ", ".join(token.token for token in artifact.tokens))
        lora = for_core(lora)
        model, clip = comfy.sd.load_lora_for_models(model, clip, lora, strength_model, strength_clip)
    return model, _with_words(_with_tables(clip, artifact, strength_clip), artifact)


def _check_clip(clip: Any, artifact: Artifact) -> None:
    """Raises unless CLIP has the text encoders that the artifact's words were learned for."""
    rows = {name: table for token in artifact.tokens for name, table in artifact.rows(token.token).items()}
    if not rows and not artifact.tables():
        return
    if clip is None:
        raise LikenessError(
            "there is no CLIP to teach the learned words to: this checkpoint holds none; load one with Load "
            "CLIP and connect it"
        )
    towers = text_towers_of(clip)
    needed = set(FAMILIES[artifact.base_family].encoders)
    if set(towers) != needed:
        raise LikenessError(
            f"this likeness has words for {' and '.join(sorted(needed))}, but the CLIP has "
            f"{' and '.join(sorted(towers)) or 'none of them'}; connect the CLIP of its kind of model"
        )
    for name, table in rows.items():
        width = towers[name].transformer.get_input_embeddings().weight.shape[1]
        if table.shape[-1] != width:
            raise LikenessError(
                f"this likeness has words {table.shape[-1]} wide, but this CLIP's are {width}; connect the "
                "CLIP of the model it was learned on"
            )


def _check_layers(model: Any, clip: Any, lora: Mapping[str, torch.Tensor]) -> None:
    """Raises where ComfyUI would leave a part of the LoRA out: it only says so in its log."""
    layers = comfy.lora.model_lora_keys_unet(model.model, {})
    if clip is not None:
        layers = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, layers)
    names = {core_name(lora_layer(name)[0]) for name in lora}
    of_text = ("lora_te", "text_encoders.")
    strange = sorted(n for n in names - layers.keys() if clip is not None or not n.startswith(of_text))
    if strange:
        more = f" and {len(strange) - 1} more" if strange[1:] else ""
        raise LikenessError(
            f"this likeness changes {strange[0]}{more}, which MODEL and CLIP do not have; connect those that "
            "it was learned on"
        )


def _with_tables(clip: Any, artifact: Artifact, strength: float) -> Any:
    """A clone of CLIP whose words moved as far as training moved them, where it moved all of them."""
    tables = artifact.tables()
    if not tables:
        return clip
    clip = clip.clone()
    weights = clip.cond_stage_model.state_dict()
    for encoder, table in tables.items():
        transformer = getattr(clip.cond_stage_model, encoder).transformer
        table_module = transformer.get_input_embeddings()
        path = next(path for path, module in transformer.named_modules() if module is table_module)
        key = f"{encoder}.transformer.{path}.weight"
        clip.add_patches({key: diff_patch(table, weights[key], encoder)}, strength)
    return clip


def _with_words(clip: Any, artifact: Artifact) -> Any:
    """A clone of CLIP to whose stock text nodes `<v0>` and `embedding:v0` both mean the learned vectors.

    The vectors go through ComfyUI's own embedding files, so that the exported file gives the same picture.
    """
    return with_rows(clip, {token.token: artifact.rows(token.token) for token in artifact.tokens})


def with_rows(clip: Any, rows: Mapping[str, Mapping[str, torch.Tensor]]) -> Any:
    """A clone of CLIP in whose prompts these placeholders stand for vectors (n, D), by text encoder."""
    names = {token: _shelve(token, vectors) for token, vectors in rows.items() if vectors}
    if not names:
        return clip
    clip = clip.clone()
    clip.tokenizer = copy.copy(clip.tokenizer)
    for attribute, inner in list(vars(clip.tokenizer).items()):
        if isinstance(inner, comfy.sd1_clip.SDTokenizer):
            setattr(clip.tokenizer, attribute, _tokenizer_with_words(inner, names))
    return clip


class Shelved(str):
    """The name of an embedding file, as `embedding:` takes it; it goes with the last CLIP that knows it."""

    def __copy__(self) -> "Shelved":
        return self

    def __deepcopy__(self, _memo: Any) -> "Shelved":
        return self


# the names that some CLIP still knows: a file that is shelved again must not go with the first of its names
_SHELVED: "weakref.WeakValueDictionary[str, Shelved]" = weakref.WeakValueDictionary()


def _shelve(token: str, vectors: Mapping[str, torch.Tensor]) -> Shelved:
    """Writes an embedding file under a name of its own; the name, as `embedding:` takes it."""
    plain = {encoder: rows.detach().cpu().contiguous().clone() for encoder, rows in vectors.items()}
    data = safetensors.torch.save(plain)
    name = f"{hashlib.sha256(data).hexdigest()[:16]}/{token.strip('<>')}"
    path = temporary_folder("embeddings") / f"{name}.safetensors"
    shelved = _SHELVED.get(name)
    if shelved is None:
        shelved = _SHELVED[name] = Shelved(name)
        weakref.finalize(shelved, _removed, path)
    if not path.exists():
        with write_atomically(path) as unfinished:
            unfinished.write_bytes(data)
    return shelved


def _removed(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
        path.parent.rmdir()


def _tokenizer_with_words(tokenizer: Any, names: Mapping[str, str]) -> Any:
    """A copy of one text encoder's tokenizer that spells placeholders as embedding names before it reads."""
    earlier = getattr(tokenizer, "likeness_names", {})
    for token in names:
        if earlier.get(token, names[token]) != names[token]:
            raise LikenessError(f"two likenesses use the placeholder {token}; give one another trigger word")
    defined = {**earlier, **names}
    reader = copy.copy(tokenizer)
    folders = tokenizer.embedding_directory or []
    folder = str(temporary_folder("embeddings"))
    reader.embedding_directory = [folder, *([folders] if isinstance(folders, str) else folders)]
    reader.likeness_names = defined
    stock = type(tokenizer).tokenize_with_weights

    def tokenize_with_weights(text: str, *arguments: Any, **options: Any) -> Any:
        check_placeholders_differ(text, defined, MARKS)
        spelt = re.sub(r"(?<=\s) (?=embedding:)", "", spell_placeholders(text, defined))
        return stock(reader, spelt, *arguments, **options)

    reader.tokenize_with_weights = tokenize_with_weights
    return reader


def defined_in(clip: Any) -> dict[str, str]:
    """The placeholders that a CLIP's prompts may use, with the embeddings they stand for."""
    defined: dict[str, str] = {}
    for inner in vars(clip.tokenizer).values():
        defined |= getattr(inner, "likeness_names", {})
    return defined


def check_placeholders_differ(text: str, defined: Collection[str], marks: Collection[str] = ()) -> None:
    """Raises for a placeholder that nobody defined, which would be read as so many letters, and for a weight
    that is no number."""
    weighted(text)
    for name in TOKEN.findall(text):
        if name not in defined and name not in marks:
            there = f"there are {', '.join(defined)}" if defined else "connect the CLIP of Apply Likeness"
            raise LikenessError(f"the prompt '{text}' mentions {name}, which no likeness defines; {there}")


def export_likeness(artifact: Artifact, name: str) -> list[Path]:
    """Writes the LoRA into models/loras and the words into models/embeddings; the paths of both.

    Other files of that name stay: the new ones get a number, both the same.
    A prompt ends an embedding's name at spaces and commas, and reads brackets and colons as weights: in their
    place come underscores.
    """
    inside("loras", name, ".safetensors")  # what some system does not take is refused, as in Save
    staging = temporary_folder("export", uuid.uuid4().hex)
    try:
        files = list(export_stock(artifact, staging, "the LoRA"))
        targets, number = _targets(files, name), 1
        while any(path.exists() and not filecmp.cmp(file, path, False) for file, path in zip(files, targets)):
            number += 1
            targets = _targets(files, f"{name.strip()}-{number}")
        for file, target in zip(files, targets):
            with write_atomically(target) as unfinished:
                shutil.copyfile(file, unfinished)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return targets


def _targets(files: Sequence[Path], name: str) -> list[Path]:
    """Where the files of an export go under this name."""
    targets = []
    for file in files:
        lora = file.stem == "the LoRA"
        alone = lora or sum(other.stem != "the LoRA" for other in files) == 1
        stem = name if alone else f"{name}-{file.stem}"
        if not lora and stem != (stem := re.sub(r"[\s(),:]+", "_", stem)):
            log.warning("prompts reach the embedding as embedding:%s", stem)
        targets.append(inside("loras" if lora else "embeddings", stem, file.suffix))
    return targets


def text_pieces(clip: Any, text: str) -> list[Any]:
    """The token ids, or vectors in the place of some, that the first encoder reads, chunk after chunk."""
    chunks = next(iter(clip.tokenize(text).values()))  # SDXL's two stand at the same places
    return [piece for chunk in chunks for piece, *_ in chunk][asked_before(clip) :]


def asked_before(clip: Any) -> int:
    """Tokens before a prompt whose states nobody reads, which ComfyUI cuts off."""
    template = getattr(clip.tokenizer, "llama_template", "")
    if not isinstance(template, str) or not template.startswith(KREA2_BEFORE):
        return 0
    tower = next(iter(FAMILIES["krea2"].encoders))
    reader = getattr(clip.tokenizer, tower, None)
    return 0 if reader is None else len(reader.tokenizer(KREA2_BEFORE)["input_ids"])


def word_pieces(clip: Any, word: str) -> list[Any]:
    """Those of a word alone, without what the encoder's marks put before and behind every text."""
    spelled, empty = text_pieces(clip, word), text_pieces(clip, "")
    vectors = [piece for piece in spelled if torch.is_tensor(piece)]
    if vectors:
        return vectors
    front = next(at for at, piece in enumerate(spelled) if piece != empty[at])
    return spelled[front : spelled.index(empty[front], front)]


def spell_placeholders(text: str, names: Mapping[str, str]) -> str:
    """`<v0> man` and `embedding:v0 man` become ` embedding:<our file>  man`, spaced as ComfyUI wants it."""
    for token, name in names.items():
        word = re.escape(token.strip("<>"))
        text = re.sub(rf"(?<![\w/])embedding:{word}(?![\w/.-])|<{word}>", f" embedding:{name} ", text)
    return text
