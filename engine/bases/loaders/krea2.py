"""Krea 2 out of a diffusers folder, or out of the single files that people keep: transformer, text encoder
and VAE each in one, under its makers', ComfyUI's or diffusers' names.

Weights stay in the precision that most of them are stored in, those of layers in 8 bits as they are, but for
norms, which are small and computed in fp32: in fp32 a Krea 2 would take 52 GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...artifact.inert_folder import check_config
from ...artifact.krea2_names import krea2_for_diffusers, krea2_front
from ...config import BaseSpec
from ...errors import LikenessError
from ..stored import keep_stored
from ..text.krea2 import KREA2_TAPS, krea2_taps
from ..text.qwen import LENGTH, PADDING
from .eight_bits import as_kept
from .flux2 import (
    build_text,
    built_whole,
    config_told,
    folder_tensors,
    named_part,
    qwen_tokenizer,
    refuse_quantised,
)
from .networks import empty, in_full, numbers_in
from .tokenizer import find_tokenizer

_RESOLUTION = 1024  # pixels a side that it was trained with
THETA = 5e6  # of the text encoder's RoPE
_NEEDED_DIFFUSERS = "0.39"
_FOLDERS = ("transformer", "vae", "text_encoder", "tokenizer")
_TEXT_FRONTS = ("text_encoders.qwen3vl_4b.transformer.",)
_LANGUAGE = ("model.language_model.", "language_model.", "model.")  # what it is called within Qwen3-VL
_TAKE = "take qwen3vl_4b_bf16.safetensors or qwen3vl_4b_fp8_scaled.safetensors, of Qwen3-VL"
_UNHEARD = ("model.visual.", "visual.", "lm_head.", "model.lm_head.")  # what no prompt passes through


@dataclass(frozen=True, kw_only=True)
class Krea2Parts:
    """What a Krea 2 consists of, on the CPU."""

    transformer: Any  # diffusers' Krea2Transformer2DModel
    vae: Any  # diffusers' AutoencoderKLQwenImage
    text_encoder: Any  # transformers' Qwen3Model: Qwen3-VL without eyes, as far as it is read
    taps: tuple[int, ...]  # before which of its layers
    tokenizer: Any
    resolution: int = _RESOLUTION
    length: int = LENGTH  # tokens that it reads of a prompt, with the marks of the chat behind it
    distilled: bool | None = None  # to few steps, where the files say


def krea2_classes() -> tuple[Any, Any]:
    """diffusers' Krea2Transformer2DModel and AutoencoderKLQwenImage; raises where it is too old for them."""
    import diffusers

    try:
        from diffusers import AutoencoderKLQwenImage, Krea2Transformer2DModel
    except ImportError as error:
        raise LikenessError(
            f"Krea 2 needs diffusers {_NEEDED_DIFFUSERS} or newer, and this is {diffusers.__version__}: run "
            "`pip install -U diffusers`"
        ) from error
    return Krea2Transformer2DModel, AutoencoderKLQwenImage


# --------------------------------------------------------------------------------------------------- networks


