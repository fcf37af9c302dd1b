"""MODEL, CLIP and VAE as the weights of one checkpoint, for training on copies of them."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models
import torch

from ..bases.families import FAMILIES, MINIATURE, SECOND_MINIATURE, family_of_flux2
from ..bases.loaders.checkpoint_file import UNET
from ..bases.loaders.graph_weights import BaseWeights, Flux2Weights, TextTower
from ..bases.loaders.vae import is_tiny
from ..bases.stored import EIGHT_BITS
from ..config import MODEL_FILES
from ..errors import LikenessError
from ..miniature import model as miniature
from ..miniature import second
from .host import check_host
from .miniature import MiniatureModel
from .second_miniature import SecondMiniatureModel

log = logging.getLogger(__name__)

WEIGHT_KINDS: dict[type, str] = {  # ComfyUI's kinds of model that can be learned on
    MiniatureModel: MINIATURE,
    SecondMiniatureModel: SECOND_MINIATURE,
    **{getattr(comfy.supported_models, row.comfy_class or ""): row.key
       for row in reversed(FAMILIES.values()) if hasattr(comfy.supported_models, row.comfy_class or "")},
}  # fmt: skip
OTHERS_SIDE = 1024  # pixels: what today's models are trained with
# of weights: those of layers, Z-Image's padding, and Krea 2's of norms and tables, in its autoencoder too
_ENDINGS = (".weight", ".bias", "pad_token", ".scale", ".lin", ".gamma")
STATES = 3  # of its text encoder that FLUX.2 reads side by side
_OTHERS = {  # ComfyUI's names for kinds that are close and yet cannot be learned on: what, and why not
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
_KNOWN = "an SD 1.x, SD 2.x or SDXL checkpoint, FLUX.2 Klein, Z-Image, Krea 2 or the Miniature"


def family_of_model(model: Any) -> str:
    """The MODEL's family, a key of `FAMILIES`; other kinds of model are refused by name."""
    kind = type(model.model.model_config)
    if kind in WEIGHT_KINDS:
        return _row_of(model, WEIGHT_KINDS[kind])
    if kind.__name__ in _OTHERS:
        what, why = _OTHERS[kind.__name__]
        raise LikenessError(f"this MODEL is {what}, which cannot be learned on: {why}")
    network = type(model.model.diffusion_model).__name__
    if network != "UNetModel":
        raise LikenessError(
            f"this MODEL is {kind.__name__}, which cannot be learned on yet (its network is {network}); "
            f"connect {_KNOWN}"
        )
    raise LikenessError(f"learning on a {kind.__name__} model is not possible; connect {_KNOWN}")


def kind_of(model: Any) -> str:
    """The family whose LoRAs, words and adapters a MODEL takes, a key of `FAMILIES`, or ComfyUI's name for
    its kind where that is none; kinds that ComfyUI derives from one of ours take what theirs takes."""
    kind = type(model.model.model_config)
    near = next((near for near in kind.__mro__ if near in WEIGHT_KINDS), None)
    return kind.__name__ if near is None else _row_of(model, WEIGHT_KINDS[near])


def own_side(model: Any) -> int:
    """Pixels a side at which a MODEL draws best: its family's; 1024 for kinds that are none of ours."""
    row = FAMILIES.get(kind_of(model))
    if row is None:
        return OTHERS_SIDE
    velocity = model.model.model_type == comfy.model_base.ModelType.V_PREDICTION
    latents = (row.velocity_sample_size if velocity else None) or row.sample_size
    return latents * row.pixels_per_latent


