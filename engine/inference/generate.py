"""Drawing pictures without ComfyUI, with the same numbers as its KSampler: same seed, same picture."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..artifact import Artifact
from ..artifact.concept_file import lora_layer
from ..artifact.lora import RANK_BY_NOISE, by_module, merged
from ..bases.base import BaseModel
from ..bases.conditioning import Conditioning
from ..bases.lora_ranks import RankByNoise, with_lora
from ..bases.numbers import check_latents
from ..bases.sampling import DiffusionModel, ModelWrapper, OnStep, sample, seeded_noise, to_bytes
from ..bases.text.prompt_weights import spelled
from ..bases.text.protocol import Rows
from ..bases.text.token_tables import with_table_rows
from ..config import TOKEN, finite
from ..errors import LikenessError
from ..identity.adapter import ADAPTER_KIND as ID_ADAPTER
from ..identity.adapter import carried
from ..identity.conditioning import IdentityConditioning, with_identities
from ..staged.embedding import STAGED_KIND, adjusted, check_used, check_width, check_widths, staged_words
from ..staged.words import StagedModel, StagedWords, with_class_word
from .refocused import Refocusing

log = logging.getLogger(__name__)

_AT_ONCE = 8  # pictures in one pass; more needs memory and is no faster
_NO_RANKS = "what {} says of its rank at each noise level is damaged; get or learn the file again"
_MOST_STEPS, _LAST_SEED = 10_000, 2**64 - 1  # as KSampler has them


def generate(
    base: BaseModel,
    prompts: Sequence[str],
    *,
    negative: str = "",
    artifacts: Sequence[tuple[Artifact, float]] = (),
    people: Sequence[IdentityConditioning] = (),
    steps: int = 25,
    guidance: float = 5.0,
    seed: int | Sequence[int] = 0,
    sampler: str = "euler",
    schedule: str = "simple",
    width: int | None = None,
    height: int | None = None,
    on_step: OnStep | None = None,
    refocus: Refocusing | None = None,
    start: np.ndarray | None = None,
    denoise: float = 1.0,
) -> np.ndarray:
    """One picture per prompt: (N, H, W, 3) uint8.

    `seed`: one for each prompt, or a single one for all, as that many runs of ComfyUI would have. `artifacts`
    come with the strength of their LoRA (a staged embedding's: of its bypass); their placeholders may be used
    in the prompts. `people` are drawn from pictures of them. The base is unchanged afterwards.
    `on_step(done, total)` counts the sampling steps of all pictures and may raise to stop. `refocus` keeps
    words of the prompts in their regions. `start`: a picture (H, W, 3) in [0, 1] per prompt to begin from, of
    which `denoise`, from 0 to 1, is the share that is drawn anew.
    """
    seeds = _one_for_each(seed, prompts)
    _check_numbers(steps, guidance, denoise, artifacts)
    if start is not None:
        height, width = start.shape[1:3]
    shape = base.latent_shape(height, width)
    groups = [range(start, min(start + _AT_ONCE, len(prompts))) for start in range(0, len(prompts), _AT_ONCE)]
    carriers = [one for one in artifacts if one[0].kind == ID_ADAPTER]
    artifacts = [one for one in artifacts if one[0].kind != ID_ADAPTER]
    placeholders = [token.token for artifact, _ in artifacts for token in artifact.tokens]
    prompts, negative = [spelled(prompt, placeholders) for prompt in prompts], spelled(negative, placeholders)
    remembered, prompts = carried(carriers, prompts)
    people = [*people, *remembered]
    staged = _staged(base, artifacts, prompts)
    how = {"steps": steps, "guidance": guidance, "sampler": sampler, "schedule": schedule, "denoise": denoise}
    pictures = []
    with (
        torch.inference_mode(),
        applied(base, artifacts) as rows,
        with_identities(base, people) as with_people,
    ):
        _check_placeholders([*prompts, negative], {**rows, **{words.token: {} for words in staged}})
        for words in staged:
            negative = with_class_word(negative, words)
        easel = _Easel(base, rows, staged, with_people, refocus, negative, how)
        for number, group in enumerate(groups):
            pictures.append(easel.paint(
                group, [prompts[i] for i in group],
                noise=seeded_noise([seeds[i] for i in group], shape).to(base.device),
                start=None if start is None else _latents(base, start[list(group)]),
                on_step=_counted(on_step, number * steps, len(groups) * steps),
            ))  # fmt: skip
    return np.concatenate(pictures) if pictures else np.zeros((0, *_size(base, shape), 3), np.uint8)


def _check_numbers(
    steps: int, guidance: float, denoise: float, artifacts: Sequence[tuple[Artifact, float]]
) -> None:
    if not 1 <= steps <= _MOST_STEPS:
        raise LikenessError(f"{steps} sampling steps cannot be meant; use 1 to {_MOST_STEPS}")
    strengths = {f"the strength of {_named(artifact)}": strength for artifact, strength in artifacts}
    finite({"the guidance": guidance, "the share that is drawn anew": denoise, **strengths})


@dataclass(frozen=True)
class _Easel:
    """What all pictures of one call are painted with."""

    base: BaseModel
    rows: Rows
    staged: Sequence[StagedWords]
    with_people: ModelWrapper
    refocus: Refocusing | None
    negative: str
    how: Mapping[str, Any]  # what `sample` is told of steps, guidance, sampler, schedule and denoise

    def paint(
        self,
        group: range,
        prompts: Sequence[str],
        *,
        noise: Tensor,
        start: Tensor | None,
        on_step: OnStep | None,
    ) -> np.ndarray:
        """The pictures (n, H, W, 3) uint8 at the places `group` of the call, from noise (n, C, h, w)."""
        painter = partial(_painter, self.base, rows=self.rows, staged=self.staged)
        unconditional = self.base.encode_text([self.negative] * len(group), self.rows, weights=True)
        sampled = partial(
            sample, unconditional=unconditional, noise=noise, start=start, on_step=on_step, **self.how
        )
        model, context = painter(prompts)
        if self.refocus is None:
            return self._decoded(sampled(self.with_people(model, group), context))
        height, width = noise.shape[2:]
        focused = self.refocus.model(
            self.base, painter, prompts, self.rows, (height, width), self.how["steps"], group
        )
        latents = self.refocus.draw(focused, partial(sampled, self.with_people(focused, group), context))
        pictures = self._decoded(latents)
        self.refocus.report(focused, group, pictures)
        return pictures

    def _decoded(self, latents: Tensor) -> np.ndarray:
        """Pictures (n, H, W, 3) uint8; never black ones of what is no number."""
        return to_bytes(self.base.decode(check_latents(self.base, latents)))


def _one_for_each(seed: int | Sequence[int], prompts: Sequence[str]) -> list[int]:
    seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(prompts):
        raise LikenessError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one seed, or one for each")
    for number in seeds:
        if not 0 <= number <= _LAST_SEED:
            raise LikenessError(f"the seed {number} is none; give 0 to {_LAST_SEED}, as ComfyUI takes them")
    return seeds


def _named(artifact: Artifact) -> str:
    return " and ".join(token.token for token in artifact.tokens) or "the LoRA"


def _staged(
    base: BaseModel, artifacts: Sequence[tuple[Artifact, float]], prompts: Sequence[str]
) -> list[StagedWords]:
    """The placeholders whose words change with the noise level; each must be in some prompt."""
    staged = []
    for artifact, strength in artifacts:
        if artifact.kind == STAGED_KIND and artifact.base_family == base.family:
            words = adjusted(staged_words(artifact), bypass=strength)
            check_width(words, _widths(base), base.denoiser.value_width)
            check_used(prompts, words)
            words.mapper.to(base.device)
            staged.append(words)
    return staged


def _painter(
    base: BaseModel, prompts: Sequence[str], rows: Rows, staged: Sequence[StagedWords]
) -> tuple[DiffusionModel, Conditioning]:
    """What predicts the noise, and what it is told at first."""
    if not staged:
        return base, base.encode_text(prompts, rows, weights=True)
    model = StagedModel(base, prompts, rows, staged)
    return model, model.context()


@contextmanager
def applied(base: BaseModel, artifacts: Sequence[tuple[Artifact, float]]) -> Iterator[Rows]:
    """The base with the artifacts' LoRAs and tables in its weights; gives the rows of their placeholders."""
    rows: dict[str, dict[str, Tensor]] = {}
    seen: set[str] = set()
    with ExitStack() as stack:
        modules = base.lora_layers() if artifacts else {}
        for artifact, strength in artifacts:
            _check_fit(base, artifact)
            for one in _with_lora(base, modules, artifact, strength):
                stack.enter_context(one)
            stack.enter_context(with_table_rows(base.text_encoders, artifact.tables(), strength))
            for token in artifact.tokens:
                if token.token in seen:
                    raise LikenessError(
                        f"two concepts use the placeholder {token.token}; learn one as another"
                    )
                seen.add(token.token)
                if artifact.rows(token.token):
                    rows[token.token] = artifact.rows(token.token)
        yield rows


def _with_lora(
    base: BaseModel, modules: Mapping[str, nn.Module], artifact: Artifact, strength: float
) -> list[AbstractContextManager[None]]:
    """What puts the artifact's LoRA into the base, for a while: folded into the weights, or beside them where
    its rank follows the noise."""
    tensors, ranked = artifact.lora(), artifact.extra.get(RANK_BY_NOISE)
    if ranked is None:
        return [merged(modules, tensors, strength)]
    network = set(base.network.modules())
    listening = {name: parts for name, parts in by_module(tensors).items() if modules.get(name) in network}
    try:
        ranks = RankByNoise(base.process, int(ranked["rank"]), int(ranked["least"]))
        fitting = all(len(parts["lora_down.weight"]) % ranks.rank == 0 for parts in listening.values())
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LikenessError(_NO_RANKS.format(_named(artifact))) from error
    if not fitting:
        raise LikenessError(_NO_RANKS.format(_named(artifact)))
    others = {key: tensor for key, tensor in tensors.items() if lora_layer(key)[0] not in listening}
    return [
        merged(modules, others, strength),
        with_lora(base.network, modules, listening, strength, ranks),
    ]


def _check_fit(base: BaseModel, artifact: Artifact) -> None:
    if artifact.kind not in ("lora", "embedding", STAGED_KIND):
        raise LikenessError(f"drawing with a {artifact.kind} is not possible here; use its node in ComfyUI")
    if artifact.base_family != base.family:
        raise LikenessError(
            f"this concept was learned on a base of the family {artifact.base_family}, not {base.family}; "
            "choose another base"
        )
    for token in artifact.tokens:
        rows = artifact.rows(token.token)
        if rows:
            check_widths(token.token, {name: row.shape[-1] for name, row in rows.items()}, _widths(base))
    if artifact.base_fingerprint and artifact.base_fingerprint != base.fingerprint:
        log.warning("the concept was learned on other weights of the same family; the likeness may suffer")


def _widths(base: BaseModel) -> dict[str, int]:
    """Of the vectors that each text encoder reads."""
    towers: dict[str, Any] = dict(base.text_encoders.items())
    return {name: tower.config.hidden_size for name, tower in towers.items()}


def _latents(base: BaseModel, pictures: np.ndarray) -> Tensor:
    """Latents (N, C, h, w) of pictures (N, H, W, 3) in [0, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).permute(0, 3, 1, 2)
    return base.encode_pixels(pixels * 2 - 1)


def _check_placeholders(prompts: Sequence[str], rows: Rows) -> None:
    """Raises for a placeholder that nobody defined: it would be read as so many letters."""
    for prompt in prompts:
        for name in TOKEN.findall(prompt):
            if name not in rows:
                hint = f"; there are {', '.join(rows)}" if rows else "; load the concept that defines it"
                raise LikenessError(f"the prompt '{prompt}' mentions {name}, which no concept defines{hint}")


def _counted(on_step: OnStep | None, before: int, total: int) -> OnStep | None:
    return None if on_step is None else lambda done, _: on_step(before + done, total)


def _size(base: BaseModel, shape: tuple[int, int, int]) -> tuple[int, int]:
    return shape[1] * base.pixels_per_latent, shape[2] * base.pixels_per_latent
