"""Drawing somebody from one to three pictures without learning: identity adapters (MasterWeaver) in use.

An adapter file makes an `IdAdapter`, references make an `Identity`, and `Shown` is an identity in a picture:
how strongly, at which noise levels, in which region. Several can be shown at once, each with own tokens.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifact import Artifact
from ..artifact.tensors import read_pickle
from ..data.references import ImageTower, Reference
from ..errors import LikenessError, nearest
from ..miniature.model import WEIGHTS as MINIATURE_WEIGHTS
from ..networks.id_attention import IdAttention, KeysValues, Person, cross_layers, hooked, split_heads
from ..networks.id_encoder import HEAD_WIDTH, SLOTS, IdEncoder, in_slots
from ..networks.id_files import adapter_networks, adapter_tensors, released_names, sd1_layers
from ..networks.sampling import Denoiser
from ..networks.stages import LAST_TIMESTEP

KIND = "id_adapter"
RELEASED_TOWER = "clip-vit-large-patch14"
MINIATURE_FILE = MINIATURE_WEIGHTS / "id_adapter.safetensors"


@dataclass(frozen=True, kw_only=True)
class IdAdapter:
    """An adapter's networks, frozen, and what they were made for."""

    encoder: IdEncoder
    attention: IdAttention
    family: str
    image_encoder: str  # "miniature", or the name of a CLIP image tower
    slots: int = SLOTS


def id_adapter(artifact: Artifact) -> IdAdapter:
    """What a concept file of this kind holds, ready for use."""
    if artifact.kind != KIND:
        raise LikenessError(
            f"a likeness learned with {artifact.method} is no identity adapter; load one, as MasterWeaver's"
        )
    extra = artifact.extra
    try:
        encoder, attention = adapter_networks(artifact.tensors, int(extra.get("head_width", HEAD_WIDTH)))
        tower = extra.get("image_encoder") or (
            "miniature" if artifact.base_family == "miniature" else RELEASED_TOWER
        )
        return IdAdapter(
            encoder=encoder,
            attention=attention,
            family=artifact.base_family,
            image_encoder=str(tower),
            slots=int(extra.get("slots", SLOTS)),
        )
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise LikenessError(
            f"this identity adapter is incomplete or damaged ({reason}); get or train it again"
        ) from error


def read_adapter(path: str | Path) -> Artifact:
    """An adapter's file: ours, or the reference's `adapter_*.pt` (of which only tensors are read)."""
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        return Artifact.load(path)
    return import_released(path)


def miniature_adapter() -> Artifact:
    """The adapter that comes with the Miniature."""
    if not MINIATURE_FILE.is_file():
        raise LikenessError(
            f"the Miniature's {MINIATURE_FILE.name} is missing; reinstall Likeness, or load an adapter"
        )
    return Artifact.load(MINIATURE_FILE)


# ------------------------------------------------------------------------------- the reference's own files


def is_released(path: Path) -> bool:
    """Whether a file has the layout of the reference's adapters; nothing in it is executed."""
    if path.suffix.lower() not in (".pt", ".pth", ".bin", ".ckpt") or not zipfile.is_zipfile(path):
        return False
    try:
        content = read_pickle(path, "")
    except LikenessError:
        return False
    return isinstance(content, dict) and {"id_encoder", "adapter_modules"} <= content.keys()


