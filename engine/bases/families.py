"""The architectures that can be learned on, one row each: what is known of a family without weights.

Artifacts, loaders, ComfyUI's bridge and the methods read these rows; a new architecture adds one. Nothing
here needs PyTorch, for nodes read it while ComfyUI starts. Keys of `FAMILIES` and of encoders stand in files:
they never change.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MINIATURE = "miniature"
SECOND_MINIATURE = "miniature-2"


@dataclass(frozen=True, kw_only=True)
class Family:
    """What models of a family share and their weights do not tell."""

    key: str  # in files: `base_family`
    name: str  # as people call it
    architecture: str  # modelspec.architecture, which other tools sort files by
    text_widths: Mapping[str, int]  # by encoder, in ComfyUI's words; their states stand side by side
    latent_scale: float
    sample_size: int  # side of the latents it was trained with
    denoiser: str = "unet"  # "unet"; "flux2", "z_image", "krea2": joint attention, rectified flow
    pixels_per_latent: int = 8
    velocity_sample_size: int | None = None  # where those of its models that predict velocity differ

    # how its files look
    text_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a single file, by encoder
    told_sizes: bool = False  # the U-Net reads a pooled vector and six sizes beside the text states
    linear_projection: bool = False  # the U-Net's attention blocks begin and end with linear layers
    unheard_layers: int = 0  # of the text encoder, at its end: diffusers leaves them out
    network: Mapping[str, Any] = field(default_factory=dict)  # diffusers' config, where not its default
    comfy_class: str | None = None  # in comfy.supported_models; None: a class of our own
    comfy_version: str = "0.3.64"  # the oldest ComfyUI that has what it needs
    distilled_twin: bool = False  # there is a version of it that draws in a few steps, to be drawn with
    base_version: str = ""  # how people call the one to learn on, where there is one
    # a LoRA that takes the distillation out of that version while something is learned on it
    undistilled_by: str = ""
    shaky_twin: bool = False  # what is learned on the base version is drawn by the other less surely
    peft_names: bool = False  # its LoRAs' layers are called as PEFT and diffusers do; else as kohya does

    # what it is learned with
    attention_side: int | None = None  # where masks are compared with attention; None: by the latents' side
    # and in which of its layers there, best first as `likeness interval` ranks them; (): in all
    attention_layers: tuple[str, ...] = ()
    noise_scale: float = 1.0  # by how much more noise hides as much of its pictures as of SD's of 512 pixels
    learned_sizes: tuple[int, int] | None = (256, 1536)  # pixels a side, multiples of 64; None: any that fits
    buckets: bool = True  # pictures keep their proportions unless a job says otherwise
    preset: str = "default"  # of every method's settings
    segmenter: str = "face-parts"  # that finds faces in its pictures
    face_judge: str = "auraface"  # that knows people in its pictures
    image_tower: str | None = None  # that looks at faces for it without being asked; None: the user names one
    # noise that MagicTailor's degradation begins with; None: as much as passes the encoder as on SD 1.x
    degradation: float | None = 0.5
    head_alone: bool = False  # losses on faces decode the head's latents alone: whole pictures are large
    own_world: bool = False  # its pictures are of a drawn world, whose people, parts and judges come with it

    @property
    def encoders(self) -> tuple[str, ...]:
        return tuple(self.text_widths)

    @property
    def context_width(self) -> int:
        """Numbers in one of the text states that the denoiser reads."""
        return sum(self.text_widths.values())

    def best_of(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Those of a network's attention layers that `attention_layers` names; none where it names none."""
        there = set(layers)
        return tuple(name for name in self.attention_layers if name in there)


