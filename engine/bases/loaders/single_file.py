"""Reads single-file checkpoints of SD 1.x, SD 2.x and SDXL: sizes from shapes, names by diffusers."""

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...artifact.inert_folder import pretrained
from ...config import BaseSpec, from_yaml
from ...errors import LikenessError
from ...files import read_text, reading
from ..families import FAMILIES, family_of_unet
from ..process.ddpm import SD_SCHEDULE, noise_schedule
from ..stored import EIGHT_BITS, keep_stored
from ..text.clip_weights import load_text
from .checkpoint_file import UNET, Stored, check_checkpoint_kind, read_checkpoint_tensors
from .folder import Parts, checked_prediction, read_text_folder
from .networks import empty, in_full, numbers_in
from .tokenizer import find_tokenizer
from .vae import read_vae

log = logging.getLogger(__name__)

SD1_HEADS = 8  # of every attention layer of the U-Net
_HEAD_WIDTH = 64  # of the attention layers of SD 2.x, SDXL and all text encoders
TIME_WIDTH = 256  # of each of SDXL's six size numbers
VELOCITY_SPREAD = 0.09  # of one bias; SD 2.x models that predict velocity have more (as ComfyUI tells them)
SPREAD_KEY = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SCALE = ".weight_scale"
_SPOKEN = {"v": "v_prediction", "velocity": "v_prediction", "eps": "epsilon", "noise": "epsilon"}
CLIP_ON_THE_HUB = "openai/clip-vit-large-patch14"


def read_single_file(path: Path, spec: BaseSpec, stored: Stored) -> Parts:
    """The networks of a checkpoint's tensors; what it lacks is taken from where the spec says."""
    state = stored.tensors
    check_checkpoint_kind(path, state)
    family = family_of_checkpoint(state)
    prediction = spec.prediction or _prediction(path, stored, family)
    side = trained_side(family, prediction)
    try:
        unet = build_unet(state, side, heads_of(state, family))
        vae = read_vae(path, state, family, spec.vae)
        encoders, tokenizers = _text(path, state, family, spec)
    except (RuntimeError, KeyError, IndexError, ValueError, StopIteration) as error:
        reason = (str(error).strip() or "parts are missing").splitlines()[0]
        name = FAMILIES[family].name
        raise LikenessError(f"{path} is not a whole {name} checkpoint ({reason}); get it again") from error
    zero_snr = "ztsnr" in state
    return Parts(
        family=family,
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers=tokenizers,
        alphas_cumprod=noise_schedule({**SD_SCHEDULE, "rescale_betas_zero_snr": zero_snr}),
        prediction_type=prediction,
    )


def family_of_checkpoint(state: Mapping[str, Tensor]) -> str:
    """The family of an LDM U-Net."""
    proj = next((value for key, value in state.items() if key.endswith("1.proj_in.weight")), None)
    told_sizes = UNET + "label_emb.0.0.weight" in state
    return family_of_unet(told_sizes, proj is not None and proj.ndim == 2).key


def trained_side(family: str, prediction_type: str) -> int:
    """Side of the latents that models of a family were trained with; SD 2.x got larger with the velocity."""
    row = FAMILIES[family]
    velocity = prediction_type == "v_prediction"
    return (row.velocity_sample_size if velocity else None) or row.sample_size


def _prediction(path: Path, stored: Stored, family: str) -> str:
    """What the U-Net predicts: as the file says, or as its numbers tell."""
    stated = stored.metadata.get("modelspec.prediction_type")
    if stated:
        return checked_prediction(_SPOKEN.get(stated, stated), path)
    if "v_pred" in stored.tensors:
        return "v_prediction"
    beside = _told_beside(path)
    if beside:
        log.info("%s predicts %s, as the .yaml beside it says", path.name, beside)
        return checked_prediction(_SPOKEN.get(beside, beside), path.with_suffix(".yaml"))
    bias = stored.tensors.get(SPREAD_KEY)
    if family == "sd2" and bias is not None and bias.float().std(correction=0) > VELOCITY_SPREAD:
        return "v_prediction"
    return "epsilon"


def _told_beside(path: Path) -> str | None:
    """What the model's configuration of the same name says, as A1111 and its relatives want it beside it."""
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        return None
    with reading(beside, "cannot be read as the model's configuration; mend it, or take it away"):
        entry = from_yaml(read_text(beside), beside)
    for name in ("model", "params", "parameterization"):
        entry = entry.get(name) if isinstance(entry, Mapping) else None
    return None if entry is None else str(entry)


