"""A grid of one likeness over prompts, strengths and seeds: its sheet and its report with the frontier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import LikenessError
from .measure import CAVEAT, Measures, in_words
from .page import heading, paragraph, picture, table, write_page
from .plots import Point, frontier
from .sheet import Row, draw_sheet

MOST = 256  # pictures of one grid


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What was drawn, by prompt, then by strength, then by seed, and how it was judged."""

    prompts: Sequence[str]
    strengths: Sequence[float]
    seeds: Sequence[int]
    pictures: Sequence[np.ndarray]  # (H, W, 3) uint8
    measures: Measures

    def places(self) -> Iterator[tuple[int, int, slice]]:
        """Prompt number, strength number, and where the pictures of both are."""
        for row in range(len(self.prompts) * len(self.strengths)):
            start = row * len(self.seeds)
            yield *divmod(row, len(self.strengths)), slice(start, start + len(self.seeds))


def lines_of(text: str) -> list[str]:
    """The prompts in a text field, one per line."""
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise LikenessError("there is no prompt; write one per line, with the placeholder in it")
    return prompts


def numbers_of(text: str) -> list[float]:
    """The strengths in a text field, with commas between them."""
    try:
        strengths = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError as error:
        raise LikenessError(f"'{text}' is no list of strengths; write numbers such as 0.6, 0.8, 1") from error
    if not strengths or len(set(strengths)) < len(strengths):
        raise LikenessError(f"'{text}' must name each strength once, such as 0.6, 0.8, 1")
    return strengths


def check_size(prompts: int, strengths: int, seeds: int) -> None:
    """Raises where a grid would take hours by mistake."""
    if prompts * strengths * seeds > MOST:
        raise LikenessError(
            f"{prompts} prompts x {strengths} strengths x {seeds} seeds are more than {MOST} pictures; "
            "take fewer"
        )


def sheet(grid: Grid) -> np.ndarray:
    """All pictures with their scores under them, a row per prompt and strength: (H, W, 3) uint8."""
    rows = [
        Row(
            label=grid.prompts[prompt], detail=f"strength {grid.strengths[strength]:g}",
            pictures=list(grid.pictures[own]),
            notes=[_note(grid.measures, number) for number in range(own.start, own.stop)],
            rule_above=prompt > 0 and strength == 0,
        )
        for prompt, strength, own in grid.places()
    ]  # fmt: skip
    found = grid.measures
    title = f"identity {found.mean_identity:.2f}"
    if found.text is not None:
        title += f", prompt {found.mean_text:.2f}"
    seeds = [f"seed {seed}" for seed in grid.seeds]
    return np.asarray(draw_sheet(title, f"{len(grid.pictures)} pictures, judge: {found.judge}", rows, seeds))


def write_report(path: Path, grid: Grid, title: str) -> Path:
    """One HTML file: what the scores say, the frontier over strengths, every picture with its scores."""
    parts = [paragraph(line) for line in in_words(grid.measures).splitlines()[:-1]]
    parts.append(paragraph(CAVEAT, quiet=True))
    points = _points(grid)
    if points:
        parts += [heading("Identity and prompt by strength"), frontier(points, "prompt", "identity")]
    parts.append(heading("By prompt and strength"))
    parts.append(table(("prompt", "strength", "identity", "faces found", "prompt score"), _lines(grid)))
    parts.append(heading("Pictures"))
    for prompt, strength, own in grid.places():
        strip = np.concatenate(list(grid.pictures[own]), axis=1)
        scores = "   ".join(_note(grid.measures, number) for number in range(own.start, own.stop))
        parts.append(
            picture(strip, f"{grid.prompts[prompt]} · strength {grid.strengths[strength]:g} · {scores}")
        )
    return write_page(path, title, parts)


def _note(found: Measures, number: int) -> str:
    who = f"{found.identity[number]:.2f}" if found.detected[number] else "no face"
    return who if found.text is None else f"{who} | {found.text[number]:.2f}"


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _lines(grid: Grid) -> list[tuple[object, ...]]:
    lines = []
    for prompt, strength, own in grid.places():
        who = _mean(grid.measures.identity[own])
        what = "" if grid.measures.text is None else float(grid.measures.text[own].mean())
        lines.append(
            (grid.prompts[prompt], f"{grid.strengths[strength]:g}", "" if who is None else who,
             f"{int(grid.measures.detected[own].sum())} of {len(grid.seeds)}", what)
        )  # fmt: skip
    return lines


def _points(grid: Grid) -> list[Point]:
    """One point per strength: the means over all its pictures."""
    if grid.measures.text is None:
        return []
    shape = (len(grid.prompts), len(grid.strengths), len(grid.seeds))
    who, what = grid.measures.identity.reshape(shape), grid.measures.text.reshape(shape)
    points = []
    for number, strength in enumerate(grid.strengths):
        identity = _mean(who[:, number])
        if identity is not None:
            points.append(Point(name=f"{strength:g}", x=float(what[:, number].mean()), y=identity))
    return points
