"""MODEL, CLIP and VAE as plain weights under diffusers' names, for training on copies of them."""

import copy
import re
from collections.abc import Mapping
from typing import Any

import comfy.clip_model
import comfy.lora
import comfy.model_sampling
import comfy.supported_models
import comfy.utils
import torch

from ..bases.families import FAMILIES, MINIATURE
from ..bases.loaders.graph_weights import BaseWeights, TextTower
from ..errors import LikenessError
from ..miniature import model as miniature
from .miniature import MiniatureModel

KINDS = {  # ComfyUI's kinds of model that can be learned on
    MiniatureModel: MINIATURE,
    **{getattr(comfy.supported_models, row.comfy_class): row.key
       for row in FAMILIES.values() if row.comfy_class},
}  # fmt: skip
OTHERS = {  # ComfyUI's names for kinds that are close and yet cannot be learned on: what, and why not
    "SDXLRefiner": ("the SDXL refiner", "it only finishes what the SDXL base began; connect the SDXL base"),
    "SD21UnclipL": ("SD 2.x unCLIP", "it expects a picture beside the prompt; connect a plain SD 2.x"),
    "SD21UnclipH": ("SD 2.x unCLIP", "it expects a picture beside the prompt; connect a plain SD 2.x"),
    "SDXL_instructpix2pix": (
        "an editing model",
        "it expects a picture beside the noise; connect SDXL itself",
    ),
    "SD15_instructpix2pix": (
        "an editing model",
        "it expects a picture beside the noise; connect SD 1.5 itself",
    ),
}
KNOWN = "an SD 1.x, SD 2.x or SDXL checkpoint or the Miniature"
SIZE_WIDTH = 256  # numbers that each of SDXL's six sizes becomes
_VAE_NAMES = (  # ComfyUI's names to diffusers', in this order
    (r"encoder\.down\.(\d+)\.block\.(\d+)", r"encoder.down_blocks.\1.resnets.\2"),
    (r"encoder\.down\.(\d+)\.downsample", r"encoder.down_blocks.\1.downsamplers.0"),
    (r"mid\.block_(\d+)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}"),
    (r"mid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.proj_out", "mid_block.attentions.0.to_out.0"),
    (r"mid\.attn_1\.([qkv])\b", r"mid_block.attentions.0.to_\1"),
    (r"nin_shortcut", "conv_shortcut"),
    (r"norm_out", "conv_norm_out"),
)


def known_family(model: Any, otherwise: str | None = None) -> str | None:
    """The MODEL's family, a key of `FAMILIES`, or `otherwise` for kinds that cannot be learned on."""
    return KINDS.get(type(model.model.model_config), otherwise)


def family_of(model: Any) -> str:
    """The MODEL's family, a key of `FAMILIES`; other kinds of model are refused by name."""
    kind = type(model.model.model_config)
    if kind in KINDS:
        return KINDS[kind]
    if kind.__name__ in OTHERS:
        what, why = OTHERS[kind.__name__]
        raise LikenessError(f"this MODEL is {what}, which cannot be learned on: {why}")
    network = type(model.model.diffusion_model).__name__
    if network != "UNetModel":
        raise LikenessError(
            f"this MODEL is {kind.__name__}, which has no U-Net to learn on (its network is {network}); "
            f"connect {KNOWN}"
        )
    raise LikenessError(f"learning on a {kind.__name__} model is not possible; connect {KNOWN}")


def take_weights(model: Any, clip: Any, vae: Any) -> BaseWeights:
    """Copies of all weights as they are used, LoRAs and other patches included, for training on them."""
    family = family_of(model)
    _check_loaded(model, clip, vae, family)
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    # two of diffusers' names stand for ComfyUI's label_emb; SDXL's is add_embedding
    ours = {ldm: name.replace("class_embedding.", "add_embedding.") for name, ldm in names.items()}
    unet = {ours[name]: weight for name, weight in _weights_in_use(model, "diffusion_model.").items()}
    vae_weights = _vae_weights(vae)
    unet_config = _unet_config(model.model.model_config.unet_config)
    scale = model.model.latent_format.scale_factor
    vae_config = _vae_config(vae_weights, scale)
    untouched = family == MINIATURE and not model.patches and not clip.patcher.patches
    return BaseWeights(
        family=family,
        prediction_type=_prediction_type(model),
        resolution=FAMILIES[family].largest_sample_size * 8,
        alphas_cumprod=_alphas_cumprod(model),
        unet_config=unet_config,
        unet=unet,
        vae_config=vae_config,
        vae=vae_weights,
        text_towers=_text_towers(clip, family),
        fingerprint=miniature.fingerprint() if untouched else None,
    )


