"""FLUX.2 Klein at its real sizes, without numbers: what a run on it needs can be estimated anywhere."""

from typing import Any

import numpy as np
import torch

from likeness_portraits.engine.bases.base import BaseModel, flux2_base
from likeness_portraits.engine.bases.loaders.flux2 import Flux2Parts
from likeness_portraits.engine.config import Job
from likeness_portraits.engine.data.concepts import Concept, Picture
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.engine.training.methods.base import Method

SIZES: dict[str, dict[str, Any]] = {
    "4B": {"family": "flux2", "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
           "text": {"hidden_size": 2560, "intermediate_size": 9728}},
    "9B": {"family": "flux2_9b", "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32,
           "text": {"hidden_size": 4096, "intermediate_size": 12288}},
}  # fmt: skip
TAPS = (9, 18, 27)


def hollow(size: str, tokenizer: Any, dtype: torch.dtype = torch.bfloat16) -> BaseModel:
    """The base of a size, a key of `SIZES`, as its files hold it."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    shape = dict(SIZES[size])
    family, text = shape.pop("family"), shape.pop("text")
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            in_channels=128, attention_head_dim=128, joint_attention_dim=3 * text["hidden_size"],
            guidance_embeds=False, **shape,
        ).to(dtype)  # fmt: skip
        encoder = Qwen3Model(Qwen3Config(
            vocab_size=151936, num_hidden_layers=TAPS[-1], num_attention_heads=32, num_key_value_heads=8,
            head_dim=128, **text,
        )).to(dtype)  # fmt: skip
        vae = AutoencoderKLFlux2()
    parts = Flux2Parts(family=family, transformer=transformer, vae=vae, text_encoder=encoder, taps=TAPS,
                       tokenizer=tokenizer)  # fmt: skip
    return flux2_base(parts, fingerprint=f"Klein {size}, hollow")


def learner(method: str, base: BaseModel, side: int, **changes: Any) -> tuple[Method, Job]:
    """A method with its usual settings on three pictures of this side."""
    job = Job.from_json({
        "method": method, "concepts": [{"folder": "nowhere", "token": "<v0>"}], "output": "x.safetensors",
        "resolution": side, "precision": "bf16", **changes,
    })  # fmt: skip
    pixels = np.zeros((side, side, 3), np.uint8)
    pictures = tuple(Picture(str(number), pixels, None) for number in range(3))
    return method_class(method)(job, base, [Concept("<v0>", "woman", "subject", pictures)]), job
