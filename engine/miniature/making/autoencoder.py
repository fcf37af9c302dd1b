"""The Miniature's autoencoder, in three strides: 64 px, the outermost level, the decoder alone."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .. import model, world
from .dataset import Dataset
from .fitting import fit, half_precision

FEATURES = [world.PART_ID[part] for part in ("eye", "brow", "nose", "mouth", "glasses")]
_FACE = [world.PART_ID[part] for part in world.FACE_PARTS]


def inner_config() -> dict:
    """The autoencoder without its outermost level: 64 px to 16x16."""
    config = model.vae_config()
    return config | {
        "block_out_channels": config["block_out_channels"][1:],
        "down_block_types": config["down_block_types"][1:],
        "up_block_types": config["up_block_types"][1:],
        "sample_size": model.RESOLUTION // 2,
    }


def weight_map(
    parts: Tensor, side: int, person: float = 2.0, face: float = 2.0, features: float = 5.0
) -> Tensor:
    """How much each pixel counts, (B, 1, side, side): the background 1, eyes, brows, nose and mouth most."""
    weight = torch.ones_like(parts, dtype=torch.float32)
    weight[parts > 0] = person
    weight[torch.isin(parts, torch.tensor(_FACE, device=parts.device))] = face
    weight[torch.isin(parts, torch.tensor(FEATURES, device=parts.device))] = features
    return F.interpolate(weight[:, None], size=(side, side), mode="area")


def reconstruction_loss(output: Tensor, pixels: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute and squared error, and the error of smoothed colours (they drift otherwise)."""
    error = output.float() - pixels
    smooth = F.avg_pool2d(error, 8)
    return (weight * (error.abs() + 2 * error.square())).mean() + 2 * smooth.abs().mean()


def face_psnr(vae: Any, pixels: Tensor, parts: Tensor) -> dict[str, float]:
    """PSNR in dB over whole pictures and inside the face region; pixels in [-1, 1], parts (B, S, S)."""
    with torch.no_grad():
        output = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    error = ((output - pixels) / 2).square().mean(1, keepdim=True)
    face = torch.isin(parts, torch.tensor(_FACE, device=parts.device))[:, None].float()
    face = F.interpolate(face, size=pixels.shape[-2:], mode="area")
    inside = (error * face).sum() / face.sum()
    return {
        "psnr": round(float(-10 * error.mean().log10()), 2),
        "face_psnr": round(float(-10 * inside.log10()), 2),
    }