_ROWS = (
    Family(
        key="sd1", name="SD 1.x", architecture="stable-diffusion-v1", text_widths={"clip_l": 768},
        latent_scale=0.18215, sample_size=64, comfy_class="SD15",
        text_prefixes={"clip_l": ("cond_stage_model.transformer.text_model.",
                                  "cond_stage_model.transformer.")},
        network={"sample_size": 64, "cross_attention_dim": 768},
    ),
    Family(
        key="sd2", name="SD 2.x", architecture="stable-diffusion-v2", text_widths={"clip_h": 1024},
        latent_scale=0.18215, sample_size=64, velocity_sample_size=96, comfy_class="SD20",
        text_prefixes={"clip_h": ("cond_stage_model.model.", "conditioner.embedders.0.model.")},
        linear_projection=True, unheard_layers=1,
        network={"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
                 "use_linear_projection": True},
    ),
    Family(
        key="sdxl", name="SDXL", architecture="stable-diffusion-xl-v1-base",
        text_widths={"clip_l": 768, "clip_g": 1280},
        latent_scale=0.13025, sample_size=128, comfy_class="SDXL",
        text_prefixes={"clip_l": ("conditioner.embedders.0.transformer.text_model.",),
                       "clip_g": ("conditioner.embedders.1.model.",)},
        told_sizes=True, linear_projection=True,
        network={
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True, "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
    ),
    Family(
        key=MINIATURE, name="the Miniature", architecture="likeness-miniature", text_widths={"clip_l": 128},
        latent_scale=0.18215, sample_size=16, attention_side=16, learned_sizes=None, buckets=False,
        preset=MINIATURE, segmenter=MINIATURE, face_judge=MINIATURE, image_tower=MINIATURE, own_world=True,
    ),
    Family(
        key="flux2", name="FLUX.2 Klein 4B", architecture="flux-2-klein-4b", text_widths={"qwen3_4b": 2560},
        latent_scale=1.0, sample_size=64, pixels_per_latent=16, denoiser="flux2", peft_names=True,
        distilled_twin=True, base_version="klein-base",
        comfy_class="Flux2", comfy_version="0.26", noise_scale=2.0, degradation=None, head_alone=True,
    ),
    Family(
        key="flux2_9b", name="FLUX.2 Klein 9B", architecture="flux-2-klein-9b",
        text_widths={"qwen3_8b": 4096}, latent_scale=1.0, sample_size=64, pixels_per_latent=16,
        denoiser="flux2", peft_names=True, distilled_twin=True, base_version="klein-base",
        comfy_class="Flux2", comfy_version="0.26", noise_scale=2.0, degradation=None, head_alone=True,
    ),
    Family(
        key="z_image", name="Z-Image", architecture="z-image", text_widths={"qwen3_4b": 2560},
        latent_scale=0.3611, sample_size=128, denoiser="z_image", peft_names=True, distilled_twin=True,
        base_version="Z-Image Base", undistilled_by="ostris/zimage_turbo_training_adapter", shaky_twin=True,
        comfy_class="ZImage", comfy_version="0.26", noise_scale=2.0, degradation=None, head_alone=True,
    ),
    Family(
        key="krea2", name="Krea 2", architecture="krea-2", text_widths={"qwen3vl_4b": 2560},
        latent_scale=1.0, sample_size=128, denoiser="krea2", peft_names=True, distilled_twin=True,
        base_version="Krea 2 RAW", comfy_class="Krea2", comfy_version="0.26", noise_scale=2.0,
        degradation=None, head_alone=True,
    ),
    Family(
        key=SECOND_MINIATURE, name="the second Miniature", architecture="likeness-miniature-2",
        text_widths={"qwen3_4b": 128}, latent_scale=1.0, sample_size=16, denoiser="flux2", peft_names=True,
        comfy_class="Flux2", comfy_version="0.26", attention_side=16, learned_sizes=None, buckets=False,
        preset=SECOND_MINIATURE, segmenter=MINIATURE, face_judge=MINIATURE, image_tower=MINIATURE,
        own_world=True, degradation=None,
    ),
)  # fmt: skip
FAMILIES: dict[str, Family] = {row.key: row for row in _ROWS}
KNOWN = "an SD 1.x, SD 2.x or SDXL checkpoint, FLUX.2 Klein, Z-Image, Krea 2, 'miniature' or 'miniature-2'"


def family_of_unet(told_sizes: bool, linear_projection: bool) -> Family:
    """The row of a checkpoint's U-Net: SDXL is told of sizes, SD 2.x projects with linear layers."""
    rows = [row for row in FAMILIES.values() if row.comfy_class and row.denoiser == "unet"]
    if told_sizes:
        return next(row for row in rows if row.told_sizes)
    return next(row for row in rows if not row.told_sizes and row.linear_projection == linear_projection)


def family_of_flux2(text_width: int) -> Family:
    """The row of a FLUX.2 Klein whose text encoder's states are so wide; tiny ones count as Klein 4B."""
    rows = [row for row in FAMILIES.values() if row.denoiser == "flux2" and not row.own_world]
    return next((row for row in rows if text_width in row.text_widths.values()), rows[0])


def distilled_by_name(name: str) -> bool | None:
    """Whether a base is distilled to a few steps, by its file's or folder's name; None where that says
    nothing. Their makers call the one `flux-2-klein-4b`, `Z-Image-Turbo` and
    `Krea-2-Turbo`, the other `flux-2-klein-base-4b`, `Z-Image` and `Krea-2-Raw`."""

    def named(pattern: str) -> bool:
        return re.search(pattern, name, re.IGNORECASE) is not None

    if named(r"klein[-_. ]?base|base[-_. ]?klein|krea[-_. ]?2[-_. ](raw|base)"):
        return False
    if named(r"z[-_. ]?image"):
        # merges are called as their makers like; some took the distillation out of Turbo again
        plain = named(r"z[-_. ]?image([-_. ](base|bf16|fp16|fp32|fp8.*))*$")
        if plain or named(r"de[-_. ]?(turbo|distill)|undistill"):
            return False
        return True if named("turbo") else None
    return True if named(r"flux[-_. ]?2[-_. ]?klein[-_. ]?\d+b|krea[-_. ]?2[-_. ]turbo") else None
