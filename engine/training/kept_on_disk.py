"""Latents and text states kept on disk for later runs: a file is named by all that its content was made of.

What is found there is what this run would compute, bit for bit, or it is made again: names hold the pixels or
the prompt, the weights that read them, and where and how they were computed; files hold a digest of what is
in them.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..bases.base import BaseModel, Rows
from ..bases.conditioning import Conditioning
from ..bases.precision import dtype_of
from ..config import Job
from ..errors import LikenessError
from ..files import write_atomically
from .host import content_of_host

log = logging.getLogger(__name__)

CACHE_FOLDER = "likeness-cache"  # the folder beside a run's output, where the job names none
_PARTS = ("states", "values", "pooled", "mask")  # of what a prompt says


class KeptOnDisk:
    """Reads and writes such files in one folder, which several runs may share."""

    def __init__(self, folder: Path, base: BaseModel, hosts: str) -> None:
        """`hosts`: what the base is changed by while something is learned on it."""
        self.folder = folder
        self._base = base
        self._text = "".join(base.identities[name] for name in base.text_encoders) + hosts
        self._failed = False  # to write, which is said once

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """`encode_posterior` of pixels (B, 3, H, W); which lie in a pass together is part of the name."""
        base = self._base

        def make() -> dict[str, Tensor]:
            mean, std = base.encode_posterior(pixels)
            return {"mean": mean, "std": std}

        scaled = f"{base.latent_scale} {base.latent_shift} {dtype_of(base.vae)}"
        kept = self._kept("latents", [base.identities["vae"], scaled, digest_of_tensors({"": pixels})], make)
        return kept["mean"], kept["std"]

    def states(self, prompt: str, rows: Rows) -> Conditioning:
        """`encode_text` of a prompt, outside gradients."""
        base = self._base

        def make() -> dict[str, Tensor]:
            with torch.no_grad():
                said = base.encode_text([prompt], rows)
            assert said.added is None and said.added_at is None  # no text encoder says so
            return {name: part for name in _PARTS if (part := getattr(said, name)) is not None}

        ids = {name: base.tokenize([prompt], rows, name).ids for name in base.text_encoders}
        vectors = {f"{word} {name}": row for word, each in rows.items() for name, row in each.items()}
        how = {name: value for name, value in sorted(vars(base.text).items())
               if isinstance(value, bool | int | float | str | tuple)}  # fmt: skip
        made_of = [
            self._text,
            prompt,
            digest_of_tensors(ids),
            digest_of_tensors(vectors),
            f"{base.family} {how}",
        ]
        return Conditioning(**self._kept("text", made_of, make))

    def _kept(
        self, kind: str, made_of: list[str], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        device = self._base.device
        name = hashlib.sha256("\0".join([kind, *made_of, conditions(device)]).encode()).hexdigest()
        path = self.folder / f"{kind}-{name}.safetensors"
        kept = read_kept(path, name)
        if kept is None:
            made = make()
            self._write(
                path, name, {part: tensor.detach().cpu().contiguous() for part, tensor in made.items()}
            )
            return made
        return {part: tensor.to(device) for part, tensor in kept.items()}

    def _write(self, path: Path, name: str, tensors: dict[str, Tensor]) -> None:
        try:
            with write_atomically(path) as temporary:
                save_file(tensors, temporary, {"made_of": name, "content": digest_of_tensors(tensors)})
        except LikenessError as error:  # a full disk: the run itself needs nothing of it
            if not self._failed:
                log.warning("%s; latents and text states are not kept", error)
            self._failed = True


def kept_on_disk(job: Job, base: BaseModel) -> KeptOnDisk | None:
    """Where the job asks for it."""
    if not job.cache_on_disk:
        return None
    folder = Path(os.path.expanduser(job.cache)) if job.cache else Path(job.output).parent / CACHE_FOLDER
    return KeptOnDisk(folder, base, " ".join(content_of_host(text) for text in job.on))


def read_kept(path: Path, name: str) -> dict[str, Tensor] | None:
    """The file's tensors; None where there is none, or where it is damaged or of something else."""
    try:
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            # copies: tensors that lie in the file itself would change with it
            tensors = {part: file.get_tensor(part).clone() for part in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError):
        tensors, about = {}, {}
    if about.get("made_of") != name or about.get("content") != digest_of_tensors(tensors):
        log.warning("%s is damaged or of something else; it is made again", path)
        return None
    return tensors


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, shapes, precisions and numbers."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def conditions(device: torch.device) -> str:
    """Whatever else decides the last bit of what is computed there."""
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    precise = torch.get_float32_matmul_precision()
    return f"{device.type} {on} torch {torch.__version__} autocast {autocast} matmul {precise}"
