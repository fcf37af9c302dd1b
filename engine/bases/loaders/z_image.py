"""Z-Image, Turbo and Base, out of a diffusers folder, or out of the single files that people keep:
transformer, text encoder and VAE each in one, under ComfyUI's names or diffusers'.

Weights stay in the precision that most of them are stored in, as FLUX.2's do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...artifact.flux2_names import FRONTS
from ...artifact.inert_folder import check_config
from ...artifact.z_image_names import z_image_for_diffusers, z_image_front
from ...config import BaseSpec
from ...errors import LikenessError
from ..denoisers.z_image import z_image_class
from ..text.qwen import PADDING
from .flux2 import (
    as_stored,
    build_text,
    built_whole,
    config_told,
    folder_tensors,
    named_part,
    qwen_tokenizer,
    refuse_quantised,
)
from .networks import empty, numbers_in
from .tokenizer import find_tokenizer
from .vae import build_kl

_FOLDERS = ("transformer", "vae", "text_encoder", "tokenizer")
_TEXT_FRONTS = ("text_encoders.qwen3_4b.transformer.",)
_RESOLUTION = 1024  # pixels a side that it was trained with
_PATCH = 2 * 2  # latents in a token
_VAE = {"scaling_factor": 0.3611, "shift_factor": 0.1159}  # FLUX.1's, which no shape tells
_READER = "Z-Image"
_TAKE = "take qwen_3_4b.safetensors"
_TAKE_VAE = "take ae.safetensors, FLUX.1's"
_NO_SHAPE = ("rope_theta", "t_scale", "axes_dims", "axes_lens", "norm_eps")


@dataclass(frozen=True, kw_only=True)
class ZImageParts:
    """What a Z-Image consists of, on the CPU."""

    transformer: Any  # diffusers' ZImageTransformer2DModel, with a batched pass
    vae: Any  # diffusers' AutoencoderKL
    text_encoder: Any  # transformers' Qwen3Model, as far as it is read
    taps: tuple[int, ...]  # before which of its layers: the last
    tokenizer: Any
    family: str = "z_image"  # a key of FAMILIES
    resolution: int = _RESOLUTION
    distilled: bool | None = None  # Turbo, which draws in few steps; None: nothing says so


def build_z_image(where: object, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Any:
    """The transformer around tensors under any names; `config` is what shapes do not tell."""
    kind = z_image_class()

    def build() -> Any:
        weights = z_image_for_diffusers(as_stored(where, state))
        network = empty(kind, {**_transformer_config(weights), **config})
        network.load_state_dict(weights, assign=True)
        return network.eval()

    if any(key.startswith("siglip_embedder.") for key in state):
        raise LikenessError(
            f"{where} is Z-Image Omni, which reads pictures too and cannot be learned on yet; choose Z-Image "
            "Base or Turbo"
        )
    return built_whole(where, "Z-Image transformer", build)


def _transformer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    dim, patch = state["all_x_embedder.2-1.weight"].shape
    head = state["layers.0.attention.norm_q.weight"].shape[0]
    return {
        "in_channels": patch // _PATCH,
        "dim": dim,
        "n_layers": len(numbers_in(state, "layers.")),
        "n_refiner_layers": len(numbers_in(state, "noise_refiner.")),
        "n_heads": dim // head,
        "n_kv_heads": dim // head,
        "cap_feat_dim": state["cap_embedder.1.weight"].shape[1],
        "axes_dims": [head // 4, head * 3 // 8, head * 3 // 8],
        "axes_lens": [1536, 512, 512],
    }


def build_z_image_vae(where: object, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Any:
    """FLUX.1's autoencoder in fp32, around tensors in LDM's or diffusers' names."""
    from diffusers import AutoencoderKL

    if "decoder.conv_in.weight" not in state or "bn.running_mean" in state:
        raise LikenessError(f"{where} is not the VAE that Z-Image draws with; {_TAKE_VAE}")
    return built_whole(
        where, "VAE", lambda: build_kl(AutoencoderKL, state, {"sample_size": _RESOLUTION, **_VAE, **config})
    ).eval()


