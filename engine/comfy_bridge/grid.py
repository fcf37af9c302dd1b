"""Drawing likenesses in many prompts, seeds and strengths; where measuring finds models and writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import folder_paths
import numpy as np
import torch

from ..artifact import Artifact
from .folders import FOLDER, folder, named_in
from .pictures import decoded_image, pictures_of
from .staged import staged_prompt
from .words import apply


@dataclass(frozen=True, kw_only=True)
class GridDrawing:
    """How every picture of a grid is drawn, as KSampler is told."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str
    width: int
    height: int
    negative: str


def helpers_folder() -> Path:
    """Where CLIP and DINOv2 lie, in folders of these names."""
    return folder(FOLDER)


def report_file(name: str) -> Path:
    """A page in ComfyUI's output folder; an earlier one of that name is replaced."""
    return named_in(Path(folder_paths.get_output_directory()), name, ".html")


def draw_grid(
    loaded: tuple[Any, Any, Any], artifacts: Sequence[Artifact | None], prompts: Sequence[str],
    seeds: Sequence[int], strengths: Sequence[float], how: GridDrawing, subjects: Sequence[str] = (),
) -> list[np.ndarray]:  # fmt: skip
    """Pictures (H, W, 3) uint8, by prompt, then by artifact, by strength and by seed.

    `subjects`: of each artifact, what {} in the prompts stands for. Each picture is the one that KSampler
    gives with that seed. For None MODEL and CLIP draw as they are.
    """
    variants = [(place, strength) for place in range(len(artifacts)) for strength in strengths]
    total = len(prompts) * len(variants) * len(seeds)
    bar, drawn = comfy.utils.ProgressBar(total), {}
    for place, strength in variants:  # outermost: weights are patched once for each
        painter = _painter(loaded, artifacts[place], strength, how)
        for number, prompt in enumerate(prompts):
            paint = painter(prompt.replace("{}", subjects[place]) if subjects else prompt)
            for seed in seeds:
                comfy.model_management.throw_exception_if_processing_interrupted()
                drawn[number, place, strength, seed] = paint(seed)
                bar.update(1)
    return [
        drawn[number, place, strength, seed]
        for number in range(len(prompts)) for place, strength in variants for seed in seeds
    ]  # fmt: skip


def _painter(
    loaded: tuple[Any, Any, Any], artifact: Artifact | None, strength: float, how: GridDrawing
) -> Callable[[str], Callable[[int], np.ndarray]]:
    """From a prompt to what draws it with a seed."""
    model, clip, vae = loaded
    staged = artifact is not None and artifact.kind == "staged_embedding"
    if artifact is not None and not staged:
        model, clip = apply(model, clip, artifact, strength, strength)
    negative = _encoded(clip, how.negative)

    def for_prompt(prompt: str) -> Callable[[int], np.ndarray]:
        patched, positive = model, None
        if artifact is not None and staged:
            patched, positive = staged_prompt(model, clip, artifact, prompt, bypass=strength)
        positive = positive if positive is not None else _encoded(clip, prompt)
        return lambda seed: _draw(patched, vae, positive, negative, seed, how)

    return for_prompt


def _encoded(clip: Any, text: str) -> list[Any]:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _draw(model: Any, vae: Any, positive: Any, negative: Any, seed: int, how: GridDrawing) -> np.ndarray:
    empty = torch.zeros(1, 4, how.height // 8, how.width // 8)
    latent = comfy.sample.fix_empty_latent_channels(model, empty)
    noise = comfy.sample.prepare_noise(latent, seed)
    samples = comfy.sample.sample(
        model, noise, how.steps, how.cfg, how.sampler, how.scheduler, positive, negative, latent,
        denoise=1.0, disable_pbar=True, seed=seed,
    )  # fmt: skip
    return pictures_of(decoded_image(vae, samples))[0]
