"""Identity adapters in the graph: pictures to an identity, and an identity into what a MODEL draws.

People come in through the seam of attention, and only while the network runs for a MODEL that carries them:
attention patches and replacements of other nodes, staged prompts, LoRAs and ControlNets do what they did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.patcher_extension
import folder_paths
import torch

from ..artifact import Artifact
from ..data.faces import load_faces
from ..data.packs import OR_MASK
from ..data.segmenters.face_parts import load as load_parser
from ..errors import LikenessError
from ..identity.adapter import check_count, encode_identity, factors_of, id_adapter, miniature_adapter
from ..identity.attention import IdentityAttention
from ..identity.conditioning import IdAdapter, IdentityConditioning, IdentityTokens, check_fit
from ..identity.references import (
    ImageTower,
    OfPhotographs,
    OfTheMiniature,
    Preparation,
    miniature_tower,
    references_of,
)
from .areas import area_of, part_of
from .attention import Sites, user_in
from .folders import folder
from .joint_attention import JointSites
from .model_sites import model_sites
from .pictures import image_of, masks_of_tensor, pictures_of
from .weights import check_attention, kind_of

_KEY = "likeness.identity"  # of our wrappers
AREAS = "likeness.areas"  # in transformer_options: the latents' size, and by prompt where in them it looks


class Encoded(NamedTuple):
    """An identity, and what the adapter saw of each picture, IMAGE (B, S, S, 3)."""

    identity: IdentityTokens
    references: torch.Tensor


def encode_identity_images(
    artifact: Artifact | None,
    images: torch.Tensor | Sequence[torch.Tensor],
    *,
    clip_vision: Any = None,
    masks: torch.Tensor | Sequence[torch.Tensor] | None = None,
    pack: str | None = "auraface",
    keep: str = "face and hair",
) -> Encoded:
    """The person in IMAGE (1 to 3, H, W, C) or a list of such; artifact None is the Miniature's adapter.

    MASK (B, H, W), where there is one, says what to keep; without a pack of face models it must be there.
    """
    adapter = id_adapter(miniature_adapter() if artifact is None else artifact)
    pictures = pictures_of(images)
    check_count(len(pictures), adapter.slots)
    names = [f"picture {number}" for number in range(1, len(pictures) + 1)]
    drawn = None if masks is None else masks_of_tensor(masks)
    if drawn is not None and len(drawn) != len(pictures):
        raise LikenessError(
            f"there are {len(pictures)} pictures but {len(drawn)} masks; connect one mask per picture"
        )
    tower, prepare = _eyes(adapter, clip_vision, pack, drawn is not None, keep)
    references = references_of(pictures, names, prepare, drawn)
    identity = encode_identity(adapter, references, tower)
    return Encoded(identity, image_of([reference.pixels for reference in references]))


def _eyes(
    adapter: IdAdapter, clip_vision: Any, pack: str | None, masked: bool, keep: str
) -> tuple[ImageTower, Preparation]:
    """The image tower, and what makes references, for this adapter's kind of pictures."""
    if adapter.image_encoder == "miniature":
        return miniature_tower(), OfTheMiniature(keep, checked=True)
    if clip_vision is None:
        raise LikenessError(
            f"this adapter looks through {adapter.image_encoder}; connect it with Load CLIP Vision"
        )
    if pack is None and not masked:
        raise LikenessError("no face model is chosen; connect a mask per picture that marks its face")
    device, packs = str(comfy.model_management.get_torch_device()), Path(folder_paths.models_dir)
    prepare = OfPhotographs(
        lambda: load_faces(str(pack), packs / "insightface", device, otherwise=OR_MASK),
        lambda: load_parser(folder("likeness"), device).labels,
        keep,
    )
    return clip_vision_tower(clip_vision), prepare


def clip_vision_tower(clip_vision: Any) -> ImageTower:
    """ComfyUI's CLIP_VISION; its own preparation of pictures is left out: nobody must be exactly 0."""

    def network(values: torch.Tensor) -> torch.Tensor:
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        ready = values.to(clip_vision.load_device)
        return clip_vision.model(pixel_values=ready, intermediate_output=-2)[1]

    return ImageTower(
        "clip", clip_vision.image_size, tuple(clip_vision.image_mean), tuple(clip_vision.image_std), network
    )


# ------------------------------------------------------------------------------------------ in a MODEL


