"""The second Miniature in ComfyUI's own classes for FLUX.2, built directly; hosts before 0.26 have none."""

from collections.abc import Mapping
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import comfy.text_encoders.llama
import folder_paths
import torch

from ..artifact.flux2_names import transformer_for_core
from ..bases.families import FAMILIES, SECOND_MINIATURE
from ..bases.process.flow import miniature_flow
from ..bases.text.qwen import BEFORE, BEHIND
from ..miniature import model as miniature
from ..miniature import second
from .host import check_host
from .miniature import keeps_given_tensors, ldm_vae

# what a host lacks is nothing to derive from; `check_host` has refused it before anything is built
_Config: Any = getattr(comfy.supported_models, "Flux2", object)
_Model: Any = getattr(comfy.model_base, "Flux2", object)
_Tokenizer: Any = getattr(comfy.text_encoders.flux, "KleinTokenizer", object)
_QwenSizes: Any = getattr(comfy.text_encoders.llama, "Qwen3_4BConfig", object)
_QwenNetwork: Any = getattr(comfy.text_encoders.llama, "Qwen3_4B", object)
_TextStack: Any = getattr(comfy.text_encoders.flux, "Flux2TEModel", object)
_ENCODER = FAMILIES[SECOND_MINIATURE].encoders[0]


class SecondMiniatureModel(_Config):
    """FLUX.2 of our own sizes; its type tells a MODEL of ours when it comes back for training."""

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
        return _SecondMiniature(self, device=device)


class _SecondMiniature(_Model):
    def extra_conds(self, **inputs: Any) -> dict[str, Any]:
        """ComfyUI fills what FLUX.2 is told up to 512 states; ours stays as long as it is."""
        conds = super().extra_conds(**inputs)
        if inputs.get("cross_attn") is not None:
            conds["c_crossattn"] = comfy.conds.CONDRegular(inputs["cross_attn"])
        return conds


class _Latents(comfy.latent_formats.LatentFormat):
    latent_channels = second.CHANNELS


class _Words(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: Mapping[str, Any] | None = None):
        super().__init__(
            str(miniature.tokenizer_folder()), pad_with_end=False, embedding_directory=embedding_directory,
            embedding_size=miniature.TEXT_WIDTH, embedding_key=_ENCODER, tokenizer_class=second.ChatTokenizer,
            has_start_token=False, has_end_token=False, pad_to_max_length=False, max_length=99_999_999,
            min_length=second.CHAT_LENGTH, pad_token=second.padding_id(),
            tokenizer_data=dict(tokenizer_data or {}),
        )  # fmt: skip


class _Chat(_Tokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: Mapping[str, Any] | None = None):
        comfy.sd1_clip.SD1Tokenizer.__init__(
            self, embedding_directory=embedding_directory, tokenizer_data=dict(tokenizer_data or {}),
            name=_ENCODER, tokenizer=_Words,
        )  # fmt: skip
        self.llama_template = BEFORE + "{}" + BEHIND


class _Sizes(_QwenSizes):
    head_dim = second.chat_text_config()["head_dim"]  # a constant in ComfyUI's


class _Network(_QwenNetwork):
    """ComfyUI's Qwen3, which ends behind the last layer that is read."""

    def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        torch.nn.Module.__init__(self)
        sizes = _Sizes(**{key: value for key, value in config_dict.items() if key != "head_dim"})
        self.num_layers = sizes.num_hidden_layers
        self.model = comfy.text_encoders.llama.Llama2_(sizes, device=device, dtype=dtype, ops=operations)
        self.dtype = dtype


class _Qwen(comfy.sd1_clip.SDClipModel):
    def __init__(
        self, device: Any = "cpu", dtype: Any = None, model_options: Mapping[str, Any] | None = None
    ) -> None:
        sizes = {**second.chat_text_config(), "final_norm": False}
        super().__init__(
            device=device, layer=list(second.CHAT_TAPS), textmodel_json_config=sizes, dtype=dtype,
            special_tokens={"pad": second.padding_id()}, layer_norm_hidden_state=False, model_class=_Network,
            enable_attention_masks=True, return_attention_masks=True, model_options=dict(model_options or {}),
        )  # fmt: skip


class _Text(_TextStack):
    def __init__(
        self, device: Any = "cpu", dtype: Any = None, model_options: Mapping[str, Any] | None = None
    ) -> None:
        options = dict(model_options or {})
        super().__init__(device=device, dtype=dtype, model_options=options, name=_ENCODER, clip_model=_Qwen)


def build_second_miniature() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the second Miniature; raises LikenessError where its weights, or what ComfyUI
    needs for it, are not here."""
    check_host(FAMILIES[SECOND_MINIATURE])
    model, clip, vae = _model(), _clip(), _vae()
    # from where ComfyUI takes weights of its own for a deep copy: learning (Train LoRA), a second GPU
    model.cached_patcher_init = (_model, ())
    clip.patcher.cached_patcher_init = (_clip_patcher, ())
    vae.patcher.cached_patcher_init = (_vae_patcher, ())
    return model, clip, vae


def _clip_patcher(disable_dynamic: bool = False) -> Any:
    return _clip(disable_dynamic).patcher


def _vae_patcher(disable_dynamic: bool = False) -> Any:
    return _vae().patcher


def _network_config() -> dict[str, Any]:
    """diffusers' description of the transformer in the words of ComfyUI's."""
    sizes = second.transformer_config()
    heads = sizes["num_attention_heads"]
    return {
        "image_model": "flux2", "in_channels": sizes["in_channels"], "out_channels": sizes["in_channels"],
        "patch_size": sizes["patch_size"], "vec_in_dim": None, "context_in_dim": sizes["joint_attention_dim"],
        "hidden_size": heads * sizes["attention_head_dim"], "num_heads": heads,
        "mlp_ratio": sizes["mlp_ratio"], "depth": sizes["num_layers"],
        "depth_single_blocks": sizes["num_single_layers"], "axes_dim": list(sizes["axes_dims_rope"]),
        "theta": sizes["rope_theta"], "guidance_embed": sizes["guidance_embeds"], "global_modulation": True,
        "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False, "txt_ids_dims": [3],
    }  # fmt: skip


def _model(disable_dynamic: bool = False) -> Any:
    """A fresh MODEL; `disable_dynamic`: of the plain class, whose weights stay where they are put."""
    management = comfy.model_management
    config = SecondMiniatureModel(_network_config())
    config.latent_format = _Latents()
    config.sampling_settings = {"shift": miniature_flow().log_shift}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=management.unet_offload_device())
    plain = comfy.model_patcher.ModelPatcher
    patcher_class = plain if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(
        model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    weights = transformer_for_core(second.second_weights("second/transformer"))
    model.diffusion_model.load_state_dict(weights, assign=keeps_given_tensors(patcher))
    return patcher


def _clip(disable_dynamic: bool = False) -> Any:
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(_Chat, _Text),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"dtype": torch.float32},
        **({"disable_dynamic": True} if disable_dynamic else {}),
    )
    weights = {
        f"model.{name}": weight
        for name, weight in second.second_weights("second/text_encoder").items()
        if name != "norm.weight"  # of what nobody reads
    }
    network = getattr(clip.cond_stage_model, _ENCODER).transformer
    network.load_state_dict(weights, assign=keeps_given_tensors(clip.patcher))
    return clip


def _vae() -> Any:
    return ldm_vae(second.second_vae_config(), second.second_weights("second/vae"))
