"""Run by the Python of a ComfyUI host: writes a checkpoint of random weights that ComfyUI takes for SD 1.5.

    python make_checkpoint.py CHECKOUT FILE

One level instead of four; autoencoder and text encoder are full-sized, for ComfyUI knows no other.
"""

import sys

checkout, file = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, checkout)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.clip_model  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

OPERATIONS = comfy.ops.disable_weight_init
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1],
    "num_res_blocks": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1, "context_dim": 768, "num_heads": 8, "use_spatial_transformer": True,
    "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
TEXT = {
    "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip

torch.manual_seed(0)
parts = {
    "model.diffusion_model.": UNetModel(**UNET, operations=OPERATIONS),
    "first_stage_model.": AutoencoderKL(ddconfig=VAE, embed_dim=4),
    "cond_stage_model.transformer.": comfy.clip_model.CLIPTextModel(TEXT, torch.float32, "cpu", OPERATIONS),
}
weights = {}
for prefix, part in parts.items():
    for name, weight in part.state_dict().items():
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.02
        weights[prefix + name] = (torch.randn(weight.shape) * 0.02 + (scale == 1.0)).half()
del weights["cond_stage_model.transformer.text_projection.weight"]
save_file(weights, file)
