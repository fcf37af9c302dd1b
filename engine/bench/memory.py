"""What learning needs on a card: base × method × resolution, and the measures that make it fit.

Bases of real size without numbers (`random_base` on PyTorch's meta device), the method as it is, its usual
settings: the same estimate that a run tells before its first step. Nothing is computed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..bases.base import BaseModel
from ..bases.loaders.random_base import SIZED, random_base
from ..bases.stored import put_in_fp8
from ..config import METHODS
from ..data.concepts import load_concept
from ..errors import LikenessError, nearest
from ..files import read_text, write_atomically
from ..training.memory import FREE_MARGIN, GB, Estimates, MemorySettings, rungs
from ..training.methods import method_class
from ..training.probe import META
from .speed import speed_job

CARDS = (24, 16, 12, 8)  # GB that are free: what a card of so many GiB has left beside the driver's own
LEARNED_SIDES = (512, 768, 1024)  # pixels
_SMALL = 64  # pixels of the pictures in the files, which are made as large as they are learned at
_LETTERS = {  # of the measures, in the order of the ladder
    "vae_away": "V", "text_away": "T", "checkpointing": "C", "turns": "", "small_moments": "A",
    "pass_size": "",
}  # fmt: skip
LEGEND = (
    "V: VAE off the device between pictures; T: text encoders on the CPU; C: inner states computed again; "
    "N: text encoder and denoiser by turns on the device, B: their blocks; A: 8-bit Adam; M2, M1: so many "
    "pictures in a pass"
)
_BEGIN, _END = "<!-- likeness bench memory -->", "<!-- end -->"
_PAGE = Path("docs") / "bases.md"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one method needs at one resolution of one base."""

    base: str
    method: str
    resolution: int
    fits: Mapping[int, tuple[float, str] | None]  # by card: GB and the measures' letters; None: it does not


def measure_memory(
    bases: Sequence[str],
    methods: Sequence[str],
    sides: Sequence[int],
    say: Callable[[str], None],
    fp8: bool = False,
) -> list[Needs]:
    """A row for each that can be learned; what cannot is said. `fp8`: transformers and what reads prompts for
    them in fp8 too, as many people have their files."""
    for kind, asked, valid in (("architecture", bases, SIZED), ("method", methods, METHODS)):
        for name in asked:
            if name not in valid:
                hint = nearest(name, valid) or f"; valid are {', '.join(valid)}"
                raise LikenessError(f"unknown {kind} '{name}'{hint}")
    rows = []
    named = [(name, random_base(name, META)) for name in bases or SIZED]
    for name, base in list(named) if fp8 else ():
        if base.text.blocks():
            named.append((f"{name} in fp8", random_base(name, META)))
            for network in (named[-1][1].network, *named[-1][1].text_encoders.values()):
                put_in_fp8(network)
    for name, base in named:
        for method in methods or METHODS:
            for side in sides:
                try:
                    rows.append(needs_of(name, base, method, side))
                except LikenessError as error:
                    say(f"{name}, {method}, {side} px: {error}")
                    continue
                say(f"{name}, {method}, {side} px: {_cells(rows[-1])}")
    return rows


def needs_of(name: str, base: BaseModel, method: str, side: int) -> Needs:
    """The first rung of the ladder that fits, for each card."""
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        job = replace(speed_job(method, base, Path(folder), 1, "bf16", _SMALL), resolution=side)
        learner = method_class(method)(job, base, [load_concept(concept) for concept in job.concepts])
        ladder, estimates = rungs(learner, job, torch.device("cuda")), Estimates(learner)
        fits: dict[int, tuple[float, str] | None] = {}
        at = 0
        for card in CARDS:
            fits[card] = None
            for number in range(at, len(ladder)):
                at, measures = number, ladder[number]
                if estimates.least(measures) * FREE_MARGIN > card * GB:
                    continue
                total = estimates.of(measures).total
                if total * FREE_MARGIN <= card * GB:
                    fits[card] = total / GB, letters(measures)
                    break
            else:
                at = len(ladder)
        learner.close()
    return Needs(base=name, method=method, resolution=side, fits=fits)


def letters(measures: MemorySettings) -> str:
    """The measures in the letters of LEGEND."""
    taken = asdict(measures)
    said = [letter for name, letter in _LETTERS.items() if letter and taken[name]]
    said += {"networks": ["N"], "blocks": ["B"]}.get(measures.turns, [])
    return " ".join([*said, *([f"M{measures.pass_size}"] if measures.pass_size else [])])


def _cell(fit: tuple[float, str] | None) -> str:
    return "–" if fit is None else f"{fit[0]:.1f} {fit[1]}".rstrip()


def _cells(row: Needs) -> str:
    return ", ".join(f"{card} GB: {_cell(row.fits[card])}" for card in reversed(CARDS))


def fits_table(rows: Sequence[Needs]) -> str:
    """A table in Markdown: GB that are needed, with the measures taken, where it fits at all."""
    head = ["base", "method", "px", *(f"{card} GB" for card in reversed(CARDS))]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [_cell(row.fits[card]) for card in reversed(CARDS)]
        lines.append([row.base, row.method, str(row.resolution), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{LEGEND}.\n"


def publish(rows: Sequence[Needs], checkout: Path) -> Path:
    """Puts the table in its place in the page on bases."""
    page = checkout / _PAGE
    text = read_text(page)
    if _BEGIN not in text:
        raise LikenessError(f"{page} has no place for the table ({_BEGIN}); give a checkout of this project")
    written = f"{_BEGIN}\n\n{fits_table(rows)}\n{_END}"
    changed = re.sub(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", lambda _: written, text, flags=re.DOTALL)
    with write_atomically(page) as temporary:
        temporary.write_text(changed, "utf-8")
    return page


def as_json(rows: Sequence[Needs]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