def _row_of(model: Any, key: str) -> str:
    """Which of the families that ComfyUI has one class for a MODEL is of."""
    if FAMILIES[key].denoiser != "flux2" or FAMILIES[key].own_world:
        return key
    return family_of_flux2(model.model.model_config.unet_config["context_in_dim"] // STATES).key


def _is_dev(model: Any) -> bool:
    """Whether a MODEL is FLUX.2 dev, which is told of the guidance."""
    return bool(model.model.model_config.unet_config.get("guidance_embed"))


def check_kind(model: Any, family: str, what: str) -> None:
    """Raises unless MODEL is of the family that `what` was learned on."""
    check_host(FAMILIES[family])
    # FLUX.2 dev's class is Klein's, and what is known of kinds goes for both; what Klein learned does not
    actual = "FLUX.2 dev" if FAMILIES[family].denoiser == "flux2" and _is_dev(model) else kind_of(model)
    if actual != family:
        raise LikenessError(
            f"{what} was learned on {family}, but the MODEL is {actual}; connect a model of its kind"
        )


def check_attention(model: Any, what: str) -> None:
    """Raises unless MODEL has attention to words that `what` works on: a U-Net's, or that of a family."""
    network = type(model.model.diffusion_model).__name__
    if network != "UNetModel" and kind_of(model) not in FAMILIES:
        raise LikenessError(
            f"this MODEL is {kind_of(model)}, whose network is {network}: it has no attention for {what} to "
            f"work on; connect {_KNOWN}"
        )


def name_of_model(model: Any) -> str:
    """The file that a MODEL came out of, where the host remembers (0.33 does); empty where it does not."""
    if FAMILIES[family_of_model(model)].own_world:
        return family_of_model(model)
    began = getattr(model, "cached_patcher_init", None)  # what loads it again, and with which arguments
    arguments = began[1] if began and len(began) > 1 and isinstance(began[1], tuple | list) else ()
    files = [os.path.basename(one) for one in arguments if isinstance(one, str) and one.endswith(MODEL_FILES)]
    return files[0] if files else ""


def text_towers_of(clip: Any) -> dict[str, Any]:
    """A CLIP's text encoders by the names that our files have for them."""
    towers, names = clip.cond_stage_model, dict.fromkeys(n for row in FAMILIES.values() for n in row.encoders)
    return {name: getattr(towers, name) for name in names if hasattr(towers, name)}


def take_weights(
    model: Any, clip: Any, vae: Any, prediction: str | None = None
) -> BaseWeights | Flux2Weights:
    """Copies of all weights as they are used, LoRAs and other patches included, for training on them.

    `prediction`: what the MODEL predicts where the user knows better; "epsilon" or "v_prediction".
    """
    family = family_of_model(model)
    _check_loaded(model, clip, vae, family)
    if FAMILIES[family].denoiser != "unet":
        return _transformer_weights(model, clip, vae, family)
    untouched = family == MINIATURE and not model.patches and not clip.patcher.patches
    return BaseWeights(
        family=family,
        prediction_type=prediction or _prediction_type(model),
        alphas_cumprod=_alphas_cumprod(model),
        unet=_weights_in_use(model, "diffusion_model.", UNET, kept=True),
        heads=_heads(model.model.model_config.unet_config),
        vae=_vae_weights(vae, model.model.latent_format.scale_factor),
        latent_scale=model.model.latent_format.scale_factor,
        text_towers=_text_towers(clip, family),
        fingerprint=miniature.fingerprint() if untouched else None,
    )


def _transformer_weights(model: Any, clip: Any, vae: Any, family: str) -> Flux2Weights:
    """A transformer's, with the language model it reads."""
    (name,) = FAMILIES[family].encoders
    if clip.layer_idx is not None:
        raise LikenessError("CLIP Set Last Layer cannot be trained with; connect Load CLIP's own output")
    own_world = FAMILIES[family].own_world
    untouched = own_world and not model.patches and not clip.patcher.patches
    tower = getattr(clip.cond_stage_model, name)
    if FAMILIES[family].denoiser == "flux2":
        taps, autoencoder = tuple(tower.layer), _flux2_vae_weights(vae, own_world)
    elif FAMILIES[family].denoiser == "krea2":
        taps, autoencoder = tuple(tower.layer), _weights_in_use(vae.patcher, "")
    else:  # before the last layer
        taps, autoencoder = (tower.num_layers - 1,), _weights_in_use(vae.patcher, "")
    undo = FAMILIES[family].undistilled_by
    if undo and model.patches:
        log.warning(
            "this MODEL carries LoRAs: if it is %s Turbo, one of them has to take the distillation out (%s)",
            FAMILIES[family].name, undo,
        )  # fmt: skip
    return Flux2Weights(
        family=family,
        fingerprint=second.second_fingerprint() if untouched else None,
        transformer=_weights_in_use(
            model, "diffusion_model.", half=True, kept=FAMILIES[family].denoiser == "flux2"
        ),
        vae=autoencoder,
        text_encoder=_weights_in_use(clip.patcher, f"{name}.transformer.", half=True, kept=True),
        taps=taps,
        changed=bool(model.patches),
        tokenizer=getattr(clip.tokenizer, name).tokenizer,
    )


def _flux2_vae_weights(vae: Any, own_world: bool) -> dict[str, torch.Tensor]:
    if own_world:
        return _vae_weights(vae, 1.0)
    if getattr(vae.first_stage_model, "bn", None) is None:
        raise LikenessError("this VAE is not FLUX.2's; connect flux2-vae.safetensors with Load VAE")
    statistics = {f"bn.{key}": value.detach().cpu().float().clone()
                  for key, value in vae.first_stage_model.bn.state_dict().items()
                  if value.is_floating_point()}  # fmt: skip
    return {**_weights_in_use(vae.patcher, ""), **statistics}


def _weights_in_use(
    patcher: Any, prefix: str, renamed: str = "", half: bool = False, kept: bool = False
) -> dict[str, torch.Tensor]:
    """CPU copies of a patcher's weights, whatever of them is loaded or patched at the moment, in fp32.

    `half`: those that are stored in less than fp32, in bf16. `kept`: layers in fp8 and int8 without patches
    as they are, with their scales (out, 1) as `….weight_scale`.
    """
    weights = {}
    for name in patcher.model_state_dict(prefix):
        if not name.endswith(_ENDINGS):
            continue  # the scales of fp8 layers, which their weights are multiplied with below
        stored = _eight_bits(patcher, name) if kept and name not in patcher.patches else None
        if stored is not None:
            new, (weight, scale) = renamed + name.removeprefix(prefix), stored
            weights[new] = weight.detach().to("cpu", copy=True)
            if scale is not None:
                rows = scale.detach().to("cpu", torch.float32).reshape(-1, 1)
                weights[f"{new}_scale"] = rows.repeat(len(weight) // len(rows), 1)
            continue
        weight = _stored_weight(patcher, name)
        if name in patcher.patches:
            with torch.no_grad():
                weight = comfy.lora.calculate_weight(patcher.patches[name], weight, name).float()
        if half and comfy.model_patcher.get_key_weight(patcher.model, name)[0].dtype != torch.float32:
            weight = weight.bfloat16()
        weights[renamed + name.removeprefix(prefix)] = weight
    return weights


def _eight_bits(patcher: Any, name: str) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """A layer's weight (out, in) as ComfyUI holds it in fp8 or int8, and its scale, where it has one."""
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, name)
    if name in patcher.backup or name in patcher.hook_backup or weight.ndim != 2:
        return None
    scale = None
    if hasattr(weight, "_qdata"):  # comfy_kitchen's QuantizedTensor
        params = weight._params
        scale = params.scale
        turned = getattr(params, "convrot", False) or getattr(params, "transposed", False)
        if turned or hasattr(params, "block_scale") or scale.numel() not in (1, weight.shape[0]):
            return None
        weight = weight._qdata
    elif convert is not None:  # an older host's layers with scales
        return None
    return (weight, scale) if weight.dtype in EIGHT_BITS and weight.ndim == 2 else None


def _stored_weight(patcher: Any, name: str) -> torch.Tensor:
    """A weight as it was before patches, in fp32; fp8 is widened before its scale multiplies it."""
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, name)
    if name in patcher.backup:
        weight = patcher.backup[name].weight
    if name in patcher.hook_backup:
        weight = patcher.hook_backup[name][0]
    weight = weight.detach()
    if type(weight) is torch.Tensor and weight.is_floating_point():
        weight = weight.to("cpu", torch.float32, copy=True)
    weight = weight if convert is None else convert(weight, inplace=False)
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        raise LikenessError(
            f"{name} is quantised in a way that cannot be read (GGUF, bitsandbytes …); load the "
            "model in fp16, bf16, fp32 or fp8"
        )
    return weight.to("cpu", torch.float32)