def build_z_image_text(
    where: object, state: Mapping[str, Tensor], layers: int | None = None
) -> tuple[Any, tuple[int, ...]]:
    """Qwen3 as far as before its last layer; `layers`: how many it has, where some were left out."""
    stored = layers or len(numbers_in({key.removeprefix("model."): tensor for key, tensor in state.items()},
                                      "layers."))  # fmt: skip
    return build_text(where, state, (max(1, stored - 1),), _READER, _TAKE), (stored - 1,)


def z_image_parts(
    where: object, transformer: Any, vae: Any, text: tuple[Any, tuple[int, ...]], tokenizer: Any, **more: Any
) -> ZImageParts:
    """The parts together, once it is known that they belong so."""
    text_encoder, taps = text
    wide, reads = text_encoder.config.hidden_size, transformer.config.cap_feat_dim
    if wide != reads:
        raise LikenessError(
            f"this text encoder's states are {wide} wide, but {where} reads {reads}: Z-Image takes Qwen3-4B "
            "(qwen_3_4b.safetensors)"
        )
    if vae.config.latent_channels != transformer.config.in_channels:
        raise LikenessError(
            f"this VAE makes latents of {vae.config.latent_channels} channels, but {where} reads "
            f"{transformer.config.in_channels}; {_TAKE_VAE}"
        )
    if len(tokenizer) > text_encoder.config.vocab_size or tokenizer.convert_tokens_to_ids(PADDING) is None:
        raise LikenessError(
            f"the tokenizer knows {len(tokenizer)} words, the text encoder {text_encoder.config.vocab_size}; "
            "give the text encoder's own tokenizer"
        )
    return ZImageParts(
        transformer=transformer, vae=vae, text_encoder=text_encoder, taps=taps, tokenizer=tokenizer, **more
    )


def is_z_image_folder(path: Path) -> bool:
    """Whether a diffusers folder says that its transformer is Z-Image's."""
    config = config_told(path / "transformer" / "config.json")
    return config.get("_class_name") == "ZImageTransformer2DModel"


def read_z_image_folder(path: Path) -> ZImageParts:
    """A diffusers folder; nothing is downloaded."""
    for name in _FOLDERS:
        if not (path / name).is_dir():
            raise LikenessError(f"{path} has no {name} folder, which Z-Image needs; get the whole model")
    read = {name: config_told(path / name / "config.json") for name in _FOLDERS}
    refuse_quantised(path, read)
    for name in _FOLDERS:
        check_config(path / name / "config.json")
    config = {key: read["transformer"][key] for key in _NO_SHAPE if key in read["transformer"]}
    scales = {key: read["vae"][key] for key in _VAE if key in read["vae"]}
    text = folder_tensors(path / "text_encoder")
    return z_image_parts(
        path,
        build_z_image(path / "transformer", folder_tensors(path / "transformer"), config),
        build_z_image_vae(path / "vae", folder_tensors(path / "vae"), scales),
        build_z_image_text(path / "text_encoder", text, read["text_encoder"].get("num_hidden_layers")),
        qwen_tokenizer(path / "tokenizer"),
        resolution=read["vae"].get("sample_size", _RESOLUTION),
    )


def read_z_image_file(path: Path, state: Mapping[str, Tensor], spec: BaseSpec) -> ZImageParts:
    """A transformer's file with, where they are not in it too, the text encoder, VAE and tokenizer that the
    spec names."""
    front = z_image_front(state)
    assert front is not None
    whole = front == FRONTS[1]  # then other parts may lie beside it
    weights = {key.removeprefix(front): value for key, value in state.items() if key.startswith(front)}
    text_path, text = named_part(
        path, state, spec.clip, _TEXT_FRONTS if whole else (), "text encoder", "--clip",
        "qwen_3_4b.safetensors; ComfyUI keeps it in models/text_encoders",
    )  # fmt: skip
    vae_path, vae = named_part(
        path, state, spec.vae, ("vae.",) if whole else (), "VAE", "--vae",
        "ae.safetensors, FLUX.1's; ComfyUI keeps it in models/vae",
    )  # fmt: skip
    return z_image_parts(
        path,
        build_z_image(path, weights, {}),
        build_z_image_vae(vae_path, vae, {}),
        build_z_image_text(text_path, text),
        qwen_tokenizer(find_tokenizer(path, spec.tokenizer, "Qwen's", "text_encoders/qwen25_tokenizer")),
    )
