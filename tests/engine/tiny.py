"""A base model of a few thousand random weights, and a person made of noise: what contract tests train on."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.bases.base import BaseModel, unet_base
from likeness_portraits.engine.bases.families import FAMILIES
from likeness_portraits.engine.bases.loaders.single_file import new_text_encoder, padded
from likeness_portraits.engine.bases.process.ddpm import noise_schedule
from likeness_portraits.engine.config import METHODS, Job
from likeness_portraits.engine.data.concepts import Concept, Picture, write_concept
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.staged.mapper import Mapper

SIZE = 32  # pixels
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
SIZES = {  # of whatever method has such a setting
    "batch_size": 2, "prior_batch_size": 2, "prior_pictures": 4, "prior_steps": 2, "rank": 4, "alpha": 2.0,
}  # fmt: skip
OTHERS_STEPS = ("warmup_steps", "prior_steps")  # that are no phase's length
PARTICULAR: dict[str, dict[str, Any]] = {  # what four steps need to show anything, method by method
    "textual-inversion": {"vectors": 2, "learning_rate": 2e-3},
    "dreambooth-lora": {
        "unet_learning_rate": 4e-3, "text_encoder": True, "text_encoder_learning_rate": 2e-3,
        "token_learning_rate": 5e-3,
    },
    "custom-diffusion": {"learning_rate": 4e-3, "token_learning_rate": 5e-3, "rank": None},
    "personamagic": {"anchors": 10, "hidden_width": 16, "stages": 8, "image_encoder": "none"},
    "masterweaver": {
        "identity_learning_rate": 2e-2, "editing_learning_rate": 2e-2, "editing_every": 1,
        "edited_faces": True, "image_encoder": "miniature",
    },
    "magictailor": {
        "batch_size": 0, "intensity": 0.5, "warm_up_learning_rate": 2e-3, "token_learning_rate": 1e-3,
        "vectors": 1, "joint_share": 0.0, "attention_weight": 0.01, "component_margin": 0.0,
        "area_normalised": False, "shared_timestep": False,
    },
    "magicapture": {
        "batch_size": 3, "unet_learning_rate": 5e-4, "text_encoder_learning_rate": 5e-4,
        "token_learning_rate": 5e-3, "identity": "none", "identity_on_subject": True,
        "identity_timestep_share": 0.8,
    },
}  # fmt: skip


def quick(method: str) -> dict[str, Any]:
    """Settings that make any method a matter of a second: four steps over all its phases, little of all."""
    names = {entry.name for entry in fields(METHODS[method])}
    phases = [
        name for name in names if (name == "steps" or name.endswith("_steps")) and name not in OTHERS_STEPS
    ]
    lengths = {name: 4 // len(phases) for name in phases}
    sizes = {name: size for name, size in SIZES.items() if name in names}
    return {**lengths, **sizes, **PARTICULAR.get(method, {})}


def tiny_base(
    prediction_type: str = "epsilon",
    heads: int = 2,
    text_heads: int = 2,
    family: str = "sd1",
    zero_snr: bool = False,
) -> BaseModel:
    """A family's exact layout in small: 8 by 8 latents, cross-attention; always the same weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(**unet_config(family, heads))
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            sample_size=SIZE,
            scaling_factor=0.13025 if family == "sdxl" else 0.18215,
        )
        encoders = {name: text_encoder(name, text_heads) for name in FAMILIES[family].encoders}
    return unet_base(
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers={name: padded(miniature.tokenizer(), name) for name in encoders},
        alphas_cumprod=noise_schedule({**SCHEDULE, "rescale_betas_zero_snr": zero_snr}),
        family=family,
        resolution=SIZE,
        prediction_type=prediction_type,
        attention_side=4,
    )


def unet_config(family: str, heads: int) -> dict[str, Any]:
    """SD 1.x and SD 2.x with two levels, SDXL with three, the first of which has no attention."""
    config: dict[str, Any] = {
        "sample_size": 8, "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": heads,
        "block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    }  # fmt: skip
    if family == "sd1":
        return config
    config |= {"use_linear_projection": True, "attention_head_dim": [1, 1]}  # 64 wide, as far as there is
    if family == "sd2":
        return config
    return config | {
        "block_out_channels": (32, 64, 64), "attention_head_dim": [1, 1, 1], "cross_attention_dim": 32 + 64,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 1, 2], "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 64 + 6 * 256,
    }  # fmt: skip