def import_released(path: str | Path) -> Artifact:
    """The reference's adapter as a concept file: for SD 1.x, its numbered layers by name (spec 4)."""
    content = read_pickle(path, "get the released adapter again")
    encoder, layers = _released_parts(content, path)
    names = released_names(sd1_layers())
    strange = [key for key in layers if key.split(".", 1)[0] not in names]
    missing = [number for number in names if f"{number}.to_k_img.weight" not in layers]
    if strange or missing:
        raise LikenessError(
            f"{path} is no adapter for SD 1.x ({'unknown' if strange else 'missing'} layer "
            f"{(strange or missing)[0]}); get the released one"
        )
    named = {f"{names[key.split('.', 1)[0]]}.{key.split('.', 1)[1]}": rows for key, rows in layers.items()}
    try:
        networks = IdEncoder.from_weights(encoder), IdAttention.from_weights(named)
    except (KeyError, IndexError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise LikenessError(
            f"{path} holds no ID encoder of MasterWeaver ({str(error).splitlines()[0]}); get it again"
        ) from error
    return Artifact(
        kind=KIND, method="imported", base_family="sd1", tensors=adapter_tensors(*networks),
        extra={"slots": SLOTS, "head_width": HEAD_WIDTH, "image_encoder": RELEASED_TOWER,
               "image_width": networks[0].image_width, "face_width": 0},
    )  # fmt: skip


def _released_parts(content: Any, path: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found = []
    for name in ("id_encoder", "adapter_modules"):
        part = content.get(name) if isinstance(content, dict) else None
        if not isinstance(part, Mapping) or not all(isinstance(value, Tensor) for value in part.values()):
            raise LikenessError(f"{path} holds no {name}; give MasterWeaver's adapter_*.pt")
        found.append({str(key): value.detach().float() for key, value in part.items()})
    return found[0], found[1]


# ------------------------------------------------------------------------------------------ from pictures


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Somebody as an adapter knows them: tokens (1, n, D), and those of nobody for the unconditional pass."""

    adapter: IdAdapter
    tokens: Tensor
    nobody: Tensor


def check_count(pictures: int, slots: int) -> None:
    """Raises unless there is a picture, and a place for each: more are said, never folded into others."""
    if not pictures:
        raise LikenessError(f"no reference picture is given; give one to {slots} of the same person")
    if pictures > slots:
        raise LikenessError(
            f"{pictures} reference pictures are given, but the adapter has places for {slots}; choose the "
            f"best {slots}"
        )


@torch.no_grad()
def encode_identity(adapter: IdAdapter, references: Sequence[Reference], tower: ImageTower) -> Identity:
    """The identity in one to three references; a tower of another kind is refused."""
    check_count(len(references), adapter.slots)
    wide = adapter.encoder.face_width
    if wide and any(reference.face is None or len(reference.face) != wide for reference in references):
        raise LikenessError(
            f"this adapter also looks at a face embedding of {wide} numbers; let the faces be found by the "
            "model it was trained with, instead of a mask"
        )
    nothing = tower.nothing()
    if nothing.shape[-1] != adapter.encoder.image_width:
        raise LikenessError(
            f"this adapter looks through {adapter.image_encoder}; the image tower that was given has states "
            f"{nothing.shape[-1]} wide, not {adapter.encoder.image_width}: give that one"
        )
    seen = tower.states(tower.values([reference.pixels for reference in references])).cpu()
    features = torch.stack([in_slots(seen[:0], nothing.cpu(), adapter.slots),
                            in_slots(seen, nothing.cpu(), adapter.slots)])  # fmt: skip
    faces = None
    if wide:
        known = torch.stack([torch.as_tensor(reference.face) for reference in references]).float()
        blank = torch.zeros(wide)
        faces = torch.stack(
            [in_slots(known[:0], blank, adapter.slots), in_slots(known, blank, adapter.slots)]
        )
    nobody, tokens = adapter.encoder.slots(features, faces).chunk(2)
    return Identity(adapter=adapter, tokens=tokens, nobody=nobody)


def check_fit(adapter: IdAdapter, family: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises unless the adapter is for this base; `shapes`: by layer name, those of its `to_k`."""
    if adapter.family != family:
        raise LikenessError(
            f"this identity adapter was trained for {adapter.family}, but the model is {family}; "
            "use an adapter or a model of the same kind"
        )
    own = {
        key.removesuffix(".to_k_img.weight"): tuple(weight.shape)
        for key, weight in adapter.attention.layer_weights().items()
        if key.endswith("to_k_img.weight")
    }
    wrong = [name for name in own if own[name] != tuple(shapes.get(name, ()))]
    if wrong or not own:
        raise LikenessError(
            f"this identity adapter was trained for another U-Net: its layer {(wrong or ['?'])[0]} does not "
            "fit this model; use the base it was trained on"
        )


# ---------------------------------------------------------------------------------------------- in a picture


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An identity in a picture; `start` and `end` as ComfyUI counts them: 0 is pure noise, 1 the picture."""

    identity: Identity
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    layers: Mapping[str, float] = field(default_factory=dict)  # factors by the beginnings of layers' names
    region: Tensor | None = None  # (h, w) in [0, 1]: where they are; None: anywhere
    among: tuple[bool, ...] | None = None  # in which of a run's pictures; None: in all
    _known: dict[Any, Person] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise LikenessError(
                f"the identity cannot last from {self.start:g} to {self.end:g}; give 0 to 1, the start first"
            )
        if self.region is not None and not self.region.any():
            raise LikenessError("the identity's region marks nothing; paint where the person should be white")
        names = self.identity.adapter.attention.names
        for beginning in self.layers:
            if not any(_begins(name, beginning) for name in names):
                parts = {name.split(".attentions")[0] for name in names}
                hint = nearest(beginning, parts) or f"; there are {sorted(parts)}"
                raise LikenessError(f"the model has no layer '{beginning}'{hint}")

    def at(self, timestep: float) -> bool:
        """Whether they are there at a timestep; steps exactly on a boundary are."""
        share = 1 - timestep / LAST_TIMESTEP
        half = 0.5 / LAST_TIMESTEP
        return self.weight != 0 and self.start - half <= share <= self.end + half

    def among_rows(self, pictures: Sequence[int], rows: int) -> tuple[bool | None, ...]:
        """For each sample of a pass, a run's pictures last: them (True), nobody, or as it was (None)."""
        there = [self.among is None or self.among[number] for number in pictures]
        before = rows - len(there)  # without guidance none: nothing is ever folded into other rows
        beside = there if before == len(there) else [True] * before
        return (
            *(False if shown else None for shown in beside),
            *(True if shown else None for shown in there),
        )

    def person(self, who: tuple[bool | None, ...], heads: Mapping[str, int], like: Tensor) -> Person:
        """For a pass whose samples show them (True), nobody, or are as they were (None), like `like`.

        `heads` of each layer; what was made is kept for the following steps.
        """
        key = (who, like.device, like.dtype)
        if key not in self._known:
            region = None if self.region is None else self.region.to(like.device)[None, None]
            keys_values, counts = self._keys_values(who, heads, like)
            self._known[key] = Person(keys_values, region=region, counts=counts)
        return self._known[key]

    @torch.no_grad()
    def _keys_values(
        self, who: Sequence[bool | None], heads: Mapping[str, int], like: Tensor
    ) -> tuple[KeysValues, Tensor | None]:
        """The samples' keys, and values times the weight, split into heads, of layers that have a weight;
        and what `Person` calls counts."""
        identity, found = self.identity, {}
        both = torch.cat([identity.nobody, identity.tokens])
        tokens, often = each_once(both, identity.adapter.encoder.queries)
        rows = torch.tensor([int(bool(state)) for state in who])
        there = torch.tensor([float(state is not None) for state in who])[:, None, None]
        for name, (keys, values) in identity.adapter.attention(tokens).items():
            weight = self.weight * self._factor(name)
            if weight != 0:
                pair = (keys[rows].to(like), (weight * there * values[rows]).to(like))
                found[name] = tuple(split_heads(part, heads[name], like).contiguous() for part in pair)
        return found, None if often is None else often[rows, None, None].to(like)

    def _factor(self, name: str) -> float:
        """The factor of the longest beginning that fits."""
        fitting = [beginning for beginning in self.layers if _begins(name, beginning)]
        return self.layers[max(fitting, key=len)] if fitting else 1.0


def each_once(tokens: Tensor, queries: int) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, S * queries, D) of slots, some of which may hold the same, with every slot that any of them
    holds once, (B, n, D), and the logarithm of how often it holds it, (B, n).

    Attention to them, with that added to its scores, is attention to all. Unchanged, with None, where it
    would save nothing.
    """
    places = tokens.unflatten(1, (-1, queries))  # (B, S, queries, D)
    kept: list[Tensor] = []
    times = torch.zeros(len(tokens), 0)
    for row, slots in enumerate(places):
        for slot in slots:
            same = [number for number, other in enumerate(kept) if torch.allclose(slot, other, atol=1e-6)]
            if not same:
                kept.append(slot)
                times = torch.nn.functional.pad(times, (0, 1))
            times[row, same[0] if same else -1] += 1
    if len(kept) >= places.shape[1]:
        return tokens, None
    once = torch.cat(kept)[None].expand(len(tokens), -1, -1)
    return once, times.log().repeat_interleave(queries, 1)


def _begins(name: str, beginning: str) -> bool:
    return f"{name}.".startswith(f"{beginning.rstrip('.')}.")


def factors_of(text: str) -> dict[str, float]:
    """`up_blocks.1=1.3, mid_block=0` as factors by the beginnings of layers' names."""
    found = {}
    for entry in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, _, number = entry.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError as error:
            raise LikenessError(
                f"'{entry}' is no layer and its factor; write it like up_blocks.1=1.3"
            ) from error
    return found


def carried(
    artifacts: Sequence[tuple[Artifact, float]], prompts: Sequence[str]
) -> tuple[list[Shown], list[str]]:
    """The people whom adapters carry, where a prompt names one; the prompts with class words."""
    shown: list[Shown] = []
    for artifact, weight in artifacts:
        if "identity_nobody" not in artifact.tensors:
            raise LikenessError(
                "an identity adapter draws from pictures of a person; give them with --identity"
            )
        adapter, nobody = id_adapter(artifact), artifact.tensors["identity_nobody"][None].float()
        for token in artifact.tokens:
            tokens = artifact.tensors[f"identity.{token.name}"][None].float()
            among = tuple(token.token in prompt for prompt in prompts)
            if any(among):
                somebody = Identity(adapter=adapter, tokens=tokens, nobody=nobody)
                shown.append(Shown(identity=somebody, weight=weight, among=among))
            prompts = [prompt.replace(token.token, token.class_word) for prompt in prompts]
    return shown, list(prompts)


class PeopleModel:
    """A base model for sampling that shows people in the last samples of a pass, one for each of a run's
    `pictures`, and nobody in those before."""

    def __init__(
        self,
        inner: Denoiser,
        reading: Callable[..., Any],  # IdHooks.reading
        heads: Mapping[str, int],
        shown: Sequence[Shown],
        pictures: Sequence[int],
    ) -> None:
        self.alphas_cumprod: Tensor = inner.alphas_cumprod
        self.prediction_type: str = inner.prediction_type
        self.tail: int = inner.tail
        self._inner, self._reading, self._heads = inner, reading, heads
        self._shown, self._pictures = tuple(shown), pictures

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """As the inner model's."""
        now, rows = int(timesteps[0]), len(noisy)
        people = [
            shown.person(shown.among_rows(self._pictures, rows), self._heads, noisy)
            for shown in self._shown
            if shown.at(now)
        ]
        with self._reading(*people):
            return self._inner.predict(noisy, timesteps, context)


@contextmanager
def showing(base: Any, shown: Sequence[Shown]) -> Iterator[Callable[[Denoiser, Sequence[int]], Denoiser]]:
    """Within, the base's U-Net can show these people; gives what makes a model of some pictures do so."""
    if not shown:
        yield lambda model, pictures: model
        return
    layers = cross_layers(base.unet)
    shapes = {name: tuple(layer.to_k.weight.shape) for name, layer in layers.items()}
    heads = {name: int(layer.heads) for name, layer in layers.items()}
    for adapter in {id(one.identity.adapter): one.identity.adapter for one in shown}.values():
        check_fit(adapter, base.family, shapes)
    with hooked(base.unet) as hooks:
        yield lambda model, pictures: PeopleModel(model, hooks.reading, heads, shown, pictures)
