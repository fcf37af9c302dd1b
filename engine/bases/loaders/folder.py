"""What a base model consists of before it is one: networks, tokenizers, noise schedule, and family traits."""

import gc
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...artifact.inert_folder import from_folder, pretrained
from ...errors import LikenessError
from ...files import reading
from ..families import FAMILIES, KNOWN
from ..families import family_of_unet as row_of_unet
from ..process.ddpm import noise_schedule


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A base model's parts, in fp32 on the CPU."""

    family: str  # a key of FAMILIES
    unet: Any  # diffusers' UNet2DConditionModel
    vae: Any  # diffusers' AutoencoderKL, or AutoencoderTiny
    text_encoders: Mapping[str, Any]  # transformers' CLIPTextModel, or …WithProjection where it is pooled
    tokenizers: Mapping[str, Any]
    alphas_cumprod: Tensor  # (T,) float64
    prediction_type: str = "epsilon"

    @property
    def resolution(self) -> int:
        """Pixels a side that the U-Net was trained with."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)


def import_networks() -> None:
    """Imports the libraries that networks are made of, while Python's collector rests.

    They make some hundred thousand objects that all stay: looking through them again and again takes a sixth
    of the seconds until a first step.
    """
    working = gc.isenabled()
    gc.disable()
    try:
        from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
        from transformers import CLIPTextModel  # noqa: F401
    finally:
        if working:
            gc.enable()


# ------------------------------------------------------------------------------------------ diffusers folders


def read_folder(path: Path, prediction: str | None = None) -> Parts:
    """A diffusers folder of the SD 1.x, SD 2.x or SDXL family; nothing is downloaded. `prediction`:
    what the user says that it predicts."""
    from diffusers import UNet2DConditionModel

    check_folder(path)
    unet = _part(UNet2DConditionModel, path / "unet").float()
    schedule = _json(path / "scheduler" / "scheduler_config.json")
    if schedule.get("trained_betas") is not None:
        raise LikenessError(
            f"{path} has a noise schedule of its own making, which we cannot follow; use {KNOWN}"
        )
    family = _family_of_unet(unet.config)
    encoders, tokenizers = read_text_folder(path, family)
    return Parts(
        family=family,
        unet=unet,
        vae=read_vae_folder(path / "vae"),
        text_encoders=encoders,
        tokenizers=tokenizers,
        alphas_cumprod=noise_schedule(schedule),
        prediction_type=prediction or checked_prediction(schedule.get("prediction_type", "epsilon"), path),
    )


def read_vae_folder(path: Path) -> Any:
    """The autoencoder of a diffusers folder: Stable Diffusion's, or the tiny one (TAESD) in its stead."""
    import diffusers

    kind = _json(path / "config.json").get("_class_name", "AutoencoderKL")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise LikenessError(
            f"{path} holds a VAE of the kind {kind}, which cannot be used; take the base's own, or a TAESD"
        )
    return _part(getattr(diffusers, kind), path).float()


