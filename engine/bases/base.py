"""The frozen model that concepts are learned on: a network, what reads prompts, a process, an autoencoder.

Pixels are (B, 3, H, W) in [-1, 1]; latents are scaled as the network sees them; t (B,) is in [0, 1].
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..artifact.flux2_names import is_flux2
from ..artifact.krea2_names import is_krea2
from ..artifact.lora import adaptable_in
from ..artifact.z_image_names import is_z_image
from ..config import MODEL_FILES, BaseSpec
from ..errors import LikenessError
from ..files import reading
from .conditioning import Conditioning
from .denoisers.conditional_unet import ConditionalUNet
from .denoisers.flux2_transformer import Flux2Transformer
from .denoisers.krea2_transformer import Krea2Transformer
from .denoisers.protocol import Denoiser
from .denoisers.z_image import WORDS_MULTIPLE
from .denoisers.z_image_transformer import ZImageTransformer
from .families import FAMILIES, KNOWN, MINIATURE, SECOND_MINIATURE, Family, distilled_by_name
from .frame_vae import FrameVAE
from .loaders.checkpoint_file import read_checkpoint_tensors
from .loaders.flux2 import Flux2Parts, is_flux2_folder, read_flux2_file, read_flux2_folder
from .loaders.folder import import_networks, read_folder
from .loaders.krea2 import Krea2Parts, is_krea2_folder, read_krea2_file, read_krea2_folder
from .loaders.second_miniature import second_miniature
from .loaders.single_file import read_single_file
from .loaders.z_image import ZImageParts, is_z_image_folder, read_z_image_file, read_z_image_folder
from .numbers import check_pixels
from .packed_vae import PackedVAE
from .precision import dtype_of, without_autocast
from .process.ddpm import DDPM, noise_schedule
from .process.flow import KREA2_SHIFT, flux2_flow, krea2_flow, krea2_shift, miniature_flow, z_image_flow
from .process.protocol import Process
from .sampling import ModelWrapper, unwrapped
from .stored import first_numbers
from .text.clip import ClipText
from .text.krea2 import Krea2Text
from .text.protocol import Rows, TextStack, Tokens
from .text.qwen import LENGTH, THOUGHT, QwenText
from .turns import Turns

__all__ = [
    "BaseModel",
    "Rows",
    "Tokens",
    "flux2_base",
    "krea2_base",
    "load_base",
    "unet_base",
    "z_image_base",
]

log = logging.getLogger(__name__)

LARGEST_SIDE = 16_384  # pixels
VAE_PIXELS = 8 * 256 * 256  # that go through an autoencoder together


class BaseModel(nn.Module):
    """Denoiser, autoencoder and text encoders, frozen and in evaluation mode."""

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        vae: nn.Module,
        text: TextStack,
        process: Process,
        family: str,
        resolution: int,
        attention_side: int | None = None,  # None: the family's, else as the denoiser's kind has it
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.text = text
        self.process = process
        self.network: Any = denoiser.module
        self.vae: Any = vae
        self.text_encoders: Any = text.encoders
        self.family = family
        self.name = ""  # of its file, where it came out of one; people know it by that
        self.resolution = resolution
        self.latent_channels: int = vae.config.latent_channels  # type: ignore[union-attr]
        self.latent_scale: float = vae.config.scaling_factor  # type: ignore[union-attr]
        # FLUX's and SD 3's autoencoders have one
        self.latent_shift: float = getattr(vae.config, "shift_factor", None) or 0.0
        self.pixels_per_latent = pixels_per_latent(vae)
        self.distilled: bool | None = False  # to draw in a few steps; None: nothing says so
        self.pass_size = 0  # rows in one pass of the network while something is learned; 0: all
        self.model_wrapper: ModelWrapper = unwrapped  # for models that draw while something is learned on it
        self._away: list[nn.Module] = []  # parts that wait on the CPU
        self.turns: Turns | None = None  # whose weights are on the device only while they are needed
        # SD's upper levels see the picture at a quarter of the latents' side; joint attention sees all tokens
        reduction = next((layer.reduction for layer in denoiser.attention_layers().values()), 1)
        side = resolution // self.pixels_per_latent // (4 if denoiser.cross_attention() else reduction)
        self.attention_side = attention_side or self.traits.attention_side or side
        self.fingerprint = fingerprint or weights_fingerprint(self)
        self.requires_grad_(False)
        self.eval()

    @property
    def unet(self) -> Any:
        """The network, where it is known to be a U-Net."""
        return self.network

    @property
    def tokenizers(self) -> dict[str, Any]:
        return self.text.tokenizers

    @property
    def offers(self) -> frozenset[str]:
        """What methods may ask of it, of `features`."""
        return self.denoiser.offers | self.text.offers

    def train(self, mode: bool = True) -> "BaseModel":
        """Stays in evaluation mode whatever the method around it does."""
        return super().train(False)

    @property
    def traits(self) -> Family:
        """What is known of its family."""
        return FAMILIES[self.family]

    @property
    def device(self) -> torch.device:
        return self.turns.device if self.turns else next(self.network.parameters()).device

    @property
    def identity(self) -> str:
        """A short name for all that is learned on: every number of network, text encoders and autoencoder,
        what the network predicts and at which noise. What is kept of one run for another goes by it."""
        return self._identities[0]

    @property
    def identities(self) -> Mapping[str, str]:
        """The same of each part alone, with what is settled beside weights: `network`, `vae` and the text
        encoders by their names."""
        return self._identities[1]

    @cached_property
    def _identities(self) -> tuple[str, dict[str, str]]:
        whole, alone = hashlib.sha256(self.process.recipe()), {}
        parts = {"network": self.network, "vae": self.vae, **self.text_encoders}
        for part, module in parts.items():
            alone_hash = hashlib.sha256()
            for name, weight in sorted(module.state_dict().items()):
                numbers = weight.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy()
                line = f"{part} {name} {weight.dtype} {crc32(numbers)}".encode()
                whole.update(line)
                alone_hash.update(line)
            alone_hash.update(_settled(module).encode())
            alone[part] = alone_hash.hexdigest()
        return whole.hexdigest()[:16], alone

    def send_away(self, part: nn.Module) -> None:
        """Moves a part to the CPU, where it works (text encoders) or waits for work (the autoencoder)."""
        if part not in self._away:
            self._away.append(part.to("cpu"))

    def call_back(self) -> None:
        """Moves all parts sent away to the U-Net's device again; what took turns stays on the CPU."""
        device, away = self.device, self._away
        self._away = []
        for part in away:
            part.to(device)
        if self.turns:
            self.turns.end()
            self.turns = None

    def take_turns(self, device: torch.device, blocks: bool = False) -> Turns:
        """From now on one network at a time has its weights on the device, the denoiser or the text encoder;
        with `blocks`, one of their blocks, for which inner states must be computed again (`recompute`)."""
        before = self.turns
        if before:
            before.end()
        network, words = self.denoiser.blocks(), self.text.blocks()
        parts = [[block] for block in (*words, *network)]
        self.turns = Turns(parts if blocks else [words, [self.network, *network]], device)
        if before:
            self.to(device)  # what is in no block waited with the others
        return self.turns

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "BaseModel":
        """Whatever moves it, and all around it, leaves what waits where it is."""
        waiting = set(self.turns.waiting if self.turns else ())
        for part in self._away:
            waiting |= {id(tensor) for tensor in (*part.parameters(), *part.buffers())}
        return super()._apply(lambda tensor: tensor if id(tensor) in waiting else fn(tensor), recurse)

    def recompute(self, on: bool) -> None:
        """Whether inner states are computed again for the gradients: of the network, and of a text encoder
        that is large enough to matter."""
        (self.network.enable_gradient_checkpointing if on else self.network.disable_gradient_checkpointing)()
        if hasattr(self.text, "checkpointing"):
            self.text.checkpointing = on  # type: ignore[attr-defined]

    def lora_layers(self) -> dict[str, nn.Module]:
        """The layers that LoRAs change, by the names that its family's files have for them."""
        return adaptable_in(self.network, dict(self.text_encoders.items()), self.traits.peft_names)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of this size; by default the base's own."""
        height, width = (self.resolution if side is None else side for side in (height, width))
        if not 0 < min(height, width) <= max(height, width) <= LARGEST_SIDE:
            raise LikenessError(
                f"{width} by {height} pixels are no size of a picture; give 1 to {LARGEST_SIDE} a side"
            )
        if height % self.pixels_per_latent or width % self.pixels_per_latent:
            raise LikenessError(
                f"{width} by {height} pixels do not fit this base; use multiples of {self.pixels_per_latent}"
            )
        return self.latent_channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    # -------------------------------------------------------------------------------- pictures and latents

    @torch.no_grad()
    def encode_posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) of the latents of pixels (B, 3, H, W)."""

        def encode() -> Tensor:
            posteriors = []
            for part in pixels.split(self.at_once(*pixels.shape[-2:])):
                encoded = self.vae.encode(part.to(self.device, dtype_of(self.vae)))
                if hasattr(encoded, "latents"):  # TAESD knows one latent for a picture, no spread
                    mean, std = encoded.latents, torch.zeros_like(encoded.latents)
                else:
                    mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
                posteriors.append(torch.stack([mean.float() - self.latent_shift, std.float()]))
            return torch.cat(posteriors, dim=1) * self.latent_scale

        mean, std = self._through_vae(encode)
        return mean, std

    def encode_pixels(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, h, w), drawn from the posterior with a CPU generator, or its mean without one."""
        mean, std = self.encode_posterior(pixels)
        if generator is None:
            return mean
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1]; raises LikenessError where the VAE gives no numbers."""
        return check_pixels(self.decode_with_gradients(latents))

    def decode_with_gradients(self, latents: Tensor) -> Tensor:
        """The same, for losses that look at the picture."""

        def decode() -> Tensor:
            unscaled = latents.to(self.device, dtype_of(self.vae)) / self.latent_scale + self.latent_shift
            height, width = (side * self.pixels_per_latent for side in latents.shape[-2:])
            parts = unscaled.split(self.at_once(height, width))
            return torch.cat([self.vae.decode(part, return_dict=False)[0].float() for part in parts])

        return self._through_vae(decode).clamp(-1, 1)

    def _through_vae(self, work: Callable[[], Tensor]) -> Tensor:
        """What the work gives; once more in fp32 where SDXL's autoencoder overflowed in half precision."""
        away = self.vae in self._away
        if away:
            self.vae.to(self.device)
        with without_autocast(self.device):  # SD's autoencoder overflows in fp16
            result = work()
            if dtype_of(self.vae) != torch.float32 and not bool(result.isfinite().all()):
                kind = str(dtype_of(self.vae)).removeprefix("torch.")
                log.warning("the VAE gives no numbers in %s; it goes on in fp32", kind)
                self.vae.float()
                result = work()
        if away:
            self.vae.to("cpu")
        return result

    def at_once(self, height: int, width: int) -> int:
        """Pictures of this size that go through the autoencoder together: its inner states are large."""
        return max(1, VAE_PIXELS // (height * width))

    # ------------------------------------------------------------------------------------------- diffusion

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output (B, C, h, w) for noisy latents at times (B,)."""
        network_time, size = self.process.network_time(t), self.pass_size
        if size and len(noisy) > size and torch.is_grad_enabled():
            # each part's inner states are thrown away and computed again in its backward pass: memory holds
            # one part, while the losses see all rows
            rows = zip(noisy.split(size), network_time.split(size), conditioning.split(size))
            return torch.cat([checkpoint(self.denoiser, *part, use_reentrant=False) for part in rows])
        return self.denoiser(noisy, network_time, conditioning)

    # ------------------------------------------------------------------------------------------------ text

    def tokenize(
        self, prompts: Sequence[str], rows: Rows | None = None, encoder: str = "", *, weights: bool = False
    ) -> Tokens:
        """Token ids of prompts whose placeholders (`<v0>`) take one place for each of their vectors; without
        a name, as the first encoder has them. `weights`: as for `encode_text`."""
        name = encoder or next(iter(self.text_encoders))
        return self.text.tokenize(prompts, rows, name, weights=weights)

    def encode_text(
        self, prompts: Sequence[str], rows: Rows | None = None, *, weights: bool = False
    ) -> Conditioning:
        """What the prompts say, with `rows` in the place of placeholders.

        `weights`: brackets say how much words count, as where something is drawn; else they are letters.
        """
        if self.turns:
            self.turns.bring(0)  # the text encoder's first part: it is asked where it is
        return self.text.encode(prompts, rows, self.device, weights=weights)

    def word_rows(self, text: str) -> dict[str, Tensor]:
        """The token tables' own rows (n, D) for a text, by text encoder, as copies."""
        return self.text.word_rows(text)


def _settled(network: Any) -> str:
    """What a network's configuration says of how it computes."""
    config: Any = getattr(network, "config", {})
    if hasattr(config, "to_dict"):  # transformers'
        plain = config.to_dict()
    else:  # diffusers', or what is told of a network around another
        plain = dict(config) if isinstance(config, Mapping) else vars(config)
    beside = ("_", "transformers_version", "torch_dtype", "dtype")
    return repr(sorted((key, value) for key, value in plain.items() if not key.startswith(beside)))


def pixels_per_latent(vae: Any) -> int:
    """Pixels a side that one of the autoencoder's latents stands for."""
    packed: int | None = getattr(vae, "pixels_per_latent", None)
    return packed or 2 ** (len(vae.config.block_out_channels) - 1)


def unet_base(
    *,
    unet: nn.Module,
    vae: nn.Module,
    text_encoders: Mapping[str, nn.Module],
    tokenizers: Mapping[str, Any],
    alphas_cumprod: Tensor,  # (T,)
    family: str,
    resolution: int,
    prediction_type: str = "epsilon",
    attention_side: int | None = None,
    fingerprint: str | None = None,
) -> BaseModel:
    """A base of Stable Diffusion's kind: a U-Net that reads CLIP and predicts noise, or its velocity."""
    channels: Any = (unet.config.in_channels, vae.config.latent_channels)  # type: ignore[union-attr]
    if channels[0] != channels[1]:
        raise LikenessError(
            f"this VAE makes latents of {channels[1]} channels, but the model reads {channels[0]}: it is for "
            "another kind of model; use the base's own, or its TAESD"
        )
    denoiser = ConditionalUNet(unet, pixels_per_latent(vae))
    return BaseModel(
        denoiser=denoiser,
        vae=vae,
        text=ClipText(nn.ModuleDict(text_encoders), dict(tokenizers), denoiser.pooled_width > 0),
        process=DDPM(alphas_cumprod, prediction_type),
        family=family,
        resolution=resolution,
        attention_side=attention_side,
        fingerprint=fingerprint,
    )


def flux2_base(parts: Flux2Parts, fingerprint: str | None = None) -> BaseModel:
    """A base of FLUX.2's kind: joint attention that reads Qwen3, rectified flow."""
    row = FAMILIES[parts.family]
    (name,) = row.encoders
    base = BaseModel(
        denoiser=Flux2Transformer(parts.transformer),
        vae=parts.vae if row.own_world else PackedVAE(parts.vae),
        text=QwenText(name, parts.text_encoder, parts.tokenizer, parts.taps, parts.length),
        process=miniature_flow() if row.own_world else flux2_flow(row.noise_scale),
        family=parts.family,
        resolution=parts.resolution,
        fingerprint=fingerprint,
    )
    base.distilled = parts.distilled
    return base


def z_image_base(parts: ZImageParts, fingerprint: str | None = None) -> BaseModel:
    """A base of Z-Image's kind: one stream of words and picture, of which a mask says how many there are."""
    row = FAMILIES[parts.family]
    (name,) = row.encoders
    base = BaseModel(
        denoiser=ZImageTransformer(parts.transformer),
        vae=parts.vae,
        text=QwenText(
            name,
            parts.text_encoder,
            parts.tokenizer,
            parts.taps,
            LENGTH,
            multiple=WORDS_MULTIPLE,
            closing=THOUGHT,
        ),
        process=z_image_flow(row.noise_scale),
        family=parts.family,
        resolution=parts.resolution,
        fingerprint=fingerprint,
    )
    base.distilled = parts.distilled
    return base


def krea2_base(parts: Krea2Parts, fingerprint: str | None = None) -> BaseModel:
    """A base of Krea 2's kind: joint attention that reads Qwen3-VL, rectified flow."""
    row = FAMILIES["krea2"]
    (name,) = row.encoders

    def shift(latents: int, steps: int) -> float:
        """Turbo's stays where ComfyUI has it for both."""
        return KREA2_SHIFT if base.distilled else krea2_shift(latents, steps)

    base = BaseModel(
        denoiser=Krea2Transformer(parts.transformer),
        vae=FrameVAE(parts.vae),
        text=Krea2Text(name, parts.text_encoder, parts.tokenizer, parts.taps, parts.length),
        process=krea2_flow(shift, row.noise_scale),
        family=row.key,
        resolution=parts.resolution,
        fingerprint=fingerprint,
    )
    base.distilled = parts.distilled
    return base


class _Transformer(NamedTuple):
    """How a kind of diffusion transformer is known and read."""

    is_folder: Callable[[Path], bool]  # diffusers' own
    read_folder: Callable[[Path], Any]
    is_file: Callable[[Iterable[str]], bool]  # by the names of its tensors
    read_file: Callable[[Path, Mapping[str, Tensor], BaseSpec], Any]
    base: Callable[[Any], BaseModel]  # around what was read


_TRANSFORMERS = (
    _Transformer(is_flux2_folder, read_flux2_folder, is_flux2, read_flux2_file, flux2_base),
    _Transformer(is_z_image_folder, read_z_image_folder, is_z_image, read_z_image_file, z_image_base),
    _Transformer(is_krea2_folder, read_krea2_folder, is_krea2, read_krea2_file, krea2_base),
)


def weights_fingerprint(model: BaseModel) -> str:
    """A short name for these weights: equal in every file format and precision that holds them."""
    total = hashlib.sha256()
    for part in (model.network, *model.text_encoders.values()):
        for name, shape, few in first_numbers(part, 64):
            if few.is_floating_point():
                total.update(f"{re.sub('^text_model[.]', '', name)}{tuple(shape)}".encode())
                total.update(few.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- loading


def load_base(spec: BaseSpec) -> BaseModel:
    """The base in fp32 on the CPU, from files that are here: nothing is downloaded."""
    import_networks()
    with torch.random.fork_rng(devices=[]):  # building networks draws random weights first
        if spec.kind == "miniature":
            return named(_load_miniature(), MINIATURE)
        if spec.kind == "miniature-2":
            return named(flux2_base(*second_miniature()), SECOND_MINIATURE)
        if spec.kind == "graph":
            raise LikenessError(
                "a base taken from ComfyUI lives only there; name a checkpoint or 'miniature'"
            )
        path = _cached(spec.path or "") if spec.kind == "hub" else Path(os.path.expanduser(spec.path or ""))
        if not path.exists():
            raise LikenessError(
                f"there is no base model at {path}; give a checkpoint, a folder or 'miniature'"
            )
        called = (spec.path or "") if spec.kind == "hub" else path.resolve().name
        if path.is_dir():
            with reading(path, "is no diffusers model, or is damaged; get it again or choose another"):
                for kind in _TRANSFORMERS:
                    if kind.is_folder(path):
                        return named(kind.base(kind.read_folder(path)), called)
                parts = read_folder(path, spec.prediction)
                return named(unet_base(**vars(parts), resolution=parts.resolution), called)
        else:
            stored = read_checkpoint_tensors(path)
            for kind in _TRANSFORMERS:
                if kind.is_file(stored.tensors):
                    return named(kind.base(kind.read_file(path, stored.tensors, spec)), called)
            parts = read_single_file(path, spec, stored)
            return named(unet_base(**vars(parts), resolution=parts.resolution), called)


def named(base: BaseModel, name: str) -> BaseModel:
    """The base, called as its file is, without the ending."""
    ending = next((end for end in MODEL_FILES if name.lower().endswith(end)), "")
    base.name = name[: len(name) - len(ending)]
    if base.distilled is None:
        base.distilled = distilled_by_name(base.name)
    return base


def _cached(name: str) -> Path:
    """Where the hub's local cache has a model; nothing is downloaded without being asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise LikenessError(
            f"{name} is no file here and not in the hub's local cache, and nothing is downloaded unasked; "
            f"run `hf download {name}`, or give {KNOWN}"
        ) from error


def _load_miniature() -> BaseModel:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from ..miniature import model as miniature
    from ..miniature.networks import text_encoder as miniature_text_encoder

    unet: Any = UNet2DConditionModel.from_config(miniature.miniature_unet_config())
    vae: Any = AutoencoderKL.from_config(miniature.vae_config())
    for part, name in ((unet, "unet"), (vae, "vae")):
        part.load_state_dict(miniature.state_dict(name))
    schedule = miniature.scheduler_config()
    return unet_base(
        unet=unet,
        vae=vae,
        text_encoders={"clip_l": miniature_text_encoder()},
        tokenizers={"clip_l": miniature.tokenizer()},
        alphas_cumprod=noise_schedule(schedule),
        family=MINIATURE,
        resolution=miniature.RESOLUTION,
        prediction_type=schedule.get("prediction_type", "epsilon"),
        fingerprint=miniature.fingerprint(),
    )
