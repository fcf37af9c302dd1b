"""The second Miniature: FLUX.2's architecture in small, out of the package's own weights or of ComfyUI's."""

from typing import Any

import torch

from ...errors import LikenessError
from ...miniature import model as miniature
from ...miniature import second
from ..families import SECOND_MINIATURE
from .flux2 import Flux2Parts, build_text, build_transformer, flux2_classes
from .graph_weights import Flux2Weights
from .networks import empty
from .vae import build_vae


def second_miniature() -> tuple[Flux2Parts, str]:
    """Its parts as they ship, and their fingerprint; raises LikenessError where its weights are not here."""
    from diffusers import AutoencoderKL

    states = {name: second.second_weights(name) for name in second.SECOND_NETWORKS}
    transformer_class, _ = flux2_classes()
    transformer = empty(transformer_class, second.transformer_config())
    transformer.load_state_dict(states["second/transformer"], assign=True)
    vae = empty(AutoencoderKL, second.second_vae_config())
    vae.load_state_dict(states["second/vae"], assign=True)
    text = build_text("the second Miniature", states["second/text_encoder"], second.CHAT_TAPS)
    return _parts(transformer, vae, text, second.chat_tokenizer()), second.second_fingerprint()


def second_miniature_from_graph(weights: Flux2Weights) -> Flux2Parts:
    """Its parts out of ComfyUI, with whatever patches were on them."""
    transformer = build_transformer("the MODEL", weights.transformer, {})
    side = second.second_vae_config()["sample_size"] // 8
    vae = build_vae(weights.vae, side, second.second_vae_config()["scaling_factor"])
    if vae.config.latent_channels != second.CHANNELS:
        raise LikenessError(
            f"this VAE makes latents of {vae.config.latent_channels} channels, but the second Miniature "
            f"reads {second.CHANNELS}; connect its own"
        )
    norm = {"norm.weight": torch.ones(miniature.TEXT_WIDTH)}  # of what nobody reads; ComfyUI leaves it out
    text = build_text("the CLIP", {**weights.text_encoder, **norm}, second.CHAT_TAPS)
    return _parts(transformer, vae, text, weights.tokenizer)


def _parts(transformer: Any, vae: Any, text: Any, tokenizer: Any) -> Flux2Parts:
    return Flux2Parts(
        family=SECOND_MINIATURE, transformer=transformer.eval(), vae=vae.eval(), text_encoder=text,
        tokenizer=tokenizer, taps=second.CHAT_TAPS, resolution=miniature.RESOLUTION,
        length=second.CHAT_LENGTH,
    )  # fmt: skip
