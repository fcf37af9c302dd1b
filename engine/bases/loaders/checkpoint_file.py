"""A checkpoint's tensors as they lie in the file, once known to be whole, plain and of a kind we can use."""

import json
import logging
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...artifact.inert_pickle import read_checkpoint
from ...artifact.tensors import is_safetensors
from ...errors import LikenessError
from ...files import reading
from ..families import KNOWN
from .folder import ONE_TRANSFORMER, inpainting, quantised, refiner, unsupported

log = logging.getLogger(__name__)

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_PLAIN = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
}  # fmt: skip
TRANSFORMERS = {  # a part of a key that gives a model without a U-Net away
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "FLUX, Chroma or HunyuanVideo",
    "double_layers.": "AuraFlow",
    "transformer_blocks.0.norm1_context": "Stable Diffusion 3 or FLUX",
    "noise_refiner.": "Lumina 2 or Z-Image",
    "context_refiner.": "Lumina 2 or Z-Image",
    "adaln_single.": "PixArt or LTX-Video",
    "patch_embedding.": "Wan",
    "transformer_blocks.0.img_mlp": "Qwen-Image",
    "blocks.0.adaLN_modulation": "Cosmos or another diffusion transformer",
    "img_in.": "a diffusion transformer",
    "x_embedder.": "a diffusion transformer",
}
QUANTISED = {  # a part of a key that only quantised weights have
    ".scale_weight": "fp8 with scales",
    "scaled_fp8": "fp8 with scales",
    ".weight_scale": "weights with scales",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".qweight": "GPTQ or AWQ",
    ".wscales": "Nunchaku",
    ".comfy_quant": "ComfyUI's own",
}
LORA = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "lora_unet_", "hada_w1_a", "lokr_w1")


class Stored(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_checkpoint_tensors(path: Path) -> Stored:
    """All tensors of a file by name; pickles are read without running their code, and what else early tools
    stored with the weights (Lightning's callbacks hold classes) is passed over."""
    from safetensors import safe_open

    foreign = (
        "is not a model, or is damaged; choose a .safetensors checkpoint, a diffusers folder or 'miniature'"
    )
    with reading(path, foreign):
        with path.open("rb") as file:
            start = file.read(8)
        if start[:4] == b"GGUF":
            raise quantised(path, "a GGUF file")
        if path.suffix.lower() == ".safetensors" or is_safetensors(path):
            _check_whole(path, start)
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = dict(file.metadata() or {})
                return Stored(tensors | _formats(metadata), metadata)
        state = read_checkpoint(path, mmap=True)
        state = state.get("state_dict", state)
        return Stored({str(key): value for key, value in state.items() if isinstance(value, Tensor)}, {})


def _formats(metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """What metadata say of the formats of quantised layers, which other files have beside each."""
    if "_quantization_metadata" not in metadata:
        return {}
    layers = json.loads(metadata["_quantization_metadata"])["layers"]
    return {
        f"{layer}.comfy_quant": torch.tensor(list(json.dumps(format_).encode()), dtype=torch.uint8)
        for layer, format_ in layers.items()
    }


def _check_whole(path: Path, start: bytes) -> None:
    """Raises LikenessError where a safetensors file ends before its own header says it does."""
    size = path.stat().st_size
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    expected = 8 + length
    if start and length < 100 << 20 and expected <= size:
        try:
            with path.open("rb") as file:
                file.seek(8)
                entries = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
            expected += int(max(ends, default=0))
        except Exception:
            return  # safetensors itself says that this is none
        if expected > size:
            raise LikenessError(
                f"{path} is cut off: {size / 1e6:.1f} of {expected / 1e6:.1f} MB are there; download it again"
            )


def check_checkpoint_kind(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises LikenessError, by name, for files that are something else than a U-Net we can learn on."""
    if not tensors:
        raise LikenessError(f"{path} holds no tensors; choose {KNOWN}")
    sign = _sign(tensors, QUANTISED)
    if sign:
        raise quantised(path, f"{QUANTISED[sign]}, see {next(key for key in tensors if sign in key)}")
    _check_plain(path, tensors)
    if UNET + "input_blocks.0.0.weight" in tensors:
        return _check_unet(path, tensors)
    sign = _sign(tensors, TRANSFORMERS)
    if sign:
        raise unsupported(path, TRANSFORMERS[sign], f"it is a diffusion transformer, and {ONE_TRANSFORMER}")
    if _sign(tensors, LORA):
        raise LikenessError(f"{path} is a LoRA, not a base model; choose {KNOWN} and load the LoRA beside it")
    if "down_blocks.0.resnets.0.conv1.weight" in tensors:
        raise LikenessError(
            f"{path} is one part of a diffusers model; give the folder that holds its model_index.json"
        )
    if any(key.startswith(("input_blocks.", "unet.input_blocks.")) for key in tensors):
        raise LikenessError(
            f"{path} holds a U-Net without its text encoders and VAE; choose the whole checkpoint"
        )
    raise LikenessError(f"{path} holds no diffusion model that we know; choose {KNOWN}")


def _check_unet(path: Path, tensors: Mapping[str, Tensor]) -> None:
    channels = tensors[UNET + "input_blocks.0.0.weight"].shape[1]
    if channels != 4:
        raise inpainting(path, channels)
    if UNET + "label_emb.0.0.weight" not in tensors:
        return
    if any(key.startswith("conditioner.embedders.0.model.") for key in tensors):
        raise refiner(path)
    if any(key.startswith("cond_stage_model.") for key in tensors):
        raise unsupported(path, "SD 2.x unCLIP", "it expects a picture's embedding beside the prompt")
    if "edm_mean" in tensors or "edm_vpred.sigma_max" in tensors:
        raise unsupported(
            path, "an EDM model (such as Playground 2.5)", "its noise levels are of another kind"
        )


def _check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Floating-point numbers of any precision are read exactly; packed integers are not numbers."""
    kinds: Counter[torch.dtype] = Counter()
    for key, tensor in tensors.items():
        if tensor.dtype in _PLAIN:
            kinds[tensor.dtype] += 1
        elif tensor.ndim > 1 and key.endswith("weight"):
            raise quantised(path, f"{key} is stored as {_word(tensor.dtype)}")
    if len(kinds) > 1:
        counted = ", ".join(f"{count} tensors in {_word(kind)}" for kind, count in kinds.most_common())
        log.info("%s mixes precisions (%s); all are read into fp32, which holds each exactly", path, counted)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sign(tensors: Iterable[str], signs: Iterable[str]) -> str | None:
    return next((sign for sign in signs if any(sign in key for key in tensors)), None)
