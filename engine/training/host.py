"""Learning on top of what was learned before: LoRAs that stay in the weights during a run, and people whom an
identity adapter shows meanwhile.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ..artifact import Artifact, read_metadata
from ..artifact.lora import merged
from ..bases.base import BaseModel
from ..bases.sampling import unwrapped
from ..bases.text.token_tables import with_table_rows
from ..config import Job
from ..errors import LikenessError
from ..files import content_of
from ..identity.conditioning import IdentityConditioning, attach_identities

_ADAPTER = "id_adapter"
_MINIATURE = "miniature"  # instead of a file: the adapter that comes with it
ON_PEOPLE = ("textual-inversion", "personamagic")  # methods that change words alone


@contextmanager
def merged_adapters(
    base: BaseModel, files: Sequence[str], people: Sequence[IdentityConditioning] = ()
) -> Iterator[None]:
    """The base with the LoRAs of these concept files at full strength, and with these people in every picture
    that is learned from or drawn; afterwards it is as it was.

    It is how pseudo-words are learned as a plug-in of a personalised model (arXiv 2412.15674): what is
    learned here belongs with the same files and people when it is drawn. Files that `shows_people` names are
    left to `people`.
    """
    with ExitStack() as stack:
        modules = base.lora_layers() if files else {}
        for file in files:
            if shows_people(file):
                continue
            host = Artifact.load(file)
            if host.kind != "lora":
                raise LikenessError(
                    f"{file} holds a {host.kind}, not a LoRA; only LoRAs and identity adapters can be "
                    "learned on"
                )
            if host.base_family != base.family:
                raise LikenessError(
                    f"{file} was learned on a base of the family {host.base_family}, not {base.family}; "
                    "choose another base or another LoRA"
                )
            stack.enter_context(merged(modules, host.lora(), 1.0))
            stack.enter_context(with_table_rows(base.text_encoders, host.tables(), 1.0))
        base.model_wrapper = stack.enter_context(attach_identities(base, people))
        stack.callback(setattr, base, "model_wrapper", unwrapped)
        yield


def shows_people(text: str) -> bool:
    """Whether an entry of a job's `on` is an identity adapter (with pictures or settings behind it, or by
    itself) rather than a LoRA's file."""
    if text == _MINIATURE or "=" in text or ";" in text or text.endswith((".pt", ".bin")):
        return True
    return text.endswith(".safetensors") and read_metadata(text)["kind"] == _ADAPTER


def check_not_distilled(base: BaseModel, job: Job) -> None:
    """Raises for a base that is distilled to draw in a few steps, unless a LoRA that it is learned on may
    take that out of it."""
    row = base.traits
    if not base.distilled or (row.undistilled_by and any(not shows_people(file) for file in job.on)):
        return
    with_it = f"; or learn on this one with {row.undistilled_by} under it (--on), and draw without that"
    raise LikenessError(
        f"this {row.name} is distilled to draw in a few steps, which learning would undo: learn on "
        f"{row.base_version}, and draw with this one" + (with_it if row.undistilled_by else "")
    )


def content_of_host(text: str) -> str:
    """An entry of a job's `on` with what its files hold in place of their names."""
    if os.path.isfile(os.path.expanduser(text)):
        return content_of(text)
    parts = re.split(r"([=;,]|:(?![/\\]))", text)  # but not C:/
    return "".join(content_of(part) if _holds_something(part) else part for part in parts)


def _holds_something(text: str) -> bool:
    """Whether it is a file, or a network's folder: no number or word that a folder happens to be called."""
    path = os.path.expanduser(text)
    return os.path.isfile(path) or os.path.isfile(os.path.join(path, "config.json"))


def check_people(job: Job, people: Sequence[IdentityConditioning]) -> None:
    """Raises unless what is learned may be learned on the people, and all whom the job names are there."""
    named = [text for text in job.on if shows_people(text)]
    if len(people) < len(named):
        raise LikenessError(
            f"{named[0]} is an identity adapter, whose pictures nobody has read; start this with "
            "`likeness train`, or in ComfyUI"
        )
    if not people:
        return
    if job.method not in ON_PEOPLE:
        raise LikenessError(
            f"{job.method} cannot be learned while an identity adapter shows somebody, since that would end "
            "up in its weights or in pictures of others; connect the MODEL from before Apply Face Identity, "
            f"or take the adapter from --on; words can be learned on it, with {' or '.join(ON_PEOPLE)}"
        )
    if len(job.concepts) != 1:
        raise LikenessError(
            "an identity adapter shows the same person in all pictures; learn one concept at a time with it"
        )
    if any(one.region is not None for one in people):
        raise LikenessError(
            "an identity shown inside a mask cannot be learned on: its place in a picture to be drawn is not "
            "that in the pictures learned from; apply it without a mask for learning"
        )
    if job.compile is not None:
        raise LikenessError("a compiled U-Net cannot show people; learn without --compile")
