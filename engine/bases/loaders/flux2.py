"""FLUX.2 Klein out of a diffusers folder, or out of the single files that people keep: transformer, text
encoder and VAE each in one, under Black Forest Labs', ComfyUI's or diffusers' names.

Weights stay in the precision that most of them are stored in, those of layers in fp8 and int8 as they are: in
fp32 a Klein 4B would take 32 GB.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...artifact.flux2_names import FRONTS, for_diffusers, front_of
from ...artifact.inert_folder import check_config, pretrained
from ...config import BaseSpec
from ...errors import LikenessError, first_line
from ..families import FAMILIES, family_of_flux2
from ..stored import keep_stored
from ..text.qwen import LENGTH, PADDING, taps_for
from .checkpoint_file import read_checkpoint_tensors
from .eight_bits import GET, as_kept
from .eight_bits import as_stored as as_stored  # what reads other transformers takes it from here
from .networks import empty, numbers_in
from .tokenizer import find_tokenizer
from .vae import build_kl

log = logging.getLogger(__name__)

_RESOLUTION = 1024  # pixels a side that it was trained with
NEEDED_DIFFUSERS = "0.36"
_NEEDED_TRANSFORMERS = "4.51"  # for Qwen3
_FOLDERS = ("transformer", "vae", "text_encoder", "tokenizer")
_TEXT_FRONTS = ("text_encoders.qwen3_4b.transformer.", "text_encoders.qwen3_8b.transformer.", "")
_TAKE = "take qwen_3_4b.safetensors for Klein 4B, qwen_3_8b.safetensors for Klein 9B"
_STATES = 3  # of the text encoder, side by side


@dataclass(frozen=True, kw_only=True)
class Flux2Parts:
    """What a FLUX.2 Klein consists of, on the CPU."""

    family: str  # a key of FAMILIES
    transformer: Any  # diffusers' Flux2Transformer2DModel
    vae: Any  # diffusers' AutoencoderKLFlux2; the second Miniature's AutoencoderKL
    text_encoder: Any  # transformers' Qwen3Model, as far as it is read
    taps: tuple[int, ...]  # before which of its layers
    tokenizer: Any
    resolution: int = _RESOLUTION
    length: int = LENGTH  # tokens that it reads of a prompt, with the marks of the chat
    distilled: bool | None = None  # to few steps, where the files say


def flux2_classes() -> tuple[Any, Any]:
    """diffusers' Flux2Transformer2DModel and AutoencoderKLFlux2; raises where it is too old to have them."""
    import diffusers

    try:
        from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    except ImportError as error:
        raise LikenessError(
            f"FLUX.2 needs diffusers {NEEDED_DIFFUSERS} or newer, and this is {diffusers.__version__}: run "
            "`pip install -U diffusers`"
        ) from error
    _check_transformers()
    return Flux2Transformer2DModel, AutoencoderKLFlux2


def _check_transformers() -> None:
    import transformers

    try:
        from transformers import Qwen3Model  # noqa: F401
    except ImportError as error:
        raise LikenessError(
            f"FLUX.2 needs transformers {_NEEDED_TRANSFORMERS} or newer, and this is "
            f"{transformers.__version__}: run `pip install -U transformers`"
        ) from error


# --------------------------------------------------------------------------------------------------- networks