def _prediction_type(model: Any) -> str:
    sampling = model.get_model_object("model_sampling")
    other = (comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM)
    if isinstance(sampling, other):
        raise LikenessError(f"this MODEL has noise levels of another kind (EDM); connect {_KNOWN}")
    if isinstance(sampling, comfy.model_sampling.V_PREDICTION):
        return "v_prediction"
    if isinstance(sampling, comfy.model_sampling.EPS) and not isinstance(sampling, comfy.model_sampling.X0):
        return "epsilon"
    raise LikenessError(f"this MODEL predicts neither noise nor velocity; connect {_KNOWN}")


def _alphas_cumprod(model: Any) -> torch.Tensor:
    """Share of the signal at each training timestep (T,)."""
    sigmas = model.get_model_object("model_sampling").sigmas.detach().cpu().double()
    return 1 / (1 + sigmas**2)


def _check_loaded(model: Any, clip: Any, vae: Any, family: str) -> None:
    """Raises LikenessError, with the way out, where what is connected does not belong together."""
    channels = model.model.model_config.unet_config.get("in_channels")
    if FAMILIES[family].denoiser == "unet" and channels != 4:
        raise LikenessError(
            f"this MODEL is for inpainting or editing (its U-Net reads {channels} channels instead of 4); "
            "connect the plain model"
        )
    if clip is None or vae is None:
        missing = "CLIP" if clip is None else "VAE"
        raise LikenessError(
            f"there is no {missing}: this checkpoint holds none; load one with Load {missing} and connect it"
        )
    if _is_dev(model):
        raise LikenessError("this MODEL is FLUX.2 dev, which cannot be learned on yet; connect FLUX.2 Klein")
    needed = FAMILIES[family].encoders
    missing = [name for name in needed if getattr(clip.cond_stage_model, name, None) is None]
    if missing:
        raise LikenessError(
            f"this CLIP has no {missing[0]}, which the MODEL listens to; connect the CLIP of its checkpoint"
        )


