"""Low-rank updates in kohya's naming: which module a name means, and weights with updates folded in.

Names: `lora_unet_` or `lora_te_` (two text encoders: `lora_te1_`, `lora_te2_`), then the module's path with
underscores, then `.lora_down.weight` (r, in), `.lora_up.weight` (out, r) or `.alpha`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import LikenessError

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


def unet_name(path: str) -> str:
    """The kohya name of a U-Net module, from its path in diffusers' class."""
    return "lora_unet_" + path.replace(".", "_")


def text_name(path: str, number: int = 0, encoders: int = 1) -> str:
    """The kohya name of a text encoder's module, from its path in transformers' class (old or new)."""
    prefix = "lora_te" if encoders == 1 else f"lora_te{number + 1}"
    path = (
        path if path.startswith("text_model.") else f"text_model.{path}"
    )  # transformers 5 dropped this level
    return f"{prefix}_{path.replace('.', '_')}"


def adaptable(unet: nn.Module, text_encoders: list[nn.Module]) -> dict[str, nn.Module]:
    """Every linear and convolution layer by its kohya name."""
    kinds = (nn.Linear, nn.Conv2d)
    found: dict[str, nn.Module] = {}
    found |= {unet_name(path): module for path, module in unet.named_modules() if isinstance(module, kinds)}
    for number, encoder in enumerate(text_encoders):
        for path, module in encoder.named_modules():
            if isinstance(module, kinds):
                found[text_name(path, number, len(text_encoders))] = module
    return found


def split(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, float]]:
    """(down, up, scale) by kohya name; scale is alpha / rank."""
    updates = {}
    for key, down in tensors.items():
        if key.endswith(DOWN):
            name = key.removesuffix(DOWN)
            alpha = tensors.get(name + ALPHA)
            scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
            updates[name] = (down, tensors[name + UP], scale)
    return updates


def difference(down: Tensor, up: Tensor, shape: torch.Size) -> Tensor:
    """up @ down in fp32, in the shape of the weight it is for."""
    return (up.float().flatten(1) @ down.float().flatten(1)).reshape(shape)


@contextmanager
def merged(
    modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], strength: float
) -> Iterator[None]:
    """The named modules with `strength` times the updates added; afterwards their own parameters are back."""
    updates = split(tensors)
    unknown = [name for name in updates if name not in modules]
    if unknown:
        raise LikenessError(
            f"this base has no layer for {unknown[0]}; use the base that the LoRA was made for"
        )
    originals: dict[str, nn.Parameter] = {}
    try:
        for name, (down, up, scale) in updates.items():
            module = modules[name]
            own = module._parameters["weight"]  # the object itself must come back
            assert own is not None
            originals[name] = own
            down, up = down.to(own.device), up.to(own.device)
            if up.shape[0] * down[0].numel() != own.numel():
                raise LikenessError(
                    f"{name} has another size in this base; use the base the LoRA was made for"
                )
            changed = own.detach().float() + strength * scale * difference(down, up, own.shape)
            module._parameters["weight"] = nn.Parameter(changed.to(own.dtype), requires_grad=False)
        yield
    finally:
        for name, own in originals.items():
            modules[name]._parameters["weight"] = own
