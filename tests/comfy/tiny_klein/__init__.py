"""A pack for a ComfyUI of the tests: its own classes take a FLUX.2 Klein of a few million numbers from files.

ComfyUI finds out a transformer's sizes from its file, and holds Qwen3-4B and the autoencoder at full size:
here their sizes are a tiny one's (`tiny_flux2.write_host_files`). Everything else is ComfyUI's.
"""

from functools import partial
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.sd
import comfy.text_encoders.flux
import comfy.text_encoders.llama

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
WIDTH = 32  # of the text encoder
TEXT = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 2,
        "num_key_value_heads": 1}  # fmt: skip


class TinyQwen(comfy.text_encoders.flux.Qwen3_4BModel):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "layer": [1, 2, 3]})


class TinyAutoencoder(comfy.ldm.models.autoencoder.AutoencoderKL):
    def __init__(self, **params: Any) -> None:
        for config in ("ddconfig", "decoder_ddconfig"):
            if params.get(config) and params[config].get("batch_norm_latent"):
                params[config] = {**params[config], "ch": 32, "num_res_blocks": 1}
        super().__init__(**params)


comfy.text_encoders.llama.Qwen3_4BConfig = partial(comfy.text_encoders.llama.Qwen3_4BConfig, **TEXT)
comfy.text_encoders.flux.Qwen3_4BModel = TinyQwen
comfy.sd.AutoencoderKL = TinyAutoencoder
usual = comfy.sd.detect_te_model


def detect_te_model(state: Any) -> Any:
    weight = state.get("model.layers.0.post_attention_layernorm.weight")
    tiny = weight is not None and weight.shape[0] == WIDTH
    return comfy.sd.TEModel.QWEN3_4B if tiny else usual(state)


comfy.sd.detect_te_model = detect_te_model