def text_encoder(name: str, heads: int = 2) -> Any:
    """OpenAI's tower (`clip_l`), or OpenCLIP's as SD 2.x (`clip_h`) or SDXL (`clip_g`, pooled) has it."""
    tokenizer = padded(miniature.tokenizer(), name)
    return new_text_encoder(
        name, tokenizer, words=len(tokenizer), width=64 if name == "clip_g" else 32, inner=64, layers=2,
        heads=heads if name == "clip_l" else 1,
    )  # fmt: skip


def write_person(folder: Path) -> Path:
    """A concept folder of four small pictures with masks."""
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[8:24, 8:24] = 1
    pictures = _noise_pictures(3, ("0", "1", "2", "3"), mask)
    return write_concept(folder, Concept(token="<v0>", class_word="woman", role="subject", pictures=pictures))


def write_two(folder: Path) -> None:
    """Concept folders `ann` and `bob` of two of the Miniature's pictures each, with masks."""
    for number, name in enumerate(("ann", "bob")):
        shown = world.example_pictures(world.TUNING_SEEDS[number])[:2]
        pictures = tuple(
            Picture(str(i), one.pixels, one.mask().astype("float32")) for i, one in enumerate(shown)
        )
        write_concept(folder / name, Concept(f"<v{number}>", "woman", "subject", pictures))


def write_anna(folder: Path) -> Path:
    """A concept folder of two of the Miniature's pictures of one woman, with masks."""
    portraits = world.example_pictures(world.TUNING_SEEDS[0], 2)
    pictures = tuple(Picture(str(index), shot.pixels, shot.mask()) for index, shot in enumerate(portraits))
    return write_concept(folder, Concept("<v0>", "woman", "subject", pictures))


def write_portraits(folder: Path) -> Path:
    """Four bare pictures, 0.png and so on, of one of the Miniature's people."""
    for number, portrait in enumerate(world.example_pictures(world.REPORTING_SEEDS[0], 4)):
        Image.fromarray(portrait.pixels).save(folder / f"{number}.png")
    return folder


def write_style(folder: Path) -> Path:
    """Two small pictures of a style, whose masks leave a face free."""
    mask = np.ones((SIZE, SIZE), np.float32)
    mask[10:20, 12:22] = 0
    pictures = _noise_pictures(4, ("style0", "style1"), mask)
    return write_concept(folder, Concept(token="<s0>", class_word="sketch", role="style", pictures=pictures))


def _noise_pictures(seed: int, names: Sequence[str], mask: np.ndarray) -> tuple[Picture, ...]:
    rng = np.random.default_rng(seed)
    shades = (rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8) for _ in names)
    return tuple(Picture(name=name, pixels=pixels, mask=mask) for name, pixels in zip(names, shades))


def tiny_job(method: str, folder: Path, name: str = "me", **changes) -> Job:
    """A job of four steps on the person in `folder`."""
    settings = {**quick(method), **changes.pop("settings", {})}
    concepts = [{"folder": str(folder / "person")}]
    if method == "magicapture":
        concepts.append({"folder": str(write_style(folder / "style")), "token": "<s0>"})
    job = {
        "method": method,
        "concepts": concepts,
        "output": str(folder / f"{name}.safetensors"),
        "settings": settings,
        "seed": 7,
        "device": "cpu",
        **changes,
    }
    return Job.from_json(job)


def staged_person(
    token: str, width: int | dict[str, int], family: str, bypass_width: int | None = None
) -> Artifact:
    """Words that change with the noise level and that nobody has learned, for text encoders so wide."""
    generator = torch.Generator().manual_seed(11)
    widths = {"clip_l": width} if isinstance(width, int) else width
    mapper = Mapper(
        text_widths=widths, image_width=4, words=2, anchors=8, hidden=8, bypass_width=bypass_width
    )
    weights = {
        f"mapper.{name}": torch.randn(weight.shape, generator=generator) * 0.3
        for name, weight in mapper.state_dict().items()
    }
    tensors = {
        **weights,
        **{f"word.{name}": torch.randn(size, generator=generator) * 0.4 for name, size in widths.items()},
        "image_features": torch.randn(1, 4, generator=generator),
    }
    return Artifact(
        kind="staged_embedding", method="test", tensors=tensors, base_family=family,
        tokens=(Token(token=token, class_word="woman", vectors=2),),
        extra={"interval": [400, 800], "stages": 4, "late": "class word", "bypass": 1.0, "fixed": None,
               "norms": dict.fromkeys(widths, 4.0)},
    )  # fmt: skip
