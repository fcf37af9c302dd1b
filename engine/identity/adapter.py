"""Drawing somebody from one to three pictures without learning: identity adapters (MasterWeaver) in use.

An adapter file makes an `IdAdapter`, references make `IdentityTokens`; `conditioning` draws with them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifact import Artifact, import_file
from ..artifact.tensors import read_pickle
from ..bases.families import FAMILIES
from ..errors import LikenessError, first_line
from ..files import reading
from ..miniature.model import WEIGHTS as MINIATURE_WEIGHTS
from .attention import IdAttention
from .conditioning import IdAdapter, IdentityConditioning, IdentityTokens
from .encoder import HEAD_WIDTH, SLOTS, IdEncoder, in_slots
from .files import adapter_networks, adapter_tensors, released_names, sd1_layers
from .references import ImageTower, Reference

ADAPTER_KIND = "id_adapter"
RELEASED_TOWER = "clip-vit-large-patch14"
MINIATURE_FILE = MINIATURE_WEIGHTS / "id_adapter.safetensors"


def id_adapter(artifact: Artifact) -> IdAdapter:
    """What a concept file of this kind holds, ready for use."""
    if artifact.kind != ADAPTER_KIND:
        raise LikenessError(
            f"a likeness learned with {artifact.method} is no identity adapter; load one, as MasterWeaver's"
        )
    extra = artifact.extra
    try:
        encoder, attention = adapter_networks(artifact.tensors, int(extra.get("head_width", HEAD_WIDTH)))
        tower = extra.get("image_encoder") or (FAMILIES[artifact.base_family].image_tower or RELEASED_TOWER)
        return IdAdapter(
            encoder=encoder,
            attention=attention,
            family=artifact.base_family,
            image_encoder=str(tower),
            slots=int(extra.get("slots", SLOTS)),
        )
    except Exception as error:  # the file may hold tensors of any shape
        raise LikenessError(
            f"this identity adapter is incomplete or damaged ({first_line(error)}); get or train it again"
        ) from error


def read_adapter(path: str | Path) -> Artifact:
    """An adapter's file: ours, or the reference's `adapter_*.pt` (of which only tensors are read)."""
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        return Artifact.load(path)
    return import_released(path)


def read_likeness(path: str | Path) -> Artifact:
    """Any file that was learned: ours, the reference's adapter, a LoRA or embedding of any trainer."""
    path = Path(path)
    return import_released(path) if is_released(path) else import_file(path)


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
    if path.suffix.lower() not in (".pt", ".pth", ".bin", ".ckpt") or not path.is_file():
        return False
    try:
        content = read_pickle(path, "")
    except LikenessError:
        return False
    return isinstance(content, dict) and {"id_encoder", "adapter_modules"} <= content.keys()


def import_released(path: str | Path) -> Artifact:
    """The reference's adapter as a concept file: for SD 1.x, its numbered layers by name (spec 4)."""
    with reading(path, "holds no identity adapter of MasterWeaver; get it again"):
        return _released(path)


def _released(path: str | Path) -> Artifact:
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
    with reading(path, "holds no ID encoder of MasterWeaver; get it again"):
        networks = IdEncoder.from_weights(encoder), IdAttention.from_weights(named)
    return Artifact(
        kind=ADAPTER_KIND, method="imported", base_family="sd1", tensors=adapter_tensors(*networks),
        extra={"slots": SLOTS, "head_width": HEAD_WIDTH, "image_encoder": RELEASED_TOWER,
               "image_width": networks[0].image_width, "face_width": 0},
    )  # fmt: skip


def _released_parts(content: Any, path: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parts = []
    for name in ("id_encoder", "adapter_modules"):
        part = content.get(name) if isinstance(content, dict) else None
        if not isinstance(part, Mapping) or not all(isinstance(value, Tensor) for value in part.values()):
            raise LikenessError(f"{path} holds no {name}; give MasterWeaver's adapter_*.pt")
        parts.append({str(key): value.detach().float() for key, value in part.items()})
    return parts[0], parts[1]


# ------------------------------------------------------------------------------------------ from pictures


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
def encode_identity(adapter: IdAdapter, references: Sequence[Reference], tower: ImageTower) -> IdentityTokens:
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
        crops = torch.stack([torch.as_tensor(reference.face) for reference in references]).float()
        blank = torch.zeros(wide)
        faces = torch.stack(
            [in_slots(crops[:0], blank, adapter.slots), in_slots(crops, blank, adapter.slots)]
        )
    nobody, tokens = adapter.encoder.slots(features, faces).chunk(2)
    return IdentityTokens(adapter=adapter, tokens=tokens, nobody=nobody)


def factors_of(text: str) -> dict[str, float]:
    """`up_blocks.1=1.3, mid_block=0` as factors by the beginnings of layers' names."""
    factors = {}
    for entry in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, _, number = entry.partition("=")
        try:
            factors[name.strip()] = float(number)
        except ValueError as error:
            raise LikenessError(
                f"'{entry}' is no layer and its factor; write it like up_blocks.1=1.3"
            ) from error
    return factors


def carried(
    artifacts: Sequence[tuple[Artifact, float]], prompts: Sequence[str]
) -> tuple[list[IdentityConditioning], list[str]]:
    """The people whom adapters carry, where a prompt names one; the prompts with class words."""
    shown: list[IdentityConditioning] = []
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
                somebody = IdentityTokens(adapter=adapter, tokens=tokens, nobody=nobody)
                shown.append(IdentityConditioning(identity=somebody, weight=weight, among=among))
            prompts = [prompt.replace(token.token, token.class_word) for prompt in prompts]
    return shown, list(prompts)
