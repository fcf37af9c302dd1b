"""The frozen diffusion model that concepts are learned on: what it predicts, in whose words, and its loading.

Pixels are (B, 3, H, W) in [-1, 1]; latents are scaled as the U-Net sees them.
"""

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import TOKEN, BaseSpec
from ..devices import sent
from ..errors import LikenessError
from ..identity.conditioning import Showing, unchanged
from .families import FAMILIES, KNOWN, MINIATURE, Family
from .loaders.folder import import_networks, noise_schedule, read_folder
from .loaders.single_file import read_single_file
from .text.chunks import in_chunks, side_by_side

__all__ = ["BaseModel", "Rows", "Tokens", "load_base", "noise_schedule", "vectors_in_place"]

log = logging.getLogger(__name__)

VAE_PIXELS = 8 * 256 * 256  # that go through an autoencoder together
SIZES = 6  # that SDXL is told beside the prompt: height and width, top and left, height and width again
Rows = Mapping[str, Mapping[str, Tensor]]  # vectors (n, D) by placeholder, then by text encoder (clip_l, …)


@dataclass(frozen=True)
class Tokens:
    """Tokenised prompts: ids (B, T), and which of their places are taken by placeholder vectors.

    T is a multiple of what the text encoder reads at once: chunks of a long prompt follow one another.
    """

    ids: Tensor
    places: tuple[tuple[int, int, str, int], ...]  # (prompt, position, placeholder, which of its vectors)