# ------------------------------------------------------------------------------------------------------ U-Net


def build_unet(state: Mapping[str, Tensor], side: int, heads: int | list[int]) -> Any:
    """The U-Net out of LDM's names; `side` of its latents and attention `heads` stand in no shape.

    All in fp32, but layers in fp8 and int8 as they are, with scales (out, 1) as `….weight_scale`.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    whole = {key: value for key, value in state.items() if key.startswith(UNET)}
    weights = {key: value for key, value in whole.items() if not key.endswith(_SCALE)}
    # by the tensors themselves: diffusers knows no such names
    scales = {id(weights[key.removesuffix("_scale")]): whole[key] for key in whole.keys() - weights.keys()}
    config = unet_config({key[len(UNET) :]: value for key, value in weights.items()})
    unet = empty(UNet2DConditionModel, {**config, "sample_size": side, "attention_head_dim": heads})
    renamed: dict[str, Tensor] = {}
    for name, weight in convert_ldm_unet_checkpoint(weights, unet.config).items():
        scale = scales.pop(id(weight), None)
        kept = weight.dtype in EIGHT_BITS and weight.ndim == 2
        renamed[name] = weight if kept else weight.float()
        if scale is not None:
            renamed[f"{name}_scale"] = scale
    if scales:
        raise ValueError("scales of layers that a U-Net does not have")
    unet.load_state_dict(keep_stored(unet, renamed, torch.float32), assign=True)
    return unet


def heads_of(state: Mapping[str, Tensor], family: str) -> int | list[int]:
    """Attention heads, under diffusers' name attention_head_dim: of every level, or one number for all."""
    if family == "sd1":
        return SD1_HEADS
    channels, _ = _levels({key.removeprefix(UNET): value for key, value in state.items()})
    return [max(1, width // _HEAD_WIDTH) for width in channels]


def unet_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of diffusers' U-Net class, as far as the shapes of an LDM U-Net's weights tell them."""
    channels, depths = _levels(state)
    context = next(value for key, value in state.items() if key.endswith("attn2.to_k.weight"))
    proj = next(value for key, value in state.items() if key.endswith("1.proj_in.weight"))
    config = {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": _layers(state),
        "cross_attention_dim": context.shape[1],
        "use_linear_projection": proj.ndim == 2,
        **level_config(depths),
    }
    sizes = state.get("label_emb.0.0.weight")
    return config if sizes is None else config | size_config(sizes.shape[1])


def _levels(state: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """Channels and transformer depth of each level, off its first residual block."""
    channels: list[int] = []
    depths: list[int] = []
    fresh = True  # the next residual block begins a level
    for number in range(1, 1 + max(numbers_in(state, "input_blocks."))):
        if f"input_blocks.{number}.0.op.weight" in state:
            fresh = True
        elif fresh:
            channels.append(state[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0])
            depths.append(len(numbers_in(state, f"input_blocks.{number}.1.transformer_blocks.")))
            fresh = False
    return channels, depths


def _layers(state: Mapping[str, Tensor]) -> int:
    """Residual blocks a level: those before the first halving, the first convolution aside."""
    halvings = [n for n in numbers_in(state, "input_blocks.") if f"input_blocks.{n}.0.op.weight" in state]
    return min(halvings, default=1 + max(numbers_in(state, "input_blocks."))) - 1


def level_config(depths: Sequence[int]) -> dict[str, Any]:
    """diffusers' words for levels with so many transformer layers each; 0: without attention."""
    return {
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
    }


def size_config(width: int) -> dict[str, Any]:
    """diffusers' words for a U-Net that reads a pooled text vector and six sizes: `width` numbers in all."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": width,
    }


# ------------------------------------------------------------------------------------------------------- text


def _text(
    path: Path, state: Mapping[str, Tensor], family: str, spec: BaseSpec
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Text encoders and tokenizers by name: the checkpoint's, or those named in their stead."""
    if spec.clip is not None:
        place = Path(os.path.expanduser(spec.clip))
        if place.is_dir():
            return read_text_folder(place, family)
        if not place.is_file():
            raise LikenessError(f"there are no text encoders at {place}; give a checkpoint or a folder")
        path, state = place, read_checkpoint_tensors(place).tensors
    states = {name: _text_state(state, prefixes) for name, prefixes in FAMILIES[family].text_prefixes.items()}
    missing = [name for name, weights in states.items() if not weights]
    if missing:
        raise LikenessError(
            f"{path} holds no text encoder ({', '.join(missing)}), without which prompts mean nothing; name "
            f"one with the base's 'clip' (--clip): another {FAMILIES[family].name} checkpoint or a diffusers "
            "folder"
        )
    words = _tokenizer(path, spec.tokenizer)
    encoders = {name: build_text_encoder(family, name, weights, words) for name, weights in states.items()}
    return encoders, {name: padded(words, name) for name in states}


def _text_state(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    for prefix in prefixes:
        tower = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if tower:
            return tower
    return {}


def _tokenizer(path: Path, named: str | None) -> Any:
    """CLIP's, which the hub's local cache may hold too."""
    from huggingface_hub import try_to_load_from_cache
    from transformers import CLIPTokenizer

    cached = try_to_load_from_cache(CLIP_ON_THE_HUB, "vocab.json")
    others = [Path(cached).parent] if isinstance(cached, str) else []
    return pretrained(CLIPTokenizer, find_tokenizer(path, named, "CLIP's", "sd1_tokenizer", others))


def padded(tokenizer: Any, encoder: str) -> Any:
    """A copy of the tokenizer that fills prompts up as this encoder was trained: CLIP-L by its end."""
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = padding.eos_token if encoder == "clip_l" else padding.convert_ids_to_tokens(0)
    return padding


def build_text_encoder(
    family: str, name: str, state: Mapping[str, Tensor], tokenizer: Any, heads: int | None = None
) -> Any:
    """A text encoder out of OpenAI's, transformers' or OpenCLIP's names; `heads` stand in no shape."""
    if any(key.startswith(OPEN_CLIP) for key in state):
        state = from_open_clip(state)
    weights = {key.removeprefix("text_model."): value for key, value in state.items()
               if not key.endswith(("position_ids", "logit_scale"))}  # fmt: skip
    stored = 1 + max(numbers_in(weights, "encoder.layers."))
    layers = stored - FAMILIES[family].unheard_layers
    unheard = tuple(f"encoder.layers.{number}." for number in range(layers, stored))
    weights = {key: value for key, value in weights.items() if not key.startswith(unheard)}
    vocabulary, width = weights["embeddings.token_embedding.weight"].shape
    if len(tokenizer) != vocabulary:
        raise LikenessError(
            f"the tokenizer knows {len(tokenizer)} words, the checkpoint {vocabulary}; give its own tokenizer"
        )
    if name == "clip_g":
        projection = weights["text_projection.weight"].shape[0]
    else:
        weights = {key: value for key, value in weights.items() if not key.startswith("text_projection")}
        projection = width
    with torch.random.fork_rng(devices=[]):
        encoder = new_text_encoder(
            name,
            tokenizer,
            words=vocabulary,
            width=width,
            inner=weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
            layers=layers,
            heads=heads or max(1, width // _HEAD_WIDTH),
            positions=weights["embeddings.position_embedding.weight"].shape[0],
            projection=projection,
        )
    load_text(encoder, in_full(weights))
    return encoder


def new_text_encoder(
    name: str, tokenizer: Any, *, words: int, width: int, inner: int, layers: int, heads: int,
    positions: int = 77, projection: int | None = None,
) -> Any:  # fmt: skip
    """A text encoder of these sizes with random weights: OpenAI's, or OpenCLIP's, pooled for SDXL."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        hidden_act="quick_gelu" if name == "clip_l" else "gelu",
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if name == "clip_l" else 0,
    )
    return (CLIPTextModelWithProjection if name == "clip_g" else CLIPTextModel)(config)


OPEN_CLIP = "transformer.resblocks."  # what its layers' names begin with


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An OpenCLIP text tower under transformers' names."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    tower = {key: value for key, value in state.items() if key != "text_projection"}
    width = SimpleNamespace(hidden_size=state["positional_embedding"].shape[1])
    converted = convert_open_clip_checkpoint(SimpleNamespace(config=width), tower, prefix="")
    if "text_projection" in state:  # diffusers would take the width from it
        converted["text_projection.weight"] = state["text_projection"].T.contiguous()
    return converted