def _weights_in_use(patcher: Any, prefix: str) -> dict[str, torch.Tensor]:
    """fp32 CPU copies of a patcher's weights, whatever of them is loaded or patched at the moment."""
    found = {}
    for name, ((weight, convert), *patches) in patcher.get_key_patches(prefix).items():
        weight = convert(weight, inplace=False)
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            raise LikenessError(
                f"{name} is quantised in a way that cannot be read (GGUF, bitsandbytes …); load the "
                "model in fp16, bf16, fp32 or fp8"
            )
        weight = weight.detach().to("cpu", torch.float32, copy=True)
        if patches:
            with torch.no_grad():
                weight = comfy.lora.calculate_weight(patches, weight, name).float()
        found[name.removeprefix(prefix)] = weight
    return found


def _prediction_type(model: Any) -> str:
    sampling = model.get_model_object("model_sampling")
    other = (comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM)
    if isinstance(sampling, other):
        raise LikenessError(f"this MODEL has noise levels of another kind (EDM); connect {KNOWN}")
    if isinstance(sampling, comfy.model_sampling.V_PREDICTION):
        return "v_prediction"
    if isinstance(sampling, comfy.model_sampling.EPS) and not isinstance(sampling, comfy.model_sampling.X0):
        return "epsilon"
    raise LikenessError(f"this MODEL predicts neither noise nor velocity; connect {KNOWN}")


def _alphas_cumprod(model: Any) -> torch.Tensor:
    """Share of the signal at each training timestep (T,)."""
    sigmas = model.get_model_object("model_sampling").sigmas.detach().cpu().double()
    return 1 / (1 + sigmas**2)


def _check_loaded(model: Any, clip: Any, vae: Any, family: str) -> None:
    """Raises LikenessError, with the way out, where what is connected does not belong together."""
    channels = model.model.model_config.unet_config["in_channels"]
    if channels != 4:
        raise LikenessError(
            f"this MODEL is for inpainting or editing (its U-Net reads {channels} channels instead of 4); "
            "connect the plain model"
        )
    if clip is None or vae is None:
        missing = "CLIP" if clip is None else "VAE"
        raise LikenessError(
            f"there is no {missing}: this checkpoint holds none; load one with Load {missing} and connect it"
        )
    wanted = FAMILIES[family].encoders
    missing = [name for name in wanted if getattr(clip.cond_stage_model, name, None) is None]
    if missing:
        raise LikenessError(
            f"this CLIP has no {missing[0]}, which the MODEL listens to; connect the CLIP of its checkpoint"
        )


