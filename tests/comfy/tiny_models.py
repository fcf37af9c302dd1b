"""MODELs with random weights, of architectures that ComfyUI knows; for scripts run by a host's Python."""

import json
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch

CONTEXT = 128  # width of the text states


def tiny_model(kind: type, **changes: Any) -> Any:
    """Two levels, cross-attention at the upper one and in the middle."""
    config = kind({
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2],
        "num_res_blocks": [2, 2], "transformer_depth": [1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1, "context_dim": CONTEXT,
        "use_spatial_transformer": True, "legacy": False, "use_checkpoint": False, "adm_in_channels": None,
        "use_temporal_attention": False, "use_temporal_resblock": False, **changes,
    })  # fmt: skip
    config.unet_config |= changes
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def fp8_model(scaled: bool) -> Any:
    """A MODEL whose layers are stored in fp8: plainly, or as ComfyUI's quantised files, with scales."""
    kind, fp8 = comfy.supported_models.SD15, torch.float8_e4m3fn
    plain = tiny_model(kind, use_linear_in_transformer=False, num_heads=4)
    unet = plain.model.diffusion_model
    state = unet.state_dict()
    config = kind(plain.model.model_config.unet_config)
    config.unet_config |= plain.model.model_config.unet_config
    if not scaled:
        config.set_inference_dtype(fp8, torch.float32)
        state = {name: weight.to(fp8) for name, weight in state.items()}
    else:
        config.set_inference_dtype(torch.float32, torch.float32)
        state |= _with_scales(unet, hasattr(comfy.utils, "detect_layer_quantization"))
        config.quant_config, config.scaled_fp8 = (
            {"mixed_ops": True},
            fp8,
        )  # newer hosts read one, older the other
    model = config.get_model({}, "", device="cpu")
    model.diffusion_model.load_state_dict(state)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def _with_scales(unet: torch.nn.Module, newer: bool) -> dict[str, torch.Tensor]:
    """The linear layers in fp8 with one scale each, under the names of this host's format."""
    state = {}
    told = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    for name, layer in unet.named_modules():
        if isinstance(layer, torch.nn.Linear):
            scale = layer.weight.detach().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            state[f"{name}.weight"] = (layer.weight.detach() / scale).to(torch.float8_e4m3fn)
            state |= (
                {f"{name}.weight_scale": scale, f"{name}.comfy_quant": told}
                if newer
                else {f"{name}.scale_weight": scale}
            )
    return state
