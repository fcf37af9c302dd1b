"""Reads single-file SD 1.x checkpoints (`.safetensors`, `.ckpt`): sizes from shapes, names by diffusers."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import LikenessError

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
OTHERS = {  # a key that gives another family away
    "conditioner.embedders.1.model.ln_final.weight": "an SDXL model",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": "an SDXL model",
    "cond_stage_model.model.ln_final.weight": "an SD 2.x model",
    "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": "an SD 3 model",
    "double_blocks.0.img_attn.qkv.weight": "a FLUX model",
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "a FLUX model",
}
SD1_HEADS = 8  # of every attention layer of the U-Net
SD1_LATENT_SCALE = 0.18215
CLIP_HEAD_WIDTH = 64


class Parts(NamedTuple):
    """What a checkpoint holds, in fp32, and the tokenizer that it does not hold."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any


def read_single_file(path: Path, tokenizer: str | None) -> Parts:
    """The networks of a checkpoint; `tokenizer` is the folder of CLIP's, which such files lack."""
    state = read_state(path)
    for key, family in OTHERS.items():
        if key in state:
            raise unsupported(path, family)
    if not _looks_like_sd1(state):
        raise LikenessError(f"{path} holds no diffusion model that we know; choose an SD 1.x checkpoint")
    words = _read_tokenizer(path, tokenizer)
    try:
        return Parts(_build_unet(state), _build_vae(state), _build_text_encoder(state, words), words)
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LikenessError(f"{path} is not a whole SD 1.x checkpoint ({reason}); get it again") from error


def unsupported(path: Path, what: str) -> LikenessError:
    return LikenessError(f"{path} is {what}, which is not supported yet; choose an SD 1.x model")


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name; pickles are read without running their code."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError,
            AttributeError) as error:  # fmt: skip
        raise LikenessError(
            f"{path} is not a model, or is damaged; choose a .safetensors checkpoint, a diffusers folder or "
            "'miniature'"
        ) from error


def _looks_like_sd1(state: Mapping[str, Tensor]) -> bool:
    needed = (UNET + "input_blocks.0.0.weight", VAE + "quant_conv.weight")
    return all(key in state for key in needed) and any(key.startswith(TEXT) for key in state)


def _read_tokenizer(path: Path, folder: str | None) -> Any:
    from transformers import CLIPTokenizer

    if folder is None:
        raise LikenessError(
            f"{path.name} has no tokenizer in it, as all single-file checkpoints; name the folder of CLIP's "
            "(vocab.json and merges.txt) with the base's 'tokenizer'"
        )
    place = Path(folder).expanduser()
    if not (place / "vocab.json").exists() and not (place / "tokenizer.json").exists():
        raise LikenessError(f"{place} holds no CLIP tokenizer; give the folder with its vocab.json")
    try:
        return CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LikenessError(f"the tokenizer in {place} is damaged; get it again") from error


def _build_unet(state: Mapping[str, Tensor]) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    own = {key: value for key, value in state.items() if key.startswith(UNET)}
    unet: Any = UNet2DConditionModel(**unet_config({key[len(UNET) :]: value for key, value in own.items()}))
    unet.load_state_dict(convert_ldm_unet_checkpoint(own, unet.config))
    return unet.float()


def unet_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of diffusers' U-Net class, read off the shapes of an LDM U-Net's weights."""
    channels: list[int] = []
    crossing: list[bool] = []
    layers = 0
    fresh = True  # the next residual block begins a level
    for number in range(1, 1 + max(_numbers(state, "input_blocks."))):
        if f"input_blocks.{number}.0.op.weight" in state:
            fresh = True
            continue
        if fresh:
            channels.append(state[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0])
            crossing.append(f"input_blocks.{number}.1.proj_in.weight" in state)
            fresh = False
        layers += len(channels) == 1
    context = next(value for key, value in state.items() if key.endswith("attn2.to_k.weight"))
    proj = next(value for key, value in state.items() if key.endswith("1.proj_in.weight"))
    return {
        "sample_size": 64,
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "block_out_channels": tuple(channels),
        "down_block_types": tuple("CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in crossing),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(crossing)
        ),
        "layers_per_block": layers,
        "cross_attention_dim": context.shape[1],
        "attention_head_dim": SD1_HEADS,  # diffusers' name for the number of heads in SD 1.x
        "use_linear_projection": proj.ndim == 2,
    }


def _build_vae(state: Mapping[str, Tensor]) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    own = {key[len(VAE) :]: value for key, value in state.items() if key.startswith(VAE)}
    levels = range(1 + max(_numbers(own, "encoder.down.")))
    channels = tuple(own[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in levels)
    vae: Any = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1 + max(_numbers(own, "encoder.down.0.block.")),
        latent_channels=own["quant_conv.weight"].shape[0] // 2,
        sample_size=64 * 2 ** (len(channels) - 1),
        scaling_factor=SD1_LATENT_SCALE,
    )
    vae.load_state_dict(convert_ldm_vae_checkpoint(own, vae.config))
    return vae.float()


def _build_text_encoder(state: Mapping[str, Tensor], tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    own = {key[len(TEXT) :].removeprefix("text_model."): value for key, value in state.items()
           if key.startswith(TEXT) and not key.endswith("position_ids")}  # fmt: skip
    vocabulary, width = own["embeddings.token_embedding.weight"].shape
    if len(tokenizer) != vocabulary:
        raise LikenessError(
            f"the tokenizer knows {len(tokenizer)} words, the checkpoint {vocabulary}; give its own tokenizer"
        )
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=own["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=1 + max(_numbers(own, "encoder.layers.")),
            num_attention_heads=max(1, width // CLIP_HEAD_WIDTH),
            max_position_embeddings=own["embeddings.position_embedding.weight"].shape[0],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    prefixed = any(key.startswith("text_model.") for key in encoder.state_dict())  # transformers before 5
    encoder.load_state_dict({f"text_model.{key}" if prefixed else key: value for key, value in own.items()})
    return encoder.float()


def _numbers(state: Mapping[str, Tensor], prefix: str) -> set[int]:
    """The numbers that follow a prefix in the keys."""
    return {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