def _unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """ComfyUI's description of an SD 1.x, 2.x or SDXL U-Net in diffusers' words."""
    layers = config["num_res_blocks"]
    per_level = [config["transformer_depth"][i * layers[0]] for i in range(len(layers))]
    up = [depth for depth in per_level for _ in range(layers[0] + 1)]
    middle = config.get("transformer_depth_middle", per_level[-1])
    if (
        len(set(layers)) != 1
        or list(config["transformer_depth_output"]) != up
        or middle != max(1, per_level[-1])
    ):
        raise LikenessError(f"this U-Net has levels of unequal depth; connect {KNOWN}")
    widths = [config["model_channels"] * factor for factor in config["channel_mult"]]
    heads, width_per_head = config.get("num_heads", -1), config.get("num_head_channels", -1)
    return {
        "sample_size": config["image_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in per_level],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(per_level)],
        "transformer_layers_per_block": [max(depth, 1) for depth in per_level],
        "cross_attention_dim": config["context_dim"],
        "attention_head_dim": heads if heads > 0 else [width // width_per_head for width in widths],
        "use_linear_projection": config["use_linear_in_transformer"],
        **_size_config(config.get("adm_in_channels")),
    }


def _size_config(width: int | None) -> dict[str, Any]:
    """The words for a U-Net that reads `width` numbers of pooled text and six sizes; none without."""
    if width is None:
        return {}
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": width,
    }


def _vae_weights(vae: Any) -> dict[str, torch.Tensor]:
    """The autoencoder's weights under diffusers' names; its attention's convolutions become linear layers."""
    stored = _weights_in_use(vae.patcher, "")
    if "encoder.down.0.block.0.conv1.weight" not in stored or "quant_conv.weight" not in stored:
        raise LikenessError("this VAE is of a kind that cannot be trained with; use the checkpoint's own VAE")
    last = max(int(name.split(".")[2]) for name in stored if name.startswith("decoder.up."))
    found = {}
    for name, weight in stored.items():
        for pattern, words in _VAE_NAMES:
            name = re.sub(pattern, words, name)
        # diffusers counts the decoder's levels from the inside
        name = re.sub(r"decoder\.up\.(\d+)\.", lambda m: f"decoder.up_blocks.{last - int(m[1])}.", name)
        name = re.sub(r"(up_blocks\.\d+)\.block\.", r"\1.resnets.", name)
        name = re.sub(r"(up_blocks\.\d+)\.upsample\.", r"\1.upsamplers.0.", name)
        found[name] = weight.flatten(1) if ".attentions." in name and weight.ndim == 4 else weight
    return found


def _vae_config(weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, Any]:
    levels = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.down_blocks."))
    first_level = re.compile(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight")
    return {
        "in_channels": weights["encoder.conv_in.weight"].shape[1],
        "out_channels": weights["decoder.conv_out.weight"].shape[0],
        "block_out_channels": [
            weights[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": sum(first_level.fullmatch(name) is not None for name in weights),
        "latent_channels": weights["post_quant_conv.weight"].shape[1],
        "scaling_factor": scale,
    }


def _text_towers(clip: Any, family: str) -> dict[str, TextTower]:
    if clip.layer_idx is not None and not (family == "sdxl" and clip.layer_idx == -2):  # SDXL's own
        raise LikenessError("CLIP Set Last Layer cannot be trained with; connect the checkpoint's CLIP")
    dropped = FAMILIES[family].unheard_layers
    return {
        name: _text_tower(clip, name, getattr(clip.cond_stage_model, name).transformer.text_model, dropped)
        for name in FAMILIES[family].encoders
    }


def _text_tower(clip: Any, name: str, model: Any, dropped: int) -> TextTower:
    weights = _weights_in_use(clip.patcher, f"{name}.transformer.text_model.")
    layers = len(model.encoder.layers) - dropped
    weights = {
        key: value for key, value in weights.items() if not key.startswith(f"encoder.layers.{layers}.")
    }
    if name == "clip_g":  # whose pooled vector SDXL reads
        projection = _weights_in_use(clip.patcher, f"{name}.transformer.text_projection.")["weight"]
        weights["text_projection.weight"] = projection
    first = model.encoder.layers[0]
    words, width = weights["embeddings.token_embedding.weight"].shape
    activations = {function: word for word, function in comfy.clip_model.ACTIVATIONS.items()}
    reader = getattr(clip.tokenizer, name)
    tokenizer = copy.deepcopy(reader.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(reader.pad_token)
    config = {
        "vocab_size": words,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": layers,
        "num_attention_heads": first.self_attn.heads,
        "max_position_embeddings": weights["embeddings.position_embedding.weight"].shape[0],
        "hidden_act": activations[first.mlp.activation],
        "bos_token_id": reader.start_token,
        "eos_token_id": reader.end_token,
        "pad_token_id": reader.pad_token,
    }
    return TextTower(config=config, weights=weights, tokenizer=tokenizer)
