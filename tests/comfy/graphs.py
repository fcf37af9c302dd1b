"""Graphs as a server takes them: nodes, and the end that every drawing of the Miniature has."""

from typing import Any


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def ending(
    model: list, positive: list, negative: list, *, seed: int, steps: int, cfg: float, **sampling: Any
) -> dict[str, Any]:  # fmt: skip
    """Nodes that sample an empty latent of the Miniature's size with KSampler, decode it with the VAE of the
    node `base` and keep the picture as `show`; `sampling` are further or other inputs of KSampler."""
    told = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **sampling}
    ends = {"model": model, "positive": positive, "negative": negative, "latent_image": ["latent", 0]}
    return {
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "sample": node("KSampler", seed=seed, steps=steps, cfg=cfg, **ends, **told),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["base", 2]),
        "show": node("PreviewImage", images=["decode", 0]),
    }
