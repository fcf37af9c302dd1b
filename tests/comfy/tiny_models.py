"""MODELs with random weights, of architectures that ComfyUI knows; for scripts run by a host's Python."""

from typing import Any

import comfy.model_patcher
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
