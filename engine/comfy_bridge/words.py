"""Using what was learned: LoRAs onto MODEL and CLIP, words into CLIP, both into other tools' files."""

import copy
import hashlib
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.sd1_clip
import safetensors.torch
import torch

from ..artifact import Artifact, export_stock
from ..bases.text.token_tables import diff_patch
from ..errors import LikenessError
from ..files import write_atomically
from .folders import inside, temporary_folder
from .weights import known_family


def apply(
    model: Any, clip: Any, artifact: Artifact, strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP that carry the artifact: its LoRA in the weights, its words in the prompts."""
    if artifact.kind not in ("lora", "embedding"):
        nodes = {"staged_embedding": "Write a Staged Prompt", "id_adapter": "Read an Identity from Pictures"}
        node = nodes[artifact.kind]
        raise LikenessError(f"a {artifact.kind} cannot be applied to a model; use the node '{node}'")
    family = known_family(model, artifact.base_family)
    if family != artifact.base_family:
        raise LikenessError(
            f"this likeness was learned on {artifact.base_family}, but the MODEL is {family}; "
            "connect a model of its kind"
        )
    lora = artifact.lora()
    if lora:
        model, clip = comfy.sd.load_lora_for_models(model, clip, lora, strength_model, strength_clip)
    return model, _with_words(_with_tables(clip, artifact, strength_clip), artifact)


def _with_tables(clip: Any, artifact: Artifact, strength: float) -> Any:
    """A clone of CLIP whose words moved as far as training moved them, where it moved all of them."""
    tables = artifact.tables()
    if not tables:
        return clip
    clip = clip.clone()
    own = clip.cond_stage_model.state_dict()
    for encoder, table in tables.items():
        key = f"{encoder}.transformer.text_model.embeddings.token_embedding.weight"
        clip.add_patches({key: diff_patch(table, own[key], encoder)}, strength)
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


def _shelve(token: str, vectors: Mapping[str, torch.Tensor]) -> str:
    """Writes an embedding file under a name of its own; the name, as `embedding:` takes it."""
    plain = {encoder: rows.detach().cpu().contiguous().clone() for encoder, rows in vectors.items()}
    data = safetensors.torch.save(plain)
    name = f"{hashlib.sha256(data).hexdigest()[:16]}/{token.strip('<>')}"
    path = temporary_folder("embeddings") / f"{name}.safetensors"
    if not path.exists():
        with write_atomically(path) as unfinished:
            unfinished.write_bytes(data)
    return name


def _tokenizer_with_words(tokenizer: Any, names: Mapping[str, str]) -> Any:
    """A copy of one text encoder's tokenizer that spells placeholders as embedding names before it reads."""
    earlier = getattr(tokenizer, "likeness_names", {})
    for token in names:
        if earlier.get(token, names[token]) != names[token]:
            raise LikenessError(f"two likenesses use the placeholder {token}; learn one of them as another")
    known = {**earlier, **names}
    reader = copy.copy(tokenizer)
    folders = tokenizer.embedding_directory or []
    own = str(temporary_folder("embeddings"))
    reader.embedding_directory = [own, *([folders] if isinstance(folders, str) else folders)]
    reader.likeness_names = known
    stock = type(tokenizer).tokenize_with_weights

    def tokenize_with_weights(text: str, *arguments: Any, **options: Any) -> Any:
        return stock(reader, spell_placeholders(text, known), *arguments, **options)

    reader.tokenize_with_weights = tokenize_with_weights
    return reader


def export(artifact: Artifact, name: str) -> list[Path]:
    """Writes the LoRA into models/loras and the words into models/embeddings; the paths of both."""
    staging = temporary_folder("export", uuid.uuid4().hex)
    written = []
    try:
        for file in export_stock(artifact, staging, "the LoRA"):
            lora = file.stem == "the LoRA"
            plain = lora or len(artifact.tokens) == 1
            kind, stem = "loras" if lora else "embeddings", name if plain else f"{name}-{file.stem}"
            target = inside(kind, stem, file.suffix)
            with write_atomically(target) as unfinished:
                shutil.copyfile(file, unfinished)
            written.append(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return written


def spell_placeholders(text: str, names: Mapping[str, str]) -> str:
    """`<v0> man` and `embedding:v0 man` become ` embedding:<our file>  man`, spaced as ComfyUI wants it."""
    for token, name in names.items():
        word = re.escape(token.strip("<>"))
        text = re.sub(rf"(?<![\w/])embedding:{word}(?![\w/.-])|<{word}>", f" embedding:{name} ", text)
    return text
