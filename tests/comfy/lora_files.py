"""LoRAs for the Miniature in every layout that people's files have, with random numbers that show.

What the tools themselves can write here (diffusers, PEFT) they write.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from likeness_portraits.engine.artifact.lora import ldm_paths
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.bases.denoisers.conditional_unet import LORA_TARGETS
from likeness_portraits.engine.config import ADAPTERS, block_ranks
from likeness_portraits.engine.training import lora
from likeness_portraits.engine.training.adapters import AdapterShape

RANK = 3
Tensors = dict[str, Tensor]


def random(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * size


class Layers:
    """The layers that files change: by diffusers' paths, their modules."""

    def __init__(self, base: BaseModel) -> None:
        (encoder,) = base.text_encoders.values()
        linear, convolution = (nn.Linear,), (nn.Conv2d,)
        self.attention = _found(base.unet, linear, lambda path: ".attn" in path)
        self.selfish = _found(base.unet, linear, lambda path: ".attn1." in path)
        self.convolutions = _found(base.unet, convolution, lambda path: ".conv" in path or "proj_in" in path)
        self.norms = _found(base.unet, (nn.GroupNorm, nn.LayerNorm), lambda path: ".0.norm" in path)
        self.text = {
            path.removeprefix("text_model."): module
            for path, module in _found(encoder, linear, lambda path: "self_attn" in path).items()
        }
        self.ldm = ldm_paths({**self.attention, **self.convolutions}, base.unet.config.layers_per_block)


def _found(network: nn.Module, kinds: tuple, wanted: Callable[[str], bool]) -> dict[str, nn.Module]:
    return {
        path: module for path, module in network.named_modules()
        if isinstance(module, kinds) and wanted(path)
    }  # fmt: skip


def matrices(layers: dict[str, nn.Module], size: float = 0.06) -> dict[str, tuple[Tensor, Tensor]]:
    """By path, a LoRA's (down, up) for a linear layer or a convolution."""
    found = {}
    for number, (path, module) in enumerate(layers.items()):
        out, *inside = module.weight.shape
        ones = [1] * (module.weight.ndim - 2)
        up = random(out, RANK, *ones, seed=-number, size=size)
        found[path] = random(RANK, *inside, seed=number, size=size), up
    return found


def kohya(layers: dict[str, tuple[Tensor, Tensor]], front: str, alpha: Tensor | None) -> Tensors:
    tensors = {}
    for path, (down, up) in layers.items():
        name = front + path.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = alpha
    return tensors


TE = "lora_te_text_model_"


def _as_processors(layers: dict[str, tuple[Tensor, Tensor]], front: str) -> Tensors:
    """diffusers until 0.16: layers of attention processors."""
    tensors = {}
    for path, (down, up) in layers.items():
        block, leaf = path.removesuffix(".0").rsplit(".", 1)
        name = f"{front}{block}.processor.{leaf}_lora"
        tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return tensors


def _lycoris(layers: dict[str, nn.Module], make: Callable[[nn.Module, int], Tensors], front: str) -> Tensors:
    tensors = {}
    for number, (path, module) in enumerate(layers.items()):
        name = front + path.replace(".", "_")
        tensors |= {f"{name}.{part}": tensor for part, tensor in make(module, number).items()}
    return tensors


def _dora(module: nn.Module, number: int) -> Tensors:
    (down, up), (out, inside) = matrices({"": module})[""], module.weight.shape
    lengths = (1, inside) if number % 2 else (out, 1)
    size = module.weight.norm() / lengths[number % 2] ** 0.5
    return {
        "lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0),
        "dora_scale": size * (1 + random(*lengths, seed=number, size=0.2)),
    }  # fmt: skip


def _loha(module: nn.Module, number: int) -> Tensors:
    out, inside, *kernel = module.weight.shape
    if kernel:
        cores = {f"hada_t{n}": random(RANK, RANK, *kernel, seed=n, size=0.3) for n in (1, 2)}
        factors = {f"hada_w{n}_{side}": random(RANK, width, seed=number + n, size=0.4)
                   for n in (1, 2) for side, width in (("a", out), ("b", inside))}  # fmt: skip
        return {**factors, **cores, "alpha": torch.tensor(1.0)}
    shapes = {"a": (out, RANK), "b": (RANK, inside)}
    factors = {f"hada_w{n}_{side}": random(*shape, seed=number + n, size=0.2)
               for n in (1, 2) for side, shape in shapes.items()}  # fmt: skip
    return {**factors, "alpha": torch.tensor(2.0)}


