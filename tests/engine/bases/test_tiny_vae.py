"""TAESD in an autoencoder's stead: in every layout it comes in, and real pictures through it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import Tensor

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.loaders.vae import read_vae
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.data.examples import square_pixels
from likeness_portraits.engine.data.pictures import read_picture
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.miniature import model as miniature
from likeness_portraits.tests.engine.data.kit_made import FIRST, PEOPLE
from likeness_portraits.tests.engine.tiny import tiny_base
from likeness_portraits.tests.engine.training.checkpoints_made import checkpoint_of


def halves(vae: torch.nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The autoencoder as its author gives it away: the decoder's layers are numbered from a clamp on."""
    encoder, decoder = {}, {}
    for key, value in vae.state_dict().items():
        half, _, number, rest = key.split(".", 3)
        if half == "encoder":
            encoder[f"{number}.{rest}"] = value.clone()
        else:
            decoder[f"{int(number) + 1}.{rest}"] = value.clone()
    return encoder, decoder


@pytest.fixture(scope="module")
def tiny() -> AutoencoderTiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoencoderTiny().eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "base.safetensors"
    state = checkpoint_of(tiny_base(heads=8, text_heads=1))
    save_file({key: value.clone() for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def places(tiny: AutoencoderTiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The autoencoder in each layout."""
    folder = tmp_path_factory.mktemp("taesd")
    encoder, decoder = halves(tiny)
    save_file(encoder, folder / "taesd_encoder.safetensors")
    save_file(decoder, folder / "taesd_decoder.safetensors")
    torch.save(encoder, folder / "taesd_encoder.pth")
    torch.save(decoder, folder / "taesd_decoder.pth")
    save_file({key: value.clone() for key, value in tiny.state_dict().items()}, folder / "taesd.safetensors")
    tiny.save_pretrained(folder / "diffusers")
    tiny.save_pretrained(folder / "model" / "vae")
    return {
        "its encoder": folder / "taesd_encoder.safetensors",
        "its decoder": folder / "taesd_decoder.safetensors", "pickled": folder / "taesd_encoder.pth",
        "one file": folder / "taesd.safetensors", "folder": folder / "diffusers", "model": folder / "model",
    }  # fmt: skip


LAYOUTS = ("its encoder", "its decoder", "pickled", "one file", "folder", "model")


def loaded(checkpoint: Path, vae: Path) -> BaseModel:
    tokenizer = str(miniature.tokenizer_folder())
    return load_base(BaseSpec(kind="checkpoint", path=str(checkpoint), tokenizer=tokenizer, vae=str(vae)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_latents_are_those_of_the_autoencoder_in_every_layout(
    tiny: AutoencoderTiny, checkpoint: Path, places: dict[str, Path], layout: str
):
    base = loaded(checkpoint, places[layout])
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = tiny.encode(pixels).latents
        pictures = tiny.decode(latents).sample.clamp(-1, 1)
    mean, spread = base.encode_posterior(pixels)
    assert torch.equal(mean, latents) and not spread.any() and mean.shape == (2, 4, 8, 8)
    torch.testing.assert_close(base.decode(mean), pictures)
    assert base.latent_shape(64, 64) == (4, 8, 8)
    assert generate(base, ["a photo"], steps=1, width=64, height=64).shape == (1, 64, 64, 3)


def test_a_diffusers_model_may_hold_it_itself(tiny: AutoencoderTiny, tmp_path: Path):
    base = tiny_base()
    base.unet.save_pretrained(tmp_path / "unet")
    tiny.save_pretrained(tmp_path / "vae")
    base.text_encoders["clip_l"].save_pretrained(tmp_path / "text_encoder")
    base.tokenizers["clip_l"].save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "scheduler").mkdir()
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                "num_train_timesteps": 1000}  # fmt: skip
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    found = load_base(BaseSpec(kind="diffusers", path=str(tmp_path)))
    pixels = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.encode_pixels(pixels), tiny.encode(pixels).latents)
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    with pytest.raises(LikenessError, match="holds a VAE of the kind VQModel, which cannot be used"):
        load_base(BaseSpec(kind="diffusers", path=str(tmp_path)))


def test_half_of_it_alone_is_refused(checkpoint: Path, places: dict[str, Path], tmp_path: Path):
    half = tmp_path / "taesd_decoder.safetensors"
    half.write_bytes(places["its decoder"].read_bytes())
    with pytest.raises(LikenessError, match="is the decoder of a tiny autoencoder .* as taesd_encoder.safe"):
        loaded(checkpoint, half)


def test_one_for_other_latents_is_refused(checkpoint: Path, tmp_path: Path):
    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path)
    with pytest.raises(LikenessError, match="latents of 16 channels, but the model reads 4"):
        loaded(checkpoint, tmp_path)


def test_one_of_other_layers_is_refused(checkpoint: Path, places: dict[str, Path], tmp_path: Path):
    encoder, decoder = halves(AutoencoderTiny(num_encoder_blocks=(1, 1, 3, 3)))
    save_file(encoder, tmp_path / "taesd_encoder.safetensors")
    save_file(decoder, tmp_path / "taesd_decoder.safetensors")
    with pytest.raises(LikenessError, match=r"taesd_encoder\.safetensors is no VAE that can be used"):
        loaded(checkpoint, tmp_path / "taesd_encoder.safetensors")


@pytest.mark.real
@pytest.mark.parametrize(("name", "channels"), [("taesd", 4), ("taesdxl", 4), ("taesd3", 16), ("taef1", 16)])
def test_photographs_come_back_out_of_real_latents(kit: Path, name: str, channels: int):
    vae = read_vae(kit, {}, "sd1", str(kit / "taesd" / f"{name}_encoder.safetensors"))
    pixels = torch.stack([square_pixels(read_picture(kit / PEOPLE / picture), 256) for picture in FIRST])
    with torch.no_grad():
        latents = vae.encode(pixels).latents
        again = vae.decode(latents).sample.clamp(-1, 1)
    assert latents.shape == (3, channels, 32, 32) and 0.3 < latents.std() < 3
    error = float(((again - pixels) ** 2).mean())
    assert 10 * np.log10(4 / error) > (26 if channels == 16 else 22)
