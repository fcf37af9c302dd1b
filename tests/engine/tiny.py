"""A base model of a few thousand random weights, and a person made of noise: what contract tests train on."""

from pathlib import Path

import numpy as np
import torch

from likeness_portraits.engine.config import Job
from likeness_portraits.engine.data.concepts import Concept, Picture, write_concept
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.engine.training.base_model import BaseModel, noise_schedule

SIZE = 32  # pixels
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
QUICK = {  # settings that make each method a matter of a second
    "textual-inversion": {"steps": 4, "batch_size": 2, "vectors": 2, "learning_rate": 2e-3},
    "dreambooth-lora": {
        "steps": 4,
        "batch_size": 2,
        "prior_batch_size": 2,
        "prior_pictures": 4,
        "prior_steps": 2,
        "rank": 4,
        "alpha": 2.0,
        "unet_learning_rate": 4e-3,
        "text_encoder": True,
        "text_encoder_learning_rate": 2e-3,
        "token_learning_rate": 5e-3,
    },
    "personamagic": {
        "steps": 4,
        "batch_size": 2,
        "anchors": 10,
        "hidden_width": 16,
        "stages": 8,
        "image_encoder": "none",
    },
    "magictailor": {
        "warm_up_steps": 2,
        "balance_steps": 2,
        "batch_size": 0,
        "rank": 4,
        "alpha": 2.0,
        "warm_up_learning_rate": 2e-3,
        "token_learning_rate": 1e-3,
    },
}


def tiny_base(prediction_type: str = "epsilon", heads: int = 2, text_heads: int = 2) -> BaseModel:
    """SD 1.x in shape: 8 by 8 latents, cross-attention on both levels; always the same weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = miniature.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=heads,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            sample_size=SIZE,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=text_heads,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return BaseModel(
        unet=unet,
        vae=vae,
        text_encoders={"clip_l": text},
        tokenizers={"clip_l": tokenizer},
        alphas_cumprod=noise_schedule(SCHEDULE),
        family="sd1",
        resolution=SIZE,
        prediction_type=prediction_type,
        attention_side=4,
    )


def write_person(folder: Path) -> Path:
    """A concept folder of four small pictures with masks."""
    rng = np.random.default_rng(3)
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[8:24, 8:24] = 1
    pictures = tuple(
        Picture(name=f"{i}", pixels=rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8), mask=mask)
        for i in range(4)
    )
    return write_concept(folder, Concept(token="<v0>", class_word="woman", role="subject", pictures=pictures))


def tiny_job(method: str, folder: Path, name: str = "me", **changes) -> Job:
    """A job of four steps on the person in `folder`."""
    settings = {**QUICK[method], **changes.pop("settings", {})}
    job = {
        "method": method,
        "concepts": [{"folder": str(folder / "person")}],
        "output": str(folder / f"{name}.safetensors"),
        "settings": settings,
        "seed": 7,
        "device": "cpu",
        **changes,
    }
    return Job.from_json(job)
