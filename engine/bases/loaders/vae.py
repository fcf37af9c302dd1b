"""Autoencoders out of checkpoints, files of their own and folders: Stable Diffusion's, and TAESD."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import LikenessError, first_line
from ..families import FAMILIES
from .checkpoint_file import VAE, read_checkpoint_tensors
from .folder import read_vae_folder
from .networks import empty, in_full, numbers_in

# a half of TAESD in a file of its own is known by what its first layers read, and the pair by these
_ENCODER, DECODER = "taesd_encoder.", "taesd_decoder."
_HALVES = {_ENCODER: ("0.weight", "1.conv.0.weight"), DECODER: ("1.weight", "3.conv.0.weight")}


def read_vae(path: Path, state: Mapping[str, Tensor], family: str, named: str | None) -> Any:
    """A checkpoint's autoencoder, or the one `named` in its stead: a file, half of a pair, or a folder."""
    if named is not None:
        path = Path(os.path.expanduser(named))
        if path.is_dir():
            return read_vae_folder(path / "vae" if (path / "vae").is_dir() else path)
        if not path.is_file():
            raise LikenessError(f"there is no VAE at {path}; give a VAE file, a checkpoint or a folder")
        state = _whole_pair(path, read_checkpoint_tensors(path).tensors)
    fronts = (VAE, "encoder.", "decoder.", "quant_conv.", "post_quant_conv.", _ENCODER, DECODER)
    weights = {key.removeprefix(VAE): value for key, value in state.items() if key.startswith(fronts)}
    if "decoder.up_blocks.0.resnets.0.conv1.weight" in weights:
        raise LikenessError(f"{path} is a VAE in diffusers' layout; give the folder with its config.json")
    whole = "encoder.conv_in.weight" in weights and "quant_conv.weight" in weights
    if not whole and _tiny_state(weights) is None:
        raise LikenessError(
            f"{path} holds no VAE; name one with the base's 'vae' (--vae): a VAE file, another checkpoint or "
            "a diffusers folder"
        )
    try:
        return build_vae(weights, FAMILIES[family].sample_size, FAMILIES[family].latent_scale)
    except (RuntimeError, KeyError, ValueError) as error:
        raise LikenessError(
            f"{path} is no VAE that can be used, or not whole ({first_line(error)}); get it again, or use "
            "the base's own"
        ) from error


def build_vae(weights: Mapping[str, Tensor], side: int, scale: float) -> Any:
    """The autoencoder out of LDM's or TAESD's names, without a prefix; LDM's latents are of this `side` and
    `scale`."""
    from diffusers import AutoencoderKL

    tiny = _tiny_state(weights)
    if tiny is not None:
        return _build_tiny(tiny)
    halvings = max(numbers_in(weights, "encoder.down."))
    return build_kl(AutoencoderKL, weights, {"sample_size": side * 2**halvings, "scaling_factor": scale})


def build_kl(kind: Any, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Any:
    """diffusers' autoencoder `kind` in fp32, around tensors in LDM's names or its own; `config` is what
    shapes do not tell. Raises KeyError for a tensor that is lacking, or that it does not have."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    weights = {key: value for key, value in weights.items() if not key.endswith("batches_tracked")}
    levels = [None] * len(numbers_in(weights, "encoder.down."))
    if levels:
        statistics = {key: value for key, value in weights.items() if key.startswith("bn.")}
        shape = {"down_block_types": levels, "up_block_types": levels}
        weights = {**convert_ldm_vae_checkpoint(weights, shape), **statistics}
    vae = empty(kind, {**_kl_config(weights), **config})
    missing, strange = vae.load_state_dict(in_full(weights), assign=True, strict=False)
    gone = [key for key in missing if not key.endswith("batches_tracked")]
    if gone or strange:
        raise KeyError([*gone, *strange][0])
    return vae


def _kl_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    levels = range(len(numbers_in(weights, "encoder.down_blocks.")))
    down, up = (
        [weights[f"{path}_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in levels]
        for path in ("encoder.down", "decoder.up")
    )
    return {
        "block_out_channels": down,
        **({} if up[::-1] == down else {"decoder_block_out_channels": up[::-1]}),
        "down_block_types": ["DownEncoderBlock2D"] * len(down),
        "up_block_types": ["UpDecoderBlock2D"] * len(up),
        "layers_per_block": len(numbers_in(weights, "encoder.down_blocks.0.resnets.")),
        "latent_channels": weights["decoder.conv_in.weight"].shape[1],
        "use_quant_conv": "quant_conv.weight" in weights,
        "use_post_quant_conv": "post_quant_conv.weight" in weights,
    }


# ------------------------------------------------------------------------------------------------------ TAESD


def is_tiny(weights: Mapping[str, Tensor]) -> bool:
    """Whether an autoencoder's tensors are TAESD's, in ComfyUI's names or in diffusers'."""
    return _tiny_state(weights) is not None


def _tiny_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """TAESD under diffusers' names, whose decoder lacks the clamp at its front; None where it is none."""
    if {"encoder.layers.0.weight", "decoder.layers.0.weight"} <= weights.keys():
        return dict(weights)
    if {f"{_ENCODER}0.weight", f"{DECODER}1.weight"} - weights.keys():
        return None
    renamed = {}
    for key, value in weights.items():
        half, number, rest = key.split(".", 2)
        place = int(number) - (half + "." == DECODER)
        renamed[f"{half.removeprefix('taesd_')}.layers.{place}.{rest}"] = value
    return renamed


def _build_tiny(state: Mapping[str, Tensor]) -> Any:
    """diffusers' AutoencoderTiny, whose latents are those that the U-Net sees: scale 1."""
    from diffusers import AutoencoderTiny

    with torch.device("meta"):
        vae: Any = AutoencoderTiny(latent_channels=state["decoder.layers.0.weight"].shape[1])
    vae.load_state_dict(in_full(state), assign=True)
    return vae.eval()


def _whole_pair(path: Path, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """TAESD's encoder and decoder where a file holds one of them, as its author gives them away."""
    half = next((half for half, signs in _HALVES.items() if all(sign in state for sign in signs)), None)
    if half is None:
        return state
    mine, other = ("encoder", "decoder") if half == _ENCODER else ("decoder", "encoder")
    beside = path.with_name(path.name.replace(mine, other))
    if beside == path or not beside.is_file():
        raise LikenessError(
            f"{path} is the {mine} of a tiny autoencoder (TAESD) alone; put its {other} beside it as "
            f"{path.name.replace(mine, other) if mine in path.name else other + path.suffix}"
        )
    pair = {half: state, DECODER if half == _ENCODER else _ENCODER: read_checkpoint_tensors(beside).tensors}
    return {f"{front}{key}": value for front, tensors in pair.items() for key, value in tensors.items()}