def apply_identity(
    model: Any,
    identity: IdentityTokens,
    *,
    weight: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    layers: str = "",
    mask: torch.Tensor | None = None,
) -> Any:
    """A clone of MODEL that draws the identity; further people and nodes may follow.

    start and end as ComfyUI counts them; layers: factors by layer; MASK (1, h, w): where in the picture.
    """
    if mask is not None and len(mask.reshape(-1, *mask.shape[-2:])) != 1:
        raise LikenessError("an identity has one region, but the mask is a batch; connect a single mask")
    check_attention(model, "an identity")
    sites, network = model_sites(model), model.model.diffusion_model
    check_fit(identity.adapter, kind_of(model), sites.text_shapes(network))
    region = None if mask is None else mask.reshape(mask.shape[-2:]).cpu().float()
    shown = IdentityConditioning(
        identity=identity, weight=weight, start=start, end=end, layers=factors_of(layers), region=region
    )
    model = model.clone()
    kinds = comfy.patcher_extension.WrappersMP
    model.add_wrapper_with_key(sites.around, _KEY, _Showing(shown, sites, sites.heads(network)))
    if region is not None and not model.wrappers.get(kinds.CALC_COND_BATCH, {}).get(_KEY):
        model.add_wrapper_with_key(kinds.CALC_COND_BATCH, _KEY, _tell_areas)
    return model


def _tell_areas(executor: Any, model: Any, conds: Any, x: Any, timestep: Any, model_options: Any) -> Any:
    """Around ComfyUI's batching of prompts: says which area's latents a pass of the U-Net is over."""
    latents = tuple(x.shape[-2:])
    areas = {
        entry["uuid"]: area_of(entry, latents)
        for group in conds for entry in group or () if entry.get("area") is not None
    }  # fmt: skip
    if areas:
        inner = model_options.get("transformer_options", {})
        model_options = {**model_options, "transformer_options": {**inner, AREAS: (latents, areas)}}
    return executor(model, conds, x, timestep, model_options)


@dataclass(frozen=True, eq=False)
class _Showing:
    """A wrapper around the network's pass, whose batch may hold any mix of prompts."""

    shown: IdentityConditioning
    sites: Sites | JointSites
    heads: Mapping[str, int]

    @torch.no_grad()
    def __call__(
        self, executor: Any, x: torch.Tensor, timesteps: torch.Tensor, *rest: Any, **options: Any
    ) -> Any:
        wrapped = executor.class_obj
        if not self.shown.in_pass(lambda: self.sites.progress(wrapped, timesteps)):
            return executor(x, timesteps, *rest, **options)
        by_place = len(rest) > 3  # by place, as ComfyUI does, or by name
        about = rest[3] if by_place else options.get("transformer_options") or {}
        prompts = about.get("cond_or_uncond") or [0]  # for each chunk of the batch, 1: the negative prompt
        who = tuple(kind == 0 for kind in prompts for _ in range(len(x) // len(prompts)))
        person = self.shown.person(who, self.heads, self.sites.queries_like(wrapped, x))
        if AREAS in about and person.region is not None:
            person = replace(person, region=self._within(person.region, about, len(x)))
        others = user_in(about, "identity")
        people = [*others.people, person] if isinstance(others, IdentityAttention) else [person]
        network = self.sites.network_of(wrapped)
        about = self.sites.with_user(about, network, "identity", IdentityAttention(people))
        if by_place:
            rest = (*rest[:3], about, *rest[4:])
        else:
            options = {**options, "transformer_options": about}
        return executor(x, timesteps, *rest, **options)

    def _within(self, region: torch.Tensor, about: Mapping[str, Any], rows: int) -> torch.Tensor:
        """The region (B, 1, h, w) for each sample of a batch of prompts, of their areas alone."""
        latents, areas = about[AREAS]
        whole = (*latents, 0, 0)
        parts = [part_of(region, latents, areas.get(uuid, whole)) for uuid in about["uuids"]]
        return torch.cat(parts).repeat_interleave(rows // len(parts), 0)


def people_in(model: Any) -> list[IdentityConditioning]:
    """Whom a MODEL shows, for learning on them: nothing that was made while drawing is taken along."""
    wrappers = (model.wrappers.get(kind, {}).get(_KEY, ()) for kind in (Sites.around, JointSites.around))
    return [replace(wrapper.shown) for group in wrappers for wrapper in group]