def _lokr(module: nn.Module, number: int) -> Tensors:
    out, inside, *kernel = module.weight.shape
    each = inside // 2 * (kernel[0] * kernel[1] if kernel else 1)
    large = {"lokr_w2_a": random(out // 4, RANK, seed=number, size=0.3),
             "lokr_w2_b": random(RANK, each, seed=number, size=0.3)}  # fmt: skip
    small: Tensors = {"lokr_w1": random(4, 2, seed=number, size=0.1)}
    if number % 3 == 1:
        small = {"lokr_w1_a": random(4, 2, size=0.1), "lokr_w1_b": random(2, 2, seed=number)}
    if number % 3 == 2 and not kernel:  # neither in factors: alpha is not heard
        large = {"lokr_w2": random(out // 4, inside // 2, seed=number, size=0.2)}
    return {**small, **large, "alpha": torch.tensor(2.0)}


def _lokr_with_core(module: nn.Module, number: int) -> Tensors:
    out, inside, *kernel = module.weight.shape
    return {
        "lokr_w1": random(4, 2, seed=number, size=0.1), "alpha": torch.tensor(2.0),
        "lokr_w2_a": random(RANK, out // 4, seed=number, size=0.3),
        "lokr_w2_b": random(RANK, inside // 2, seed=number, size=0.3),
        "lokr_t2": random(RANK, RANK, *kernel, size=0.3),
    }  # fmt: skip


def _oft(module: nn.Module, number: int) -> Tensors:
    return {"oft_blocks": random(4, len(module.weight) // 4, len(module.weight) // 4, seed=number, size=0.02)}


def _whole(module: nn.Module, number: int) -> Tensors:
    return {"diff": random(*module.weight.shape, seed=number, size=0.03),
            **({} if module.bias is None else {"diff_b": random(*module.bias.shape, size=0.03)})}  # fmt: skip


def _norms(module: nn.Module, number: int) -> Tensors:
    return {"w_norm": random(*module.weight.shape, seed=number, size=0.1),
            "b_norm": random(*module.bias.shape, size=0.1)}  # fmt: skip


def _locon(module: nn.Module, number: int) -> Tensors:
    """With a core of its own between the matrices, where it is wider than a pixel."""
    down, up = matrices({"": module}, 0.1)[""]
    if module.weight.ndim == 2 or module.weight.shape[-1] == 1 or number % 2:
        return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0)}
    core = random(RANK, RANK, *module.weight.shape[2:], seed=number, size=0.4)
    return {"lora_down.weight": down[..., :1, :1] * 4, "lora_up.weight": up * 4, "lora_mid.weight": core,
            "alpha": torch.tensor(2.0)}  # fmt: skip


def every_layout(layers: Layers) -> dict[str, Tensors]:
    """Files by what they are called in tests."""
    both, text = matrices(layers.attention), matrices(layers.text)
    named = kohya(both, "lora_unet_", torch.tensor(2.0)) | kohya(text, TE, torch.tensor(2.0))
    in_ldm = {layers.ldm[path]: pair for path, pair in both.items()}
    own = {f"diffusion_model.{path}": pair for path, pair in in_ldm.items()}
    linear = {
        f"text_encoder.text_model.{path}.lora_linear_layer.{way}.weight": tensor
        for path, pair in text.items() for way, tensor in zip(("down", "up"), pair)
    }  # fmt: skip
    convolutions = {**layers.attention, **layers.convolutions}
    return {
        "diffusers 2023": _as_processors(both, ""),
        "diffusers 2023, with text": _as_processors(both, "unet.") | linear,
        "diffusers 2024": {
            f"unet.{path}.lora.{way}.weight": tensor
            for path, pair in both.items() for way, tensor in zip(("down", "up"), pair)
        },
        "kohya": named,
        "kohya, no alpha": kohya(both, "lora_unet_", None) | kohya(text, TE, None),
        "kohya, whole alphas": kohya(both, "lora_unet_", torch.tensor(2)),
        "kohya, LDM's names": kohya(in_ldm, "lora_unet_", torch.tensor(1.0)),
        "self-attention only": kohya(matrices(layers.selfish, 0.1), "lora_unet_", torch.tensor(2.0)),
        "text encoder only": kohya(matrices(layers.text, 0.2), TE, torch.tensor(2.0)),
        "ComfyUI's": {
            f"{path}.{part}": tensor for path, (down, up) in own.items()
            for part, tensor in (
                ("lora_down.weight", down), ("lora_up.weight", up), ("alpha", torch.tensor(1.0)),
            )
        },
        "SimpleTuner's LyCORIS": _lycoris(layers.attention, _lokr, "lycoris_"),
        "fp16": {key: tensor.half() for key, tensor in named.items()},
        "bf16": {key: tensor.bfloat16() for key, tensor in named.items()},
        "fp8": {
            key: tensor if key.endswith("alpha") else tensor.to(torch.float8_e4m3fn)
            for key, tensor in named.items()
        },
        "LoCon": _lycoris(convolutions, _locon, "lora_unet_"),
        "DoRA": _lycoris(layers.attention, _dora, "lora_unet_"),
        "LoHa": _lycoris(convolutions, _loha, "lora_unet_"),
        "LoKr": _lycoris(convolutions, _lokr, "lora_unet_"),
        "LoKr, cores": _lycoris(layers.convolutions, _lokr_with_core, "lora_unet_"),
        "OFT": _lycoris(layers.attention, _oft, "lora_unet_"),
        "differences": _lycoris(layers.convolutions, _whole, "lora_unet_")
        | _lycoris(layers.norms, _norms, "lora_unet_"),
    }  # fmt: skip


def write_all(base: BaseModel, folder: Path) -> dict[str, Path]:
    """Every layout as a file, two of them pickled, one by diffusers of today."""
    written = {}
    for name, shared in every_layout(Layers(base)).items():
        tensors = {key: tensor.clone().contiguous() for key, tensor in shared.items()}
        written[name] = folder / f"{name}.safetensors"
        save_file(tensors, written[name])
        if name in ("diffusers 2023", "kohya"):
            written[f"{name}, pickled"] = folder / f"{name}.bin"
            torch.save(tensors, written[f"{name}, pickled"])
    written["diffusers now"] = by_diffusers(base, folder)
    for kind in ADAPTERS:
        written[f"ours, {kind}"] = folder / f"ours, {kind}.safetensors"
        save_file(as_trained(base, kind), written[f"ours, {kind}"])
    return written


def as_trained(base: BaseModel, kind: str) -> Tensors:
    """What our own training writes of a kind of adapter on all layers, with random numbers."""
    shape = AdapterShape(kind=kind, rank=RANK, alpha=4.0, by_block=block_ranks(["up_blocks=2"]))
    parts = [(base.unet, LORA_TARGETS["convolutions"], shape)]
    parts += [(encoder, base.text.lora_targets, replace(shape, by_block=()))
              for encoder in base.text_encoders.values()]  # fmt: skip
    with torch.no_grad():
        for network, targets, own in parts:
            for number, weight in enumerate(lora.inject(network, targets, RANK, 4.0, shape=own)):
                weight += random(*weight.shape, seed=number, size=0.02 if kind == "oft" else 0.1)
    tensors = lora.tensors(base)
    for network, _, _ in parts:
        lora.remove(network)
    return tensors


def by_diffusers(base: BaseModel, folder: Path) -> Path:
    """What today's training scripts of diffusers keep: PEFT's matrices, written by the pipeline."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict

    kept = {}
    (encoder,) = base.text_encoders.values()
    for number, (part, network, targets) in enumerate((
        ("unet", base.unet, ["to_k", "to_q", "to_v", "to_out.0"]),
        ("text_encoder", encoder, ["q_proj", "k_proj", "v_proj", "out_proj"]),
    )):  # fmt: skip
        network = copy.deepcopy(network)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets), network)
        for place, (name, weight) in enumerate(network.named_parameters()):
            if "lora_" in name:
                weight.data = random(*weight.shape, seed=place + number, size=0.06)
        kept[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    StableDiffusionPipeline.save_lora_weights(folder / "now", **kept)
    return folder / "now" / "pytorch_lora_weights.safetensors"