def build_krea2_transformer(where: object, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Any:
    """The transformer around tensors under any names; `config` is what shapes do not tell."""
    kind, _ = krea2_classes()

    def build() -> Any:
        kept, most = as_kept(where, state)
        weights = krea2_for_diffusers(kept)
        exact = krea2_for_diffusers({key: state[key] for key in kept if key in state})
        weights |= {key: exact[key].float() for key in weights if "norm" in key}
        network = empty(kind, {**_transformer_config(weights), **config})
        network.load_state_dict(keep_stored(network, weights, most), assign=True)
        return network.eval()

    return built_whole(where, "Krea 2 transformer", build)


def _transformer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    first, fusing = "transformer_blocks.0.", "text_fusion.layerwise_blocks.0."

    def heads(block: str, side: str) -> int:
        return state[f"{block}attn.to_{side}.weight"].shape[0] // len(state[f"{block}attn.norm_q.weight"])

    head = len(state[f"{first}attn.norm_q.weight"])
    side = 6 * (head // 16)
    return {
        "in_channels": state["img_in.weight"].shape[1],
        "num_layers": len(numbers_in(state, "transformer_blocks.")),
        "attention_head_dim": head,
        "num_attention_heads": heads(first, "q"),
        "num_key_value_heads": heads(first, "k"),
        "intermediate_size": len(state[f"{first}ff.gate.weight"]),
        "timestep_embed_dim": state["time_embed.linear_1.weight"].shape[1],
        "text_hidden_dim": len(state["txt_in.norm.weight"]),
        "num_text_layers": state["text_fusion.projector.weight"].shape[1],
        "text_num_attention_heads": heads(fusing, "q"),
        "text_num_key_value_heads": heads(fusing, "k"),
        "text_intermediate_size": len(state[f"{fusing}ff.gate.weight"]),
        "num_layerwise_text_blocks": len(numbers_in(state, "text_fusion.layerwise_blocks.")),
        "num_refiner_text_blocks": len(numbers_in(state, "text_fusion.refiner_blocks.")),
        "axes_dims_rope": [head - 2 * side, side, side],
    }


def build_krea2_text(
    where: object, state: Mapping[str, Tensor], taps: tuple[int, ...] | int, theta: float = THETA
) -> tuple[Any, tuple[int, ...]]:
    """What of Qwen3-VL reads text, around tensors in anybody's names, and where it is read, if `taps` says no
    more than how often; sizes by shapes."""
    front = next((front for front in _LANGUAGE if f"{front}embed_tokens.weight" in state), "")
    weights = {key.removeprefix(front): value for key, value in state.items() if not key.startswith(_UNHEARD)}
    if isinstance(taps, int):
        taps = krea2_taps(len(numbers_in(weights, "layers.")), taps)
    return build_text(where, weights, taps, "Krea 2", _TAKE, theta), taps


def build_krea2_vae(where: object, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Any:
    """Qwen-Image's autoencoder in fp32, around tensors in Wan's or diffusers' names."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    _, kind = krea2_classes()

    def build() -> Any:
        weights = convert_wan_vae_to_diffusers(dict(state)) if theirs else dict(state)
        sizes = {"base_dim": len(weights["decoder.norm_out.gamma"]),
                 "z_dim": len(weights["post_quant_conv.weight"])}  # fmt: skip
        network = empty(kind, {**sizes, **config})
        network.load_state_dict(in_full(weights), assign=True)
        return network.eval()

    theirs = "decoder.middle.0.residual.0.gamma" in state
    if not theirs and "decoder.mid_block.resnets.0.norm1.gamma" not in state:
        raise LikenessError(f"{where} is not Krea 2's VAE; take qwen_image_vae.safetensors")
    return built_whole(where, "Krea 2 VAE", build)


def krea2_assembled(
    where: object, transformer: Any, vae: Any, text: tuple[Any, tuple[int, ...]], tokenizer: Any, **more: Any
) -> Krea2Parts:  # fmt: skip
    """The parts together, once it is known that they belong so."""
    text_encoder, taps = text
    wide, reads = text_encoder.config.hidden_size, transformer.config.text_hidden_dim
    if (wide, len(taps)) != (reads, transformer.config.num_text_layers):
        raise LikenessError(
            f"this text encoder's states are {len(taps)} of {wide} numbers, but {where} reads "
            f"{transformer.config.num_text_layers} of {reads}; Krea 2 takes Qwen3-VL-4B "
            "(qwen3vl_4b_bf16.safetensors)"
        )
    if 4 * vae.config.z_dim != transformer.config.in_channels:
        raise LikenessError(
            f"this VAE makes latents of {vae.config.z_dim} channels, but {where} reads "
            f"{transformer.config.in_channels // 4}; take qwen_image_vae.safetensors"
        )
    if len(tokenizer) > text_encoder.config.vocab_size or tokenizer.convert_tokens_to_ids(PADDING) is None:
        raise LikenessError(
            f"the tokenizer knows {len(tokenizer)} words, the text encoder {text_encoder.config.vocab_size}; "
            "give the text encoder's own tokenizer"
        )
    return Krea2Parts(
        transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, taps=taps, **more
    )


# ----------------------------------------------------------------------------------------------------- folder


def is_krea2_folder(path: Path) -> bool:
    """Whether a diffusers folder says that its transformer is Krea 2's."""
    return config_told(path / "transformer" / "config.json").get("_class_name") == "Krea2Transformer2DModel"


def read_krea2_folder(path: Path) -> Krea2Parts:
    """A diffusers folder; nothing is downloaded."""
    for name in _FOLDERS:
        if not (path / name).is_dir():
            raise LikenessError(
                f"{path} has no {name} folder, which a Krea 2 model needs; get the whole model"
            )
    read = {name: config_told(path / name / "config.json") for name in _FOLDERS}
    refuse_quantised(path, read)
    for name in _FOLDERS:
        check_config(path / name / "config.json")
    index = config_told(path / "model_index.json")
    taps = tuple(index.get("text_encoder_select_layers") or KREA2_TAPS)
    text = read["text_encoder"].get("text_config", read["text_encoder"])
    theta = text.get("rope_theta") or (text.get("rope_parameters") or {}).get("rope_theta", THETA)
    tensors = {name: folder_tensors(path / name) for name in _FOLDERS[:3]}
    return krea2_assembled(
        path,
        build_krea2_transformer(path / "transformer", tensors["transformer"], read["transformer"]),
        build_krea2_vae(path / "vae", tensors["vae"], read["vae"]),
        build_krea2_text(path / "text_encoder", tensors["text_encoder"], taps, float(theta)),
        qwen_tokenizer(path / "tokenizer"),
        distilled=index.get("is_distilled"),
    )


# ----------------------------------------------------------------------------------------------- single files


def read_krea2_file(path: Path, state: Mapping[str, Tensor], spec: BaseSpec) -> Krea2Parts:
    """A transformer's file with, where they are not in it too, the text encoder, VAE and tokenizer that the
    spec names."""
    front = krea2_front(state)
    assert front is not None
    weights = {key.removeprefix(front): value for key, value in state.items() if key.startswith(front)}
    text_path, text = named_part(
        path, state, spec.clip, _TEXT_FRONTS if front else (), "text encoder", "--clip",
        "qwen3vl_4b_bf16.safetensors or qwen3vl_4b_fp8_scaled.safetensors; ComfyUI keeps it in "
        "models/text_encoders",
    )  # fmt: skip
    vae_path, vae = named_part(
        path, state, spec.vae, ("vae.",) if front else (), "VAE", "--vae",
        "qwen_image_vae.safetensors; ComfyUI keeps it in models/vae",
    )  # fmt: skip
    words = find_tokenizer(path, spec.tokenizer, "Qwen's", "text_encoders/qwen25_tokenizer")
    transformer = build_krea2_transformer(path, weights, {})
    return krea2_assembled(
        path, transformer, build_krea2_vae(vae_path, vae, {}),
        build_krea2_text(text_path, text, transformer.config.num_text_layers), qwen_tokenizer(words),
    )  # fmt: skip
