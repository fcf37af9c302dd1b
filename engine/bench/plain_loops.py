"""Textual Inversion and DreamBooth-LoRA as one writes them from diffusers' and peft's public interfaces.

Nobody learns with these: our own loops are timed against them. They do what diffusers' examples do in a step:
the autoencoder reads the pictures anew, the whole token table has gradients and is put back afterwards.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bases.base import BaseModel
from ..bases.process.ddpm import PUBLISHED_STEPS

RATE = 1e-4
LAYERS = ["to_k", "to_q", "to_v", "to_out.0"]
PLACEHOLDER, CLASS = "a photo of sks", "a photo of a woman"


def textual_inversion(base: BaseModel, pixels: Tensor) -> Callable[[], None]:
    """A function that does one step on pixels (B, 3, H, W); the base's token tables change with it."""
    tables: list[Any] = [encoder.get_input_embeddings().weight for encoder in _encoders(base)]
    rows = [_ids(base, name, [PLACEHOLDER])[0] for name in base.text_encoders]
    originals = [table.detach().clone() for table in tables]
    for table in tables:
        table.requires_grad_(True)
    optimizer = torch.optim.AdamW(tables, lr=RATE)
    prompts = [PLACEHOLDER] * len(pixels)

    def step() -> None:
        loss = _loss(base, pixels, *_text(base, prompts)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():  # all other words back to what they were
            for table, before, ids in zip(tables, originals, rows):
                still = torch.ones(len(table), dtype=torch.bool, device=table.device)
                still[ids.unique()] = False
                table[still] = before[still]

    return step


def dreambooth_lora(base: BaseModel, pixels: Tensor, prior: Tensor, rank: int) -> Callable[[], None]:
    """A function that does one step on pictures and pictures of the class, each (B, 3, H, W)."""
    from peft import LoraConfig

    base.unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LAYERS)
    )
    trained = [weight for weight in base.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    both = torch.cat([pixels, prior])
    prompts = [PLACEHOLDER] * len(pixels) + [CLASS] * len(prior)

    def step() -> None:
        errors = _loss(base, both, *_text(base, prompts))
        loss = errors[: len(pixels)].mean() + errors[len(pixels) :].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _encoders(base: BaseModel) -> list[Any]:
    return list(base.text_encoders.values())


def _ids(base: BaseModel, encoder: str, prompts: Sequence[str]) -> Tensor:
    tokens = base.tokenizers[encoder](
        list(prompts), padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids.to(base.device)


def _text(base: BaseModel, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Text states (B, T, D), and what SDXL reads beside them."""
    outputs = [
        encoder(_ids(base, name, prompts), output_hidden_states=True)
        for name, encoder in base.text_encoders.items()
    ]
    if not len(outputs) > 1:
        return outputs[0].last_hidden_state, {}
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return states, {"text_embeds": outputs[-1].text_embeds}


def _loss(base: BaseModel, pixels: Tensor, states: Tensor, more: dict[str, Tensor]) -> Tensor:
    """The diffusion loss (B,) of pictures."""
    with torch.no_grad():
        latents = base.vae.encode(pixels).latent_dist.sample() * base.latent_scale
    noise = torch.randn_like(latents)
    timesteps = torch.randint(PUBLISHED_STEPS, (len(pixels),), device=pixels.device)
    times = timesteps / PUBLISHED_STEPS
    noisy = base.process.add_noise(latents, noise, times)
    if more:
        size = pixels.shape[-2:]
        more["time_ids"] = pixels.new_tensor([*size, 0, 0, *size]).expand(len(pixels), 6)
    output = base.unet(noisy, timesteps, states, added_cond_kwargs=more, return_dict=False)[0]
    target = base.process.target(latents, noise, times)
    return F.mse_loss(output.float(), target.float(), reduction="none").flatten(1).mean(1)