def _heads(config: Mapping[str, Any]) -> int | list[int]:
    """Attention heads of a U-Net: one number for all levels, or one for each."""
    if config.get("num_heads", -1) > 0:
        return config["num_heads"]
    return [
        config["model_channels"] * factor // config["num_head_channels"] for factor in config["channel_mult"]
    ]


def _vae_weights(vae: Any, scale: float) -> dict[str, torch.Tensor]:
    """The autoencoder's, the checkpoint's own or TAESD's, which must be of latents of the MODEL's scale."""
    stored = _weights_in_use(vae.patcher, "")
    if is_tiny(stored):
        vae_scale = float(vae.first_stage_model.vae_scale.detach())
        if abs(vae_scale - scale) > 1e-4:
            raise LikenessError(
                f"this VAE is a TAESD of another kind of model: its latents are scaled by {vae_scale:g}, the "
                f"MODEL's by {scale:g}; connect the MODEL's own (taesd for SD 1.x and 2.x, taesdxl for SDXL)"
            )
        return stored
    if "encoder.down.0.block.0.conv1.weight" not in stored or "quant_conv.weight" not in stored:
        raise LikenessError("this VAE is of a kind that cannot be trained with; use the checkpoint's own VAE")
    return stored


def _text_towers(clip: Any, family: str) -> dict[str, TextTower]:
    if clip.layer_idx is not None and not (family == "sdxl" and clip.layer_idx == -2):  # SDXL's own
        raise LikenessError("CLIP Set Last Layer cannot be trained with; connect the checkpoint's CLIP")
    return {name: _text_tower(clip, name) for name in FAMILIES[family].encoders}


def _text_tower(clip: Any, name: str) -> TextTower:
    first = getattr(clip.cond_stage_model, name).transformer.text_model.encoder.layers[0]
    return TextTower(
        weights=_weights_in_use(clip.patcher, f"{name}.transformer."),
        heads=first.self_attn.heads,
        tokenizer=getattr(clip.tokenizer, name).tokenizer,
    )
