"""One pass of ComfyUI's network and of the engine's, weights and input the same, with users of attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from likeness_portraits.engine.bases.attention import AttentionUser
from likeness_portraits.engine.bases.base import BaseModel
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.denoisers.unet import cross_attention_layers
from likeness_portraits.engine.comfy_bridge.attention import Sites
from likeness_portraits.engine.identity.attention import IdAttention, IdentityAttention, Person
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Maps, Spot, box_region
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.text import SplitValues, TextStates
from likeness_portraits.engine.training.attention_maps import AttentionMaps

LEFT, EVERYWHERE = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0)


def apart(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().max().item()


def users_apart(
    ours: Callable[[], Tensor], theirs: Callable[[dict[str, Any]], Tensor], model: Any, base: BaseModel,
    context: Tensor, latents: tuple[int, int],
) -> dict[str, float]:  # fmt: skip
    """Differences of a pass over three prompts, whose states are `context`: `ours` by the engine, `theirs` by
    ComfyUI with these transformer_options."""
    network, sites = model.model.diffusion_model, Sites.of(model)
    told = {"uuids": ["a", "b", "c"], "cond_or_uncond": [1, 0, 0]}

    def both(key: str, make: Callable[[], AttentionUser]) -> tuple[Tensor, Tensor, list[AttentionUser]]:
        users = [make(), make()]
        with using(base.unet, key, users[0]):
            mine = ours()
        return mine, theirs(sites.with_user(told, network, key, users[1])), users

    plain, neutral = ours(), AttentionUser()
    found = {"plain": apart(plain, theirs(told))}
    generator = torch.Generator().manual_seed(8)
    others = torch.randn(context.shape, generator=generator)
    tokens = torch.randn(1, 4, context.shape[-1], generator=generator)
    keys_values = IdAttention.beside(base.denoiser.cross_attention())(tokens)

    def regions(box: tuple[float, float, float, float], own: bool = True) -> Regions:
        spot = Spot(Focus(token="x", region=box), (4, 5), (3,), context.shape[1] if own else 0)
        masks = LogMasks([spot], [box_region(box, latents)])
        reads = [TextStates(others[:1], others[1:2])] if own else []
        prompt = FocusedPrompt(masks, context.shape[1], reads, [Maps(latents)])
        return Regions([(1, None), (1, prompt), (1, None)], 0.5, {}, record=own)

    makers: dict[str, tuple[str, Callable[[], AttentionUser]]] = {
        "values": ("values", lambda: SplitValues((1, None), (2, others[:1]))),
        "regions": ("regions", lambda: regions(LEFT)),
        "identity": ("identity", lambda: IdentityAttention([Person(keys_values, 0.7)])),
    }
    for name, (key, make) in makers.items():
        mine, other, _ = both(key, make)
        found[name], found[f"{name} seen"] = apart(mine, other), apart(mine, plain)
    nothing: dict[str, Callable[[], AttentionUser]] = {
        "values": lambda: SplitValues((3, None)),
        "regions": lambda: regions(EVERYWHERE, own=False),
        "identity": lambda: IdentityAttention([Person(keys_values, 0.0)]),
        "maps": lambda: neutral,
    }
    for key, make in nothing.items():
        mine, other, _ = both(key, make)
        found[f"no {key}"] = max(apart(mine, plain), apart(other, theirs(told)))
    names = dict(cross_attention_layers(base.unet))
    with torch.enable_grad():
        _, _, (mine, other) = both("maps", lambda: AttentionMaps(names))
    assert isinstance(mine, AttentionMaps) and isinstance(other, AttentionMaps)
    assert len(mine.all()) == len(other.all()) == len(names)
    found["maps"] = max(apart(a, b) for a, b in zip(mine.all(), other.all()))
    found["afterwards"] = max(apart(ours(), plain), apart(theirs(told), theirs({})))
    return found