def _loss(data: Dataset, batch: int, side: int, device: str):
    def loss_of(vae: Any, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(0, len(data), batch)
        pixels = F.interpolate(data.images(index, device), size=(side, side), mode="area")
        weight = weight_map(data.parts(index, device), side)
        with half_precision(device):
            posterior = vae.encode(pixels).latent_dist
            latents = posterior.mode() + 0.05 * torch.randn_like(posterior.mean)
            output = vae.decode(latents).sample
        mean = posterior.mean.float()
        centred = mean.mean((0, 2, 3)).square().sum() + (mean.std((0, 2, 3)) - 1).square().sum()
        return reconstruction_loss(output, pixels, weight) + 0.01 * centred

    return loss_of


def make_inner(
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch: int = 8, device="cpu"
) -> AutoencoderKL:
    """First stride: the autoencoder at 64 px, four times cheaper a step."""
    torch.manual_seed(0)
    vae = _on(AutoencoderKL(**inner_config()), device)
    side = model.RESOLUTION // 2
    index = np.arange(0, len(held_out), 6)[:48]
    pixels = F.interpolate(held_out.images(index, device), size=(side, side), mode="area")
    parts = held_out.parts(index, device)
    return fit(
        "autoencoder64", vae, _loss(data, batch, side, device), steps=steps, learning_rate=2.5e-3, work=work,
        report=lambda net: face_psnr(net, pixels, parts), report_every=200,
    )  # fmt: skip


def grow(inner: AutoencoderKL) -> AutoencoderKL:
    """The whole autoencoder: inner levels taken over, the outermost level begins as plain resampling."""
    torch.manual_seed(1)
    whole: Any = AutoencoderKL(**model.vae_config())
    levels = len(model.vae_config()["block_out_channels"])
    state = whole.state_dict()
    for key, value in inner.state_dict().items():
        name = key
        if key.startswith("encoder.down_blocks."):
            level, rest = key.removeprefix("encoder.down_blocks.").split(".", 1)
            name = f"encoder.down_blocks.{int(level) + 1}.{rest}"
        if not name.startswith("encoder.conv_in") and state[name].shape == value.shape:
            state[name] = value
    whole.load_state_dict(state)
    outer = [whole.encoder.down_blocks[0].resnets[0], *whole.decoder.up_blocks[levels - 1].resnets]
    for block in outer:
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
    upsample = whole.decoder.up_blocks[levels - 2].upsamplers[0].conv
    nn.init.dirac_(upsample.weight)
    nn.init.zeros_(upsample.bias)
    return whole


def make_whole(
    inner: AutoencoderKL,
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch: int = 6, device: str = "cpu",
) -> AutoencoderKL:  # fmt: skip
    """Second stride, 128 px: the encoder learns to give the inner one's latents, so that they stay valid."""
    vae = _on(grow(inner), device)
    teacher: Any = _on(inner, device).eval().requires_grad_(False)
    index = np.arange(0, len(held_out), 6)[:48]
    pixels, parts = held_out.images(index, device), held_out.parts(index, device)
    half = model.RESOLUTION // 2

    def loss_of(vae: Any, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(0, len(data), batch)
        pixels = data.images(index, device)
        weight = weight_map(data.parts(index, device), model.RESOLUTION)
        with half_precision(device):
            with torch.no_grad():
                goal = teacher.encode(
                    F.interpolate(pixels, size=(half, half), mode="area")
                ).latent_dist.mode()
            latents = vae.encode(pixels).latent_dist.mode()
            output = vae.decode(goal + 0.05 * torch.randn_like(goal)).sample
        return reconstruction_loss(output, pixels, weight) + (latents.float() - goal.float()).square().mean()

    return fit(
        "autoencoder", vae, loss_of, steps=steps, learning_rate=1e-3, work=work,
        report=lambda net: face_psnr(net, pixels, parts), report_every=100,
    )  # fmt: skip


def finish_decoder(
    whole: AutoencoderKL,
    latents: Tensor,
    data: Dataset, held_out: Dataset, work: Path, steps: int, batch: int = 6, device: str = "cpu",
    name: str = "decoder",
) -> AutoencoderKL:  # fmt: skip
    """Third stride: the decoder alone goes on, from the latents (N, C, 16, 16) that the painter learned.

    The encoder keeps its weights, and with it everything that was ever encoded.  The loss is nearer to PSNR.
    """
    whole = _on(whole, device).requires_grad_(False)
    trained = [whole.decoder, whole.post_quant_conv]
    parameters = [p for part in trained for p in part.requires_grad_(True).parameters()]
    index = np.arange(0, len(held_out), 6)[:48]
    pixels, parts = held_out.images(index, device), held_out.parts(index, device)

    def loss_of(vae: Any, rng: np.random.Generator, progress: float) -> Tensor:
        index = np.sort(rng.integers(0, len(data), batch))
        pixels, parts = data.images(index, device), data.parts(index, device)
        weight = weight_map(parts, model.RESOLUTION, person=1.5, face=3.0, features=6.0)
        goal = latents[torch.from_numpy(index)].to(device)
        with half_precision(device):
            output = vae.decode(goal + 0.06 * torch.randn_like(goal)).sample
        error = output.float() - pixels
        smooth = F.avg_pool2d(error, 8)
        return (weight * (0.5 * error.abs() + 4 * error.square())).mean() + smooth.abs().mean()

    return fit(
        name, whole, loss_of, steps=steps, learning_rate=1.5e-3, work=work, averaging=0.995,
        groups=[{"params": parameters, "rate": 1.0}],
        report=lambda net: face_psnr(net, pixels, parts), report_every=100,
    )  # fmt: skip


WIDE = 16  # channels of the second Miniature's latents


@torch.no_grad()
def widened(vae: Any) -> AutoencoderKL:
    """The shipped autoencoder with 16 channels, of which the first four are its own, of unit weight; for now
    the decoder reads nothing in the others, which the encoder fills at random."""
    torch.manual_seed(2)
    old, scale = vae.config.latent_channels, vae.config.scaling_factor
    wide: Any = AutoencoderKL(**{**model.vae_config(), "latent_channels": WIDE, "scaling_factor": 1.0})
    state, shipped = wide.state_dict(), vae.state_dict()
    state |= {key: value for key, value in shipped.items() if state[key].shape == value.shape}
    for key in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        state[key][:old], state[key][WIDE : WIDE + old] = shipped[key].chunk(2)
    state["quant_conv.weight"] = torch.eye(2 * WIDE)[:, :, None, None]
    heard = [*range(old), *range(WIDE, WIDE + old)]  # by the shipped means: what was means and spreads
    state["quant_conv.weight"][:old, heard] = shipped["quant_conv.weight"][:old] * scale
    state["quant_conv.bias"] = torch.zeros(2 * WIDE)
    state["quant_conv.bias"][:old] = shipped["quant_conv.bias"][:old] * scale
    state["post_quant_conv.weight"] = torch.eye(WIDE)[:, :, None, None]
    state["post_quant_conv.weight"][:old, :old] = shipped["post_quant_conv.weight"] / scale
    state["post_quant_conv.bias"] = torch.zeros(WIDE)
    state["post_quant_conv.bias"][:old] = shipped["post_quant_conv.bias"]
    state["decoder.conv_in.weight"] = torch.zeros(state["decoder.conv_in.weight"].shape)
    state["decoder.conv_in.weight"][:, :old] = shipped["decoder.conv_in.weight"]
    wide.load_state_dict(state)
    return wide


def make_wide(
    shipped: AutoencoderKL, data: Dataset, held_out: Dataset, work: Path, steps: int, batch: int = 6,
    device: str = "cpu",
) -> AutoencoderKL:  # fmt: skip
    """The second Miniature's autoencoder, from the first's; its latents are held at a deviation of 1."""
    vae = _on(widened(shipped), device)
    index = np.arange(0, len(held_out), 6)[:48]
    pixels, parts = held_out.images(index, device), held_out.parts(index, device)

    def loss_of(vae: Any, rng: np.random.Generator, progress: float) -> Tensor:
        index = np.sort(rng.integers(0, len(data), batch))
        pixels, parts = data.images(index, device), data.parts(index, device)
        weight = weight_map(parts, model.RESOLUTION, person=1.5, face=3.0, features=6.0)
        with half_precision(device):
            mean = vae.encode(pixels).latent_dist.mode()
            output = vae.decode(mean + 0.05 * torch.randn_like(mean)).sample
        error, mean = output.float() - pixels, mean.float()
        centred = mean.mean((0, 2, 3)).square().sum() + (mean.std((0, 2, 3)) - 1).square().sum()
        smooth = F.avg_pool2d(error, 8)
        return (
            (weight * (0.5 * error.abs() + 4 * error.square())).mean() + smooth.abs().mean() + 0.02 * centred
        )

    def report(network: Any) -> dict[str, float]:
        with torch.no_grad():
            deviation = network.encode(pixels[:16]).latent_dist.mode().std((0, 2, 3))
        spread = {"least": round(float(deviation.min()), 2), "most": round(float(deviation.max()), 2)}
        return {**face_psnr(network, pixels, parts), **spread}

    return fit(
        "autoencoder16", vae, loss_of, steps=steps, learning_rate=1e-3, work=work, report=report,
        report_every=200,
    )  # fmt: skip


@torch.no_grad()
def evened(vae: Any, latents: Tensor, noise: float = 0.05) -> AutoencoderKL:
    """Moves each channel's mean and deviation over raw latents (N, C, h, w) into the layers beside them, so
    that all have unit weight; the posterior's deviation becomes the `noise` that the decoder learned with."""
    channels = latents.shape[1]
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    vae.quant_conv.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / deviation
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = 2 * (noise / deviation).log()
    weight = vae.post_quant_conv.weight
    vae.post_quant_conv.bias += (weight[:, :, 0, 0] * mean).sum(1)
    weight *= deviation.view(1, -1, 1, 1)
    return vae


def _on(vae: AutoencoderKL, device: str | torch.device) -> AutoencoderKL:
    """diffusers' own `to` has lost its signature behind a decorator."""
    moved: Any = nn.Module.to(vae, device)
    return moved


@torch.no_grad()
def fold_scale(vae: Any, mean: float, deviation: float, noise: float = 0.05) -> AutoencoderKL:
    """Moves the latents' `mean` and `deviation` into the layers, so that 0.18215 makes them standard.

    The posterior's deviation becomes the constant `noise` (a share of the latents' own) that the decoder
    was trained with.
    """
    channels = model.vae_config()["latent_channels"]
    gain = 1 / (model.vae_config()["scaling_factor"] * deviation)
    vae.quant_conv.weight[:channels] *= gain
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) * gain
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = 2 * float(np.log(noise * deviation * gain))
    weight = vae.post_quant_conv.weight
    vae.post_quant_conv.bias += weight.sum((1, 2, 3)) * mean
    weight /= gain
    return vae
