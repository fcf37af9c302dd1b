"""The Miniature in ComfyUI's own classes, built directly: nothing is downloaded and no file is guessed at."""

from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import numpy as np
import torch

from ..miniature import model as miniature
from ..miniature import world
from ..miniature.styles import style_pictures
from .pictures import image_of

PERSON_PARTS = (*world.FACE_PARTS, "hair", "ear")  # what makes a person: neither clothes nor hats nor scenes


def _ldm_unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers' description of an SD 1.x U-Net in the words of ComfyUI's U-Net."""
    channels = config["block_out_channels"]
    layers = config["layers_per_block"]
    crossing = [int("CrossAttn" in kind) for kind in config["down_block_types"]]
    crossing_up = [int("CrossAttn" in kind) for kind in reversed(config["up_block_types"])]
    return {
        "image_size": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": [layers] * len(channels),
        "transformer_depth": [depth for depth in crossing for _ in range(layers)],
        "transformer_depth_output": [depth for depth in crossing_up for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config.get("use_linear_projection", False),
        "legacy": False,
        "use_checkpoint": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


class MiniatureModel(comfy.supported_models.SD15):
    """SD 1.x of our own sizes; its type tells a MODEL of ours when it comes back for training."""


class _MiniatureTokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: Mapping[str, Any] | None = None):
        super().__init__(
            tokenizer_path=str(miniature.tokenizer_folder()),
            embedding_directory=embedding_directory,
            embedding_size=miniature.text_config()["hidden_size"],
        )


class _MiniatureTextModel(comfy.sd1_clip.SDClipModel):
    """ComfyUI's CLIP text model with our vocabulary (its own is fixed at 49,408 words)."""

    def __init__(
        self, device: Any = "cpu", dtype: Any = None, model_options: Mapping[str, Any] | None = None
    ) -> None:
        config = miniature.text_config()
        tokenizer = miniature.tokenizer()
        start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=config["max_position_embeddings"],
            textmodel_json_config={**config, "eos_token_id": end},
            special_tokens={"start": start, "end": end, "pad": pad},
            return_projected_pooled=False,
            model_options=dict(model_options or {}),
        )
        size = (config["vocab_size"], config["hidden_size"])
        self.transformer.set_input_embeddings(self.operations.Embedding(*size, dtype=dtype, device=device))


def build_miniature() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the Miniature."""
    model, clip, vae = _miniature_model(), _miniature_clip(), _miniature_vae()
    # from where ComfyUI takes weights of its own for a deep copy: learning (Train LoRA), a second GPU
    model.cached_patcher_init = (_miniature_model, ())
    clip.patcher.cached_patcher_init = (_clip_patcher, ())
    vae.patcher.cached_patcher_init = (_vae_patcher, ())
    return model, clip, vae


def _clip_patcher(disable_dynamic: bool = False) -> Any:
    return _miniature_clip(disable_dynamic).patcher


def _vae_patcher(disable_dynamic: bool = False) -> Any:
    return _miniature_vae().patcher  # ComfyUI's own factories leave the switch out for a VAE


def _miniature_model(disable_dynamic: bool = False) -> Any:
    """A fresh MODEL; `disable_dynamic`: of the plain class, whose weights stay where they are put."""
    management = comfy.model_management
    config = MiniatureModel(_ldm_unet_config(miniature.miniature_unet_config()))
    heads = miniature.miniature_unet_config()[
        "attention_head_dim"
    ]  # diffusers' name for the number of heads in SD 1.x
    config.unet_config |= {"num_heads": heads, "num_head_channels": -1}
    config.latent_format = comfy.latent_formats.SD15(scale_factor=miniature.vae_config()["scaling_factor"])
    schedule = miniature.scheduler_config()
    config.sampling_settings |= {
        "beta_schedule": "linear",  # ComfyUI's name for scaled_linear
        "linear_start": schedule["beta_start"],
        "linear_end": schedule["beta_end"],
        "timesteps": schedule["num_train_timesteps"],
    }
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=management.unet_offload_device())
    plain = comfy.model_patcher.ModelPatcher
    patcher_class = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    patcher = patcher_class(
        model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = {names[name]: weight for name, weight in miniature.state_dict("unet").items()}
    model.diffusion_model.load_state_dict(weights, assign=keeps_given_tensors(patcher))
    return patcher


def keeps_given_tensors(patcher: Any) -> bool:
    """Newer ComfyUI manages memory by the tensors it is given: they must be assigned, not copied."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


def _miniature_clip(disable_dynamic: bool = False) -> Any:
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data={"clip_l_tokenizer_class": _MiniatureTokenizer},
        model_options={"clip_l_class": _MiniatureTextModel, "dtype": torch.float32},
        **({"disable_dynamic": True} if disable_dynamic else {}),  # older ComfyUI does not know it
    )
    text_model = clip.cond_stage_model.clip_l.transformer
    stored = miniature.state_dict("text_encoder")
    weights = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in stored.items()}
    weights["text_projection.weight"] = torch.eye(miniature.text_config()["hidden_size"])  # unused by SD 1.x
    text_model.load_state_dict(weights, assign=keeps_given_tensors(clip.patcher))
    return clip


def _miniature_vae() -> Any:
    return ldm_vae(miniature.vae_config(), miniature.state_dict("vae"))


def ldm_vae(config: Mapping[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    """ComfyUI's VAE by diffusers' description of an AutoencoderKL, in fp32."""
    channels = config["block_out_channels"]
    ddconfig = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {"ddconfig": ddconfig, "embed_dim": config["latent_channels"]}
    return comfy.sd.VAE(sd=weights, config={"params": params}, dtype=torch.float32)


def miniature_person(number: int, count: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Pictures (B, S, S, 3) and masks (B, S, S) of a person the Miniature never saw, and their class word."""
    seed = world.REPORTING_SEEDS[number]
    portraits = world.example_pictures(seed, count, miniature.vae_config()["sample_size"])
    masks = np.stack([portrait.mask(PERSON_PARTS) for portrait in portraits])
    word = world.class_word(world.sample_identity(seed))
    return image_of([portrait.pixels for portrait in portraits]), torch.from_numpy(masks), word


def miniature_style(style: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (B, S, S, 3) of strangers in a style, and masks (B, S, S) of all but their heads."""
    portraits = style_pictures(style, count, miniature.vae_config()["sample_size"])
    masks = np.stack([1 - portrait.mask(PERSON_PARTS) for portrait in portraits])
    return image_of([portrait.pixels for portrait in portraits]), torch.from_numpy(masks)
