"""What ComfyUI's KSampler offers, and its run as one call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS


@dataclass(frozen=True)
class Sampling:
    """What ComfyUI's KSampler is told."""

    latent: Mapping[str, Any]
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    positive: list[list[Any]]
    negative: list[list[Any]]

    def draw(self, model: Any) -> dict[str, Any]:
        """LATENT, by the very calls that KSampler makes, with its preview."""
        import latent_preview  # reads ComfyUI's settings when imported

        start = comfy.sample.fix_empty_latent_channels(model, self.latent["samples"])
        noise = comfy.sample.prepare_noise(start, self.seed, self.latent.get("batch_index"))
        samples = comfy.sample.sample(
            model, noise, self.steps, self.cfg, self.sampler, self.scheduler, self.positive, self.negative,
            start, denoise=self.denoise, noise_mask=self.latent.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, self.steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=self.seed,
        )  # fmt: skip
        return {**self.latent, "samples": samples}
