"""The base model of a training run out of ComfyUI's MODEL, CLIP and VAE: a single file held in memory."""

import torch
from torch import Tensor

from ...errors import LikenessError
from ..base import BaseModel, flux2_base, krea2_base, unet_base, z_image_base
from ..families import KNOWN, SECOND_MINIATURE
from ..process.ddpm import SD_SCHEDULE, noise_schedule
from . import flux2, krea2, z_image
from .folder import import_networks
from .graph_weights import BaseWeights, Flux2Weights
from .second_miniature import second_miniature_from_graph
from .single_file import build_text_encoder, build_unet, padded, trained_side
from .vae import build_vae


def base_from_graph(weights: BaseWeights | Flux2Weights) -> BaseModel:
    """diffusers' classes around the given tensors, which they take over."""
    import_networks()
    if isinstance(weights, Flux2Weights):
        kinds = {"z_image": _z_image_from_graph, "krea2": _krea2_from_graph}
        return kinds.get(weights.family, _flux2_from_graph)(weights)
    side = trained_side(weights.family, weights.prediction_type)
    try:
        unet = build_unet(weights.unet, side, weights.heads)
        vae = build_vae(weights.vae, side, weights.latent_scale)
        text_encoders = {
            name: build_text_encoder(weights.family, name, tower.weights, tower.tokenizer, tower.heads)
            for name, tower in weights.text_towers.items()
        }
    except (RuntimeError, KeyError, IndexError, ValueError, StopIteration) as error:
        reason = (str(error).strip() or "parts are missing").splitlines()[0]
        raise LikenessError(
            f"this MODEL, CLIP or VAE is built in a way of its own ({reason}); connect {KNOWN}"
        ) from error
    return unet_base(
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        tokenizers={name: padded(tower.tokenizer, name) for name, tower in weights.text_towers.items()},
        alphas_cumprod=_exact_schedule(weights.alphas_cumprod),
        family=weights.family,
        resolution=side * 2 ** (len(vae.config.block_out_channels) - 1),
        prediction_type=weights.prediction_type,
        fingerprint=weights.fingerprint,
    )


def _flux2_from_graph(weights: Flux2Weights) -> BaseModel:
    if weights.family == SECOND_MINIATURE:
        return flux2_base(second_miniature_from_graph(weights), weights.fingerprint)
    parts = flux2.assembled(
        "the MODEL",
        flux2.build_transformer("the MODEL", weights.transformer, {}),
        flux2.build_flux2_vae("the VAE", weights.vae, {}),
        flux2.build_text("the CLIP", weights.text_encoder, weights.taps),
        weights.tokenizer,
        weights.taps,
    )
    return flux2_base(parts)


def _z_image_from_graph(weights: Flux2Weights) -> BaseModel:
    parts = z_image.z_image_parts(
        "the MODEL",
        z_image.build_z_image("the MODEL", weights.transformer, {}),
        z_image.build_z_image_vae("the VAE", weights.vae, {}),
        z_image.build_z_image_text("the CLIP", weights.text_encoder, weights.taps[-1] + 1),
        weights.tokenizer,
        # what LoRAs are on a Turbo may be there to take the distillation out of it
        distilled=False if weights.changed else None,
    )
    return z_image_base(parts)


def _krea2_from_graph(weights: Flux2Weights) -> BaseModel:
    return krea2_base(
        krea2.krea2_assembled(
            "the MODEL",
            krea2.build_krea2_transformer("the MODEL", weights.transformer, {}),
            krea2.build_krea2_vae("the VAE", weights.vae, {}),
            krea2.build_krea2_text("the CLIP", weights.text_encoder, weights.taps),
            weights.tokenizer,
        )
    )


def _exact_schedule(alphas_cumprod: Tensor) -> Tensor:
    """The schedule in float64 where ComfyUI's fp32 one is the usual one, so that both ways in train alike."""
    plan = {**SD_SCHEDULE, "num_train_timesteps": len(alphas_cumprod)}
    for usual in (noise_schedule(plan), noise_schedule({**plan, "rescale_betas_zero_snr": True})):
        if torch.allclose(usual, alphas_cumprod.double(), atol=1e-5):
            return usual
    return alphas_cumprod
