"""Files that training an identity adapter in the graph needs: shards, an image tower, an adapter before."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.model_management
import comfy.utils
import folder_paths
import safetensors.torch
import torch

from ..artifact import Artifact
from ..bases.families import FAMILIES
from ..data.faces import load_faces
from ..data.segmenters.face_parts import load as load_parser
from ..data.shard_sources import photographs, portraits, reference_folder, rendered
from ..data.shards import INDEX, ShardSample, write_shards
from ..errors import LikenessError
from ..files import state_of, write_atomically
from .folders import folder, input_folder, temporary_folder
from .weights import family_of_model

FIRST_PERSON, _TWINS = 10_000, 2  # of the Miniature's people who are drawn to learn from; their edited faces
EACH = 128  # samples of a shard that is written here


def check_stage(stage: str, steps: int, adapter: Artifact | None) -> None:
    """Raises where there is nothing to go on from, or nothing to share between two stages."""
    if stage == "editing" and adapter is None:
        raise LikenessError(
            "the editing stage goes on from an adapter that knows identity; connect one, or choose both"
        )
    if stage == "both" and 0 < steps < 2:
        raise LikenessError("one step cannot be shared by two stages; give more, or choose one stage")


def files_for(
    model: Any, named: str, people: int, pack: str, adapter: Artifact | None, clip_vision: Any
) -> dict[str, str]:
    """The settings `shards`, `adapter` and `image_encoder`; what is not there yet is written first.

    `named`: a folder of shards, of photographs, or in MasterWeaver's layout; empty: people of the Miniature.
    """
    miniature = FAMILIES[family_of_model(model)].own_world
    if not miniature and clip_vision is None:
        raise LikenessError(
            "an identity adapter looks at faces through a CLIP image tower; connect CLIP ViT-L/14 with Load "
            "CLIP Vision"
        )
    files = {"shards": str(shards_in(named, people, pack, miniature))}
    if not miniature:
        files["image_encoder"] = str(tower_folder(clip_vision))
    if adapter is not None:
        files["adapter"] = str(adapter_file(adapter))
    return files


def shards_in(named: str, people: int, pack: str, miniature: bool) -> Path:
    """The folder's own shards, or those written of its pictures (once, until a file in it changes)."""
    if not named.strip():
        if not miniature:
            raise LikenessError(
                "no folder is named; type the one that holds shards, or photographs of many people"
            )
        drawn = rendered(range(FIRST_PERSON, FIRST_PERSON + people), each=1, twins=_TWINS)
        return _written(f"the Miniature's people, {people}", drawn, people)
    place = input_folder(named)
    if not place.is_dir():
        raise LikenessError(f"there is no folder {place}; type the one that holds shards or photographs")
    if any(place.glob("*.tar")):
        return place
    eyes = "the Miniature's parser" if miniature else pack
    return _written(f"{state_of(place)} {eyes}", _samples(place, pack, miniature))


def _samples(place: Path, pack: str, miniature: bool) -> Iterator[ShardSample]:
    if (place / "images_cropped").is_dir():
        return reference_folder(place)
    if miniature:
        return portraits(place)
    device = str(comfy.model_management.get_torch_device())
    finder = load_faces(pack, Path(folder_paths.models_dir) / "insightface", device)
    return photographs(place, finder, load_parser(folder("likeness"), device).labels)


def _written(what: str, samples: Iterator[ShardSample], count: int | None = None) -> Path:
    """Shards of the samples in ComfyUI's temporary folder, written unless they are there."""
    target = temporary_folder("shards", hashlib.sha256(what.encode()).hexdigest()[:16])
    if not (target / INDEX).exists():
        bar = comfy.utils.ProgressBar(count or 1)

        def show(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, count or done)

        write_shards(target, samples, EACH, show)
    return target


def adapter_file(adapter: Artifact) -> Path:
    """A file with the adapter, whose name says what is in it."""
    path = temporary_folder("adapters") / f"{_digest(adapter.tensors)}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        adapter.save(path)
    return path


def _digest(tensors: Mapping[str, torch.Tensor], described: str = "") -> str:
    """A short name for all of these numbers, and what is told of them."""
    total = hashlib.sha256(described.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def tower_folder(clip_vision: Any) -> Path:
    """A CLIP_VISION as a folder that transformers reads: config.json and weights."""
    state = {name: weight.detach().cpu() for name, weight in clip_vision.get_sd().items()}
    described = json.dumps(_described(clip_vision, state), sort_keys=True)
    place = temporary_folder("image towers", _digest(state, described))
    if not (place / "config.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        with write_atomically(place / "model.safetensors") as unfinished:
            contiguous = {name: weight.contiguous() for name, weight in state.items()}
            safetensors.torch.save_file(contiguous, unfinished, {"format": "pt"})
        with write_atomically(place / "config.json") as unfinished:  # last: with it, the folder is whole
            unfinished.write_text(described)
    return place


def _described(clip_vision: Any, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """transformers' description of a CLIP tower; its sizes are those of its weights."""
    stem, first = "vision_model.embeddings", "vision_model.encoder.layers.0"
    if f"{stem}.class_embedding" not in state or "visual_projection.weight" not in state:
        raise LikenessError("this CLIP_VISION is no CLIP image tower; connect CLIP ViT-L/14")
    layer = clip_vision.model.vision_model.encoder.layers[0]
    kinds = comfy.clip_model.ACTIVATIONS
    width, _, patch, _ = state[f"{stem}.patch_embedding.weight"].shape
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": state[f"{first}.mlp.fc1.weight"].shape[0],
        "projection_dim": state["visual_projection.weight"].shape[0],
        "num_hidden_layers": len({name.split(".")[3] for name in state if ".encoder.layers." in name}),
        "num_attention_heads": layer.self_attn.heads,
        "image_size": clip_vision.image_size,
        "patch_size": patch,
        "hidden_act": next(name for name, function in kinds.items() if layer.mlp.activation is function),
        "layer_norm_eps": 1e-5,
    }