class BaseModel(nn.Module):
    """U-Net, autoencoder and text encoders, frozen and in evaluation mode.

    Text states are (B, T, D). Where the U-Net also reads a pooled vector of the prompt (SDXL), the vector is
    one more row of them, filled up with zeros, so that whoever picks, joins or repeats states keeps both.
    """

    def __init__(
        self,
        *,
        unet: nn.Module,
        vae: nn.Module,
        text_encoders: Mapping[str, nn.Module],  # "clip_l", "clip_g" or "clip_h"
        tokenizers: Mapping[str, Any],
        alphas_cumprod: Tensor,  # (T,)
        family: str,
        resolution: int,
        prediction_type: str = "epsilon",
        attention_side: int | None = None,  # None: the family's, else a quarter of the latents' side
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        self.unet: Any = unet
        self.vae: Any = vae
        self.text_encoders = nn.ModuleDict(text_encoders)
        self.tokenizers = dict(tokenizers)
        self.alphas_cumprod = alphas_cumprod.double().cpu()  # no buffer: casting the model must not round it
        self.family = family
        self.resolution = resolution
        self.prediction_type = prediction_type
        self.latent_channels: int = vae.config.latent_channels
        self.latent_scale: float = vae.config.scaling_factor
        self.pixels_per_latent: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.pass_size = 0  # rows in one pass of the U-Net while something is learned; 0: all
        self.with_people: Showing = unchanged  # what a model of ours shows whose noise it takes away
        self._away: list[nn.Module] = []  # parts that wait on the CPU
        self._shares: dict[torch.device, Tensor] = {}  # the noise schedule (T,) where it was needed
        self._told_sizes: dict[Any, Tensor] = {}  # SDXL's (6,) by picture size, device and precision
        self.pooled_width = _pooled_width(unet.config)
        upper = resolution // self.pixels_per_latent // 4  # SD's upper levels
        self.attention_side = attention_side or self.traits.attention_side or upper
        self.fingerprint = fingerprint or weights_fingerprint(self)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "BaseModel":
        """Stays in evaluation mode whatever the method around it does."""
        return super().train(False)

    @property
    def traits(self) -> Family:
        """What is known of its family."""
        return FAMILIES[self.family]

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def _full_precision(self) -> torch.autocast:
        """No autocast within: SD's autoencoder overflows in fp16."""
        kind = "cpu" if self.device.type == "meta" else self.device.type
        return torch.autocast(kind, enabled=False)

    @property
    def identity(self) -> str:
        """A short name for the weights, what they predict and at which noise, for what is kept of them."""
        noise = self.alphas_cumprod.numpy().round(6).tobytes()
        told = f"{self.fingerprint} {self.prediction_type} ".encode() + noise
        return hashlib.sha256(told).hexdigest()[:16]

    def send_away(self, part: nn.Module) -> None:
        """Moves a part to the CPU, where it works (text encoders) or waits for work (the autoencoder)."""
        if part not in self._away:
            self._away.append(part.to("cpu"))

    def call_back(self) -> None:
        """Moves all parts sent away to the U-Net's device again."""
        for part in self._away:
            part.to(self.device)
        self._away.clear()

    @property
    def timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def tail(self) -> int:
        """Last rows of the text states that nothing attends to: the pooled vector's, where there is one."""
        return int(self.pooled_width > 0)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of this size; by default the base's own."""
        height, width = height or self.resolution, width or self.resolution
        if height % self.pixels_per_latent or width % self.pixels_per_latent:
            raise LikenessError(
                f"{width} by {height} pixels do not fit this base; use multiples of {self.pixels_per_latent}"
            )
        return self.latent_channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    # -------------------------------------------------------------------------------- pictures and latents

    @torch.no_grad()
    def encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) of the latents of pixels (B, 3, H, W)."""

        def encode() -> Tensor:
            found = []
            for part in pixels.split(self.at_once(*pixels.shape[-2:])):
                posterior = self.vae.encode(part.to(self.device, dtype_of(self.vae))).latent_dist
                found.append(torch.stack([posterior.mean.float(), posterior.std.float()]))
            return torch.cat(found, dim=1) * self.latent_scale

        mean, std = self._through_vae(encode)
        return mean, std

    def encode_pixels(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, h, w), drawn from the posterior with a CPU generator, or its mean without one."""
        mean, std = self.encode_moments(pixels)
        if generator is None:
            return mean
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1]."""
        return self.decode_with_gradients(latents)

    def decode_with_gradients(self, latents: Tensor) -> Tensor:
        """The same, for losses that look at the picture."""

        def decode() -> Tensor:
            unscaled = latents.to(self.device, dtype_of(self.vae)) / self.latent_scale
            height, width = (side * self.pixels_per_latent for side in latents.shape[-2:])
            parts = unscaled.split(self.at_once(height, width))
            return torch.cat([self.vae.decode(part, return_dict=False)[0].float() for part in parts])

        return self._through_vae(decode).clamp(-1, 1)

    def _through_vae(self, work: Callable[[], Tensor]) -> Tensor:
        """What the work gives; once more in fp32 where SDXL's autoencoder overflowed in half precision."""
        away = self.vae in self._away
        if away:
            self.vae.to(self.device)
        with self._full_precision():
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

    def _alpha(self, timesteps: Tensor) -> Tensor:
        """Share of the signal's variance left at each timestep: (B, 1, 1, 1) fp32."""
        shares = self._shares.get(timesteps.device)
        if shares is None:
            shares = sent(self.alphas_cumprod.float(), timesteps.device)
            self._shares[timesteps.device] = shares
        return shares[timesteps].view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents (B, C, h, w) as they are at timesteps (B,) of the diffusion."""
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """The U-Net's output (B, C, h, w) for noisy latents, timesteps (B,) and text states (B, T, D)."""
        size = self.pass_size
        if size and len(noisy) > size and torch.is_grad_enabled():
            # each part's inner states are thrown away and computed again in its backward pass: memory holds
            # one part, while the losses see all rows
            rows = zip(noisy.split(size), timesteps.split(size), context.split(size))
            return torch.cat([checkpoint(self._pass, *part, use_reentrant=False) for part in rows])
        return self._pass(noisy, timesteps, context)

    def _pass(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        dtype = dtype_of(self.unet)
        noisy, context, more = noisy.to(dtype), context.to(dtype), {}
        if self.pooled_width:
            pooled = context[:, -1, : self.pooled_width]
            context = context[:, :-1]
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": self._sizes(noisy)}
        whole = nullcontext() if dtype == torch.float32 else self._full_precision()
        with whole:  # weights in half precision know what they compute in
            return self.unet(noisy, timesteps, encoder_hidden_states=context, return_dict=False, **more)[0]

    def _sizes(self, noisy: Tensor) -> Tensor:
        """The sizes (B, 6) that go with latents (B, C, h, w): their own picture, uncropped, as in ComfyUI."""
        height, width = (int(side) * self.pixels_per_latent for side in noisy.shape[-2:])
        key = (height, width, noisy.device, noisy.dtype)
        if key not in self._told_sizes:
            told = [height, width, 0, 0, height, width]
            self._told_sizes[key] = torch.tensor(told, device=noisy.device, dtype=noisy.dtype)
        return self._told_sizes[key].expand(len(noisy), SIZES)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What `predict` should give: the noise, or the velocity (Salimans & Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def clean(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        """The latents that the U-Net's output says are behind the noisy ones."""
        alpha = self._alpha(timesteps)
        if self.prediction_type == "epsilon":
            return (noisy - (1 - alpha).sqrt() * output) / alpha.sqrt()
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * output

    def snr_weights(self, timesteps: Tensor, gamma: float | None) -> Tensor:
        """Min-SNR loss weights (B,) (Hang et al. 2023); 1 without a gamma."""
        if gamma is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        alpha = self._alpha(timesteps).flatten()
        snr = alpha / (1 - alpha)
        scale = (
            snr if self.prediction_type == "epsilon" else snr + 1
        )  # a velocity error weighs snr + 1 already
        return snr.clamp(max=gamma) / scale

    # ------------------------------------------------------------------------------------------------ text

    def tokenize(self, prompts: Sequence[str], rows: Rows | None = None, encoder: str = "clip_l") -> Tokens:
        """Token ids of prompts whose placeholders (`<v0>`) take one place for each of their vectors.

        What is too long for the text encoder goes on in further chunks, each with a start and an end of its
        own; among longer prompts, a short one is repeated.
        """
        tokenizer = self.tokenizers[encoder]
        length = self.text_encoders[encoder].config.max_position_embeddings
        lines = [in_chunks(_spell(tokenizer, prompt, rows or {}, encoder), length - 2) for prompt in prompts]
        count = math.lcm(*map(len, lines))
        ids = torch.full((len(prompts), count * length), tokenizer.pad_token_id, dtype=torch.long)
        places: list[tuple[int, int, str, int]] = []
        for number, chunks in enumerate(lines):
            for start, chunk in zip(range(0, count * length, length), chunks * (count // len(chunks))):
                line = [tokenizer.bos_token_id]
                for piece in chunk:
                    if isinstance(piece, tuple):
                        places.append((number, start + len(line), *piece))
                        piece = tokenizer.bos_token_id  # any id will do: its vector is replaced
                    line.append(piece)
                line.append(tokenizer.eos_token_id)
                ids[number, start : start + len(line)] = torch.tensor(line)
        return Tokens(ids, tuple(places))

    def encode_text(self, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """Text states (B, T, D), with `rows` in the place of placeholders; equal prompts are encoded once."""
        unique = list(dict.fromkeys(prompts))
        states, pooled = [], None
        for name, encoder in self.text_encoders.items():
            tokens = self.tokenize(unique, rows, name)
            chunks = sent(tokens.ids.view(-1, encoder.config.max_position_embeddings), device_of(encoder))
            with vectors_in_place(encoder.get_input_embeddings(), tokens, rows or {}, name):
                told = encoder(chunks, output_hidden_states=self.pooled_width > 0)
            # SDXL listens to the last layer but one, without the final norm
            heard = told.hidden_states[-2] if self.pooled_width else told.last_hidden_state
            states.append(heard.reshape(len(unique), -1, heard.shape[-1]).to(self.device))
            pooled = getattr(told, "text_embeds", pooled)
        context = states[0]
        if self.pooled_width:
            assert pooled is not None
            firsts = pooled[:: len(pooled) // len(unique)]  # what the first chunk says is the prompt's
            context = with_pooled(side_by_side(states), firsts)
        if len(unique) == len(prompts):
            return context
        return context[sent(torch.tensor([unique.index(prompt) for prompt in prompts]), context.device)]

    def pooled_rows(self, prompts: Sequence[str]) -> Tensor:
        """The rows (B, 1, D) that hold the prompts' pooled vectors; (B, 0, D) where the U-Net reads none."""
        if not self.pooled_width:
            width = self.unet.config.cross_attention_dim
            return torch.zeros(len(prompts), 0, width, device=self.device)
        return self.encode_text(prompts)[:, -1:]

    def word_rows(self, text: str) -> dict[str, Tensor]:
        """The token table's own rows (n, D) for a text, by text encoder, as copies."""
        found = {}
        for name, encoder in self.text_encoders.items():
            ids = self.tokenizers[name](text, add_special_tokens=False)["input_ids"]
            found[name] = encoder.get_input_embeddings().weight[ids].detach().float().clone()
        return found


def with_pooled(states: Tensor, pooled: Tensor) -> Tensor:
    """Text states (B, T, D) and the prompts' pooled vectors (B, P) as one (B, T + 1, D)."""
    assert pooled.shape[-1] <= states.shape[-1]
    row = nn.functional.pad(pooled.to(states.device), (0, states.shape[-1] - pooled.shape[-1]))
    return torch.cat([states, row[:, None].to(states.dtype)], dim=1)


def _pooled_width(config: Any) -> int:
    """Numbers in the pooled vector that a U-Net reads beside the text states; 0: it reads none."""
    if config.addition_embed_type != "text_time":
        return 0
    return config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Its weights' dtype; diffusers' own property walks through all parameters, at every call."""
    return next(module.parameters()).dtype


def _spell(tokenizer: Any, prompt: str, rows: Rows, encoder: str) -> list[list[int | tuple[str, int]]]:
    """A prompt as ids and (placeholder, which vector) pairs, without the tokens for start and end: stretches
    of text and placeholders in turn."""

    def read(text: str) -> list[int | tuple[str, int]]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    groups: list[list[int | tuple[str, int]]] = []
    last = 0
    for match in TOKEN.finditer(prompt):
        if match.group() in rows:
            groups.append(read(prompt[last : match.start()]))
            groups.append([(match.group(), number) for number in range(len(rows[match.group()][encoder]))])
            last = match.end()
    return [*groups, read(prompt[last:])]


@contextmanager
def vectors_in_place(table: nn.Module, tokens: Tokens, rows: Rows, encoder: str):
    """Within, the token table answers with `rows` at the placeholders' places; it is itself not touched."""
    if not tokens.places:
        yield
        return
    prompt = torch.tensor([place[0] for place in tokens.places])
    position = torch.tensor([place[1] for place in tokens.places])
    vectors = torch.stack([rows[name][encoder][number] for _, _, name, number in tokens.places])

    def replace(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        length = output.shape[1]  # of a chunk
        row = prompt * (tokens.ids.shape[1] // length) + position // length
        where = (sent(row, output.device), sent(position % length, output.device))
        return output.index_put(where, vectors.to(output.device, output.dtype))

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def weights_fingerprint(model: BaseModel) -> str:
    """A short name for these weights: equal in every file format and precision that holds them."""
    total = hashlib.sha256()
    for part in (model.unet, *model.text_encoders.values()):
        for name, weight in sorted(part.state_dict().items()):
            if weight.is_floating_point():
                few = weight.flatten()[:64].detach().to("cpu", torch.float16)
                total.update(f"{re.sub('^text_model[.]', '', name)}{tuple(weight.shape)}".encode())
                total.update(few.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- loading


def load_base(spec: BaseSpec) -> BaseModel:
    """The base in fp32 on the CPU, from files that are here: nothing is downloaded."""
    import_networks()
    with torch.random.fork_rng(devices=[]):  # building networks draws random weights first
        if spec.kind == "miniature":
            return _load_miniature()
        if spec.kind == "graph":
            raise LikenessError(
                "a base taken from ComfyUI lives only there; name a checkpoint or 'miniature'"
            )
        path = _cached(spec.path or "") if spec.kind == "hub" else Path(spec.path or "").expanduser()
        if not path.exists():
            raise LikenessError(
                f"there is no base model at {path}; give a checkpoint, a folder or 'miniature'"
            )
        parts = read_folder(path) if path.is_dir() else read_single_file(path, spec)
        return BaseModel(**vars(parts), resolution=parts.resolution)


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

    unet: Any = UNet2DConditionModel.from_config(miniature.unet_config())
    vae: Any = AutoencoderKL.from_config(miniature.vae_config())
    for part, name in ((unet, "unet"), (vae, "vae")):
        part.load_state_dict(miniature.state_dict(name))
    schedule = miniature.scheduler_config()
    return BaseModel(
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