def read_text_folder(path: Path, family: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text encoders and tokenizers that a family listens to, out of a diffusers folder."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    encoders, tokenizers = {}, {}
    for number, name in enumerate(FAMILIES[family].encoders):
        ending = f"_{number + 1}" if number else ""
        for kind in ("text_encoder", "tokenizer"):
            if not (path / f"{kind}{ending}").is_dir():
                raise LikenessError(
                    f"{path} has no {kind}{ending} folder, which an {FAMILIES[family].name} model needs; get "
                    "the whole model"
                )
        pooled = name == "clip_g"
        model = CLIPTextModelWithProjection if pooled else CLIPTextModel
        encoders[name] = _part(model, path / f"text_encoder{ending}").float()
        tokenizers[name] = pretrained(CLIPTokenizer, path / f"tokenizer{ending}")
    return encoders, tokenizers


def _family_of_unet(config: Any) -> str:
    """The family of a diffusers U-Net's config."""
    told_sizes = config.addition_embed_type == "text_time"
    return row_of_unet(told_sizes, bool(config.use_linear_projection)).key


def checked_prediction(kind: str, where: object) -> str:
    if kind not in ("epsilon", "v_prediction"):
        raise LikenessError(f"{where} predicts '{kind}', neither noise nor velocity; use {KNOWN}")
    return kind


def check_folder(path: Path) -> None:
    """Raises LikenessError, which says what the folder is instead, unless it is a model we can train on."""
    parts = {entry.name for entry in path.iterdir() if entry.is_dir()}
    index = _json(path / "model_index.json") if (path / "model_index.json").is_file() else {}
    named = str(index.get("_class_name", "a transformer")).removesuffix("Pipeline")
    if "transformer" in parts:
        raise unsupported(path, f"a diffusion transformer ({named})", ONE_TRANSFORMER)
    if "prior" in parts or "decoder" in parts:
        raise unsupported(
            path, f"a model of several stages ({named})", "there is no single U-Net to learn on"
        )
    if "unet" in parts and "text_encoder_2" in parts and "text_encoder" not in parts:
        raise refiner(path)
    missing = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"} - parts
    if missing:
        raise LikenessError(
            f"{path} is not a diffusers model: it has no {sorted(missing)[0]} folder; choose the folder with "
            "model_index.json in it"
        )
    config = _json(path / "unet" / "config.json")
    if config.get("in_channels", 4) != 4:
        raise inpainting(path, config["in_channels"])
    if config.get("quantization_config") is not None:
        scheme = config["quantization_config"]
        method = scheme.get("quant_method", "unknown") if isinstance(scheme, dict) else scheme
        raise quantised(path, f"its U-Net is quantised by {method}")
    embedded = config.get("addition_embed_type")
    if embedded not in (None, "text_time") or config.get("class_embed_type") is not None:
        raise unsupported(path, f"a model with conditions of another kind ({named})", "we only know text")


def _part(kind: Any, path: Path) -> Any:
    """One part of a diffusers folder, from its full-precision files or else those in fp16."""
    first: Exception | None = None
    for variant in ({}, {"variant": "fp16"}):
        try:
            network, info = from_folder(kind, path, output_loading_info=True, **variant)
            _check_nothing_missing(path, info["missing_keys"])
            return network
        except LikenessError:
            raise
        except Exception as error:  # safetensors, torch, diffusers and transformers each raise their own
            first = first or error
    reason = str(first).strip().splitlines()[0]
    raise LikenessError(f"cannot read {path}: {reason}; get that folder again") from first


def _check_nothing_missing(path: Path, missing: Iterable[str]) -> None:
    """Raises for weights that are not in the files: the libraries leave them empty, or make up their own."""
    gone = sorted(name for name in missing if not name.endswith("position_ids"))
    if gone:
        more = f" and {len(gone) - 1} more" if gone[1:] else ""
        raise LikenessError(f"{path} lacks the weights {gone[0]}{more}; get that folder again")


def _json(path: Path) -> dict[str, Any]:
    with reading(path, "is no JSON that says anything; get it again"):
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"{type(content)} instead of a mapping")
        return content


# --------------------------------------------------------------------------------------------------- refusals


ONE_TRANSFORMER = "of its kind only FLUX.2 Klein, Z-Image and Krea 2 are supported yet"


def unsupported(path: object, what: str, reason: str) -> LikenessError:
    return LikenessError(f"{path} is {what}, which cannot be learned on: {reason}; choose {KNOWN}")


def inpainting(path: object, channels: int) -> LikenessError:
    return unsupported(
        path,
        f"an inpainting or editing model (its U-Net reads {channels} channels instead of 4)",
        "it expects a mask and a second picture beside the noise",
    )


def refiner(path: object) -> LikenessError:
    return unsupported(
        path,
        "the SDXL refiner",
        "it only finishes what the SDXL base began; learn on the SDXL base and refine after",
    )


def quantised(path: object, what: str) -> LikenessError:
    return LikenessError(
        f"{path} is quantised and cannot be learned on ({what}); get it in fp16, bf16, fp32 or plain fp8"
    )