def build_transformer(where: object, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Any:
    """The transformer around tensors under any names; `config` is what shapes do not tell."""
    kind, _ = flux2_classes()

    def build() -> Any:
        kept, most = as_kept(where, state)
        weights = for_diffusers(kept)
        if "time_guidance_embed.guidance_embedder.linear_1.weight" in weights:
            raise _dev(where)
        network = empty(kind, {**_transformer_config(weights), **config})
        network.load_state_dict(keep_stored(network, weights, most), assign=True)
        return network.eval()

    return built_whole(where, "FLUX.2 transformer", build)


def _transformer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = state["x_embedder.weight"].shape
    head = state["single_transformer_blocks.0.attn.norm_q.weight"].shape[0]
    return {
        "in_channels": channels,
        "num_layers": len(numbers_in(state, "transformer_blocks.")),
        "num_single_layers": len(numbers_in(state, "single_transformer_blocks.")),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": state["context_embedder.weight"].shape[1],
        "timestep_guidance_channels": state["time_guidance_embed.timestep_embedder.linear_1.weight"].shape[1],
        "mlp_ratio": state["transformer_blocks.0.ff.linear_out.weight"].shape[1] / width,
        "axes_dims_rope": [head // 4] * 4,
        "guidance_embeds": False,
    }


def build_text(
    where: object, state: Mapping[str, Tensor], taps: tuple[int, ...] | None = None,
    reader: str = "FLUX.2 Klein", take: str = _TAKE, theta: float = 1e6,
) -> Any:  # fmt: skip
    """Qwen3 around tensors in transformers' names (`model.layers…`), as far as its taps; sizes by shapes.
    `reader`: the base that reads prompts with it, and which file it should `take`; `theta`: of its RoPE."""
    from transformers import Qwen3Config, Qwen3Model

    def build() -> Any:
        kept, most = as_kept(where, state)
        weights = {key.removeprefix("model."): value for key, value in kept.items()}
        words, width = weights["embed_tokens.weight"].shape
        head = weights["layers.0.self_attn.q_norm.weight"].shape[0]
        stored = len(numbers_in(weights, "layers."))
        read = max(taps or taps_for(stored))
        if stored < max(read, 4):
            raise LikenessError(f"{where} is a text encoder of {stored} layers, too few for {reader}; {GET}")
        rope: Any = {"rope_theta": theta}  # newer transformers name it otherwise, and still take it so
        config = Qwen3Config(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=weights["layers.0.mlp.gate_proj.weight"].shape[0],
            num_hidden_layers=read,
            num_attention_heads=weights["layers.0.self_attn.q_proj.weight"].shape[0] // head,
            num_key_value_heads=weights["layers.0.self_attn.k_proj.weight"].shape[0] // head,
            head_dim=head,
            rms_norm_eps=1e-6,
            **rope,
        )
        with torch.random.fork_rng(devices=[]):
            network = Qwen3Model(config)
        unheard = tuple(f"layers.{number}." for number in range(read, stored))
        heard = {key: value for key, value in weights.items() if not key.startswith(unheard)}
        network.load_state_dict(keep_stored(network, heard, most), assign=True)
        return network.eval()

    if not any(key.endswith("layers.0.self_attn.q_norm.weight") for key in state):
        raise LikenessError(f"{where} holds no Qwen3, which {reader} reads prompts with; {take}")
    return built_whole(where, "Qwen3 text encoder", build)


def build_flux2_vae(where: object, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Any:
    """FLUX.2's autoencoder in fp32, around tensors in LDM's, Black Forest Labs' or diffusers' names."""
    _, kind = flux2_classes()

    def build() -> Any:
        weights = {_vae_name(key): value for key, value in state.items()}
        network = build_kl(kind, weights, {"sample_size": _RESOLUTION, **config})
        network.bn.num_batches_tracked = torch.zeros((), dtype=torch.long)
        return network.eval()

    if "bn.running_mean" not in state:
        raise LikenessError(
            f"{where} is not FLUX.2's VAE (it has no statistics of its latents); take flux2-vae.safetensors"
        )
    return built_whole(where, "FLUX.2 VAE", build)


def _vae_name(key: str) -> str:
    return key.replace("encoder.quant_conv.", "quant_conv.").replace(
        "decoder.post_quant_conv.", "post_quant_conv."
    )


def assembled(
    where: object, transformer: Any, vae: Any, text_encoder: Any, tokenizer: Any,
    taps: tuple[int, ...], **more: Any,
) -> Flux2Parts:  # fmt: skip
    """The parts together, once it is known that they belong so."""
    wide, reads = text_encoder.config.hidden_size, transformer.config.joint_attention_dim
    if reads != _STATES * wide:
        raise LikenessError(
            f"this text encoder's states are {wide} wide, but {where} reads three of {reads // _STATES}: "
            "Klein 4B takes Qwen3-4B (qwen_3_4b.safetensors), Klein 9B Qwen3-8B (qwen_3_8b.safetensors)"
        )
    packed = 4 * vae.config.latent_channels
    if packed != transformer.config.in_channels:
        raise LikenessError(
            f"this VAE makes latents of {packed} channels, but {where} reads "
            f"{transformer.config.in_channels}; take flux2-vae.safetensors"
        )
    if len(tokenizer) > text_encoder.config.vocab_size or tokenizer.convert_tokens_to_ids(PADDING) is None:
        raise LikenessError(
            f"the tokenizer knows {len(tokenizer)} words, the text encoder {text_encoder.config.vocab_size}; "
            "give the text encoder's own tokenizer"
        )
    family = family_of_flux2(wide).key
    return Flux2Parts(
        family=family, transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer,
        taps=taps, **more,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- folder


def is_flux2_folder(path: Path) -> bool:
    """Whether a diffusers folder says that its transformer is FLUX.2's."""
    return config_told(path / "transformer" / "config.json").get("_class_name") == "Flux2Transformer2DModel"


def read_flux2_folder(path: Path) -> Flux2Parts:
    """A diffusers folder; nothing is downloaded."""
    for name in _FOLDERS:
        if not (path / name).is_dir():
            raise LikenessError(
                f"{path} has no {name} folder, which a FLUX.2 model needs; get the whole model"
            )
    read = {name: config_told(path / name / "config.json") for name in _FOLDERS}
    refuse_quantised(path, read)
    for name in _FOLDERS:
        check_config(path / name / "config.json")
    if read["transformer"].get("guidance_embeds") or read["text_encoder"].get("model_type") != "qwen3":
        raise _dev(path)
    text = folder_tensors(path / "text_encoder")
    encoder = build_text(path / "text_encoder", text)
    return assembled(
        path,
        build_transformer(path / "transformer", folder_tensors(path / "transformer"), read["transformer"]),
        build_flux2_vae(path / "vae", folder_tensors(path / "vae"), read["vae"]),
        encoder,
        qwen_tokenizer(path / "tokenizer"),
        taps_for(read["text_encoder"].get("num_hidden_layers", 0) or encoder.config.num_hidden_layers),
        resolution=read["vae"].get("sample_size", _RESOLUTION),
        distilled=config_told(path / "model_index.json").get("is_distilled"),
    )


def refuse_quantised(path: Path, read: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises for a part of a folder whose config says that its weights are packed."""
    for name in ("transformer", "text_encoder"):
        if "quantization_config" in read[name]:
            scheme = read[name]["quantization_config"]
            method = scheme.get("quant_method", "unknown") if isinstance(scheme, dict) else scheme
            raise LikenessError(f"{path / name} is quantised by {method} and cannot be learned on; {GET}")


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    full = [file for file in files if ".fp16" not in file.name] or files
    if not full:
        raise LikenessError(f"{folder} holds no .safetensors; get that folder again")
    return {key: value for file in full for key, value in read_checkpoint_tensors(file).tensors.items()}


def config_told(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise LikenessError(f"{path} cannot be read ({first_line(error)}); get it again") from error
    return content if isinstance(content, dict) else {}


# ----------------------------------------------------------------------------------------------- single files


def read_flux2_file(path: Path, state: Mapping[str, Tensor], spec: BaseSpec) -> Flux2Parts:
    """A transformer's file with, where they are not in it too, the text encoder, VAE and tokenizer that the
    spec names."""
    front = front_of(state)
    assert front is not None
    rest = FRONTS[1] if front else ""  # then other parts may lie beside it
    weights = {key.removeprefix(front): value for key, value in state.items() if key.startswith(front)}
    transformer = build_transformer(path, weights, {})
    text_path, text = named_part(
        path, state, spec.clip, _TEXT_FRONTS[:2] if rest else (), "text encoder", "--clip",
        "qwen_3_4b.safetensors for Klein 4B; ComfyUI keeps it in models/text_encoders",
    )  # fmt: skip
    vae_path, vae = named_part(
        path, state, spec.vae, ("vae.",) if rest else (), "VAE", "--vae",
        "flux2-vae.safetensors; ComfyUI keeps it in models/vae",
    )  # fmt: skip
    stored = len(numbers_in({key.removeprefix("model."): None for key in text}, "layers."))  # type: ignore[arg-type]
    words = find_tokenizer(path, spec.tokenizer, "Qwen's", "text_encoders/qwen25_tokenizer")
    return assembled(
        path, transformer, build_flux2_vae(vae_path, vae, {}), build_text(text_path, text),
        qwen_tokenizer(words), taps_for(stored),
    )  # fmt: skip


def named_part(
    path: Path, state: Mapping[str, Tensor], named: str | None, fronts: tuple[str, ...], what: str,
    option: str, where: str,
) -> tuple[Path, dict[str, Tensor]]:  # fmt: skip
    """A part's tensors and the file they are from: the one named, or the transformer's own."""
    if named is not None:
        place = Path(os.path.expanduser(named))
        if place.is_dir():
            inner = place / what.replace(" ", "_").lower()
            return place, folder_tensors(inner if inner.is_dir() else place)
        if not place.is_file():
            raise LikenessError(f"there is no {what} at {place}; give {where}")
        return place, read_checkpoint_tensors(place).tensors
    for front in fronts:
        weights = {key.removeprefix(front): value for key, value in state.items() if key.startswith(front)}
        if weights:
            return path, weights
    raise LikenessError(f"{path} holds no {what}; name one with {option}: {where}")


def qwen_tokenizer(folder: Path) -> Any:
    """Qwen's, out of a folder."""
    from transformers import Qwen2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    return pretrained(Qwen2TokenizerFast, folder)


def built_whole(where: object, what: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        raise LikenessError(f"{where} is no whole {what} ({first_line(error)}); get it again") from error


def _dev(where: object) -> LikenessError:
    names = " or ".join(
        row.name for row in FAMILIES.values() if row.denoiser == "flux2" and not row.own_world
    )
    return LikenessError(
        f"{where} is FLUX.2 dev or another FLUX.2 than Klein, which cannot be learned on yet; choose {names}"
    )
