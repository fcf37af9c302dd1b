"""A grid of likenesses over prompts, strengths and seeds: its sheet and its report with the frontier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import LikenessError
from .measure import CAVEAT, Measures, likeness_in_words
from .page import heading, page_picture, paragraph, table, write_page
from .plots import Point, frontier
from .sheet import SheetRow, draw_sheet

_MOST = 256  # pictures of one grid


Variant = tuple[str, float | None]  # a likeness' name, and its strength where it has any


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What was drawn, by prompt, then by likeness, by strength and by seed, and how it was judged."""

    prompts: Sequence[str]
    strengths: Sequence[float]
    seeds: Sequence[int]
    pictures: Sequence[np.ndarray]  # (H, W, 3) uint8
    measures: Measures
    likenesses: Sequence[str] = ("",)  # names of those that are compared; a single one needs none
    cards: Sequence[str] = ()  # what each likeness is, in a line
    rows: Sequence[Variant] = ()  # of each prompt; by default each likeness at each strength

    @property
    def variants(self) -> list[Variant]:
        """Likeness and strength of the rows of each prompt."""
        return list(self.rows) or [
            (name, strength) for name in self.likenesses for strength in self.strengths
        ]

    def places(self) -> Iterator[tuple[int, int, slice]]:
        """Prompt number, variant number, and where the pictures of both are."""
        for row in range(len(self.prompts) * len(self.variants)):
            start = row * len(self.seeds)
            yield *divmod(row, len(self.variants)), slice(start, start + len(self.seeds))

    def label(self, variant: int) -> str:
        """The row in words."""
        name, strength = self.variants[variant]
        return ", ".join(part for part in (name, strength is not None and f"strength {strength:g}") if part)


def lines_of(text: str) -> list[str]:
    """The prompts in a text field, one per line."""
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise LikenessError("there is no prompt; write one per line, with the placeholder in it")
    return prompts


def parse_numbers(text: str) -> list[float]:
    """The strengths in a text field, with commas between them."""
    try:
        strengths = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError as error:
        raise LikenessError(f"'{text}' is no list of strengths; write numbers such as 0.6, 0.8, 1") from error
    if not strengths or len(set(strengths)) < len(strengths):
        raise LikenessError(f"'{text}' must name each strength once, such as 0.6, 0.8, 1")
    return strengths


def names_of(
    methods: Sequence[str], placeholders: Sequence[Sequence[str]], prompts: Sequence[str] = ("",)
) -> list[str]:
    """Names for likenesses by what learned them, numbered where two are alike; one alone needs none.

    LikenessError where they are not called by the same placeholders, and not every prompt has {} for what
    calls each: it would mean only some of them.
    """
    everybody = all("{}" in prompt for prompt in prompts)
    if not everybody and any(set(those) != set(placeholders[0]) for those in placeholders):
        lists = "; ".join(", ".join(those) or "none" for those in placeholders)
        raise LikenessError(
            f"the likenesses have different placeholders ({lists}); write {{}} in every prompt for "
            "what calls each, or learn them under the same ones"
        )
    if len(methods) < 2:
        return [""] * len(methods)
    numbers = [methods[:place].count(method) + 1 for place, method in enumerate(methods)]
    return [method if number == 1 else f"{method} {number}" for method, number in zip(methods, numbers)]


def check_size(prompts: int, variants: int, seeds: int) -> None:
    """Raises where a grid would take hours by mistake; a variant is a likeness at a strength."""
    if prompts * variants * seeds > _MOST:
        raise LikenessError(
            f"{prompts} prompts x {variants} strengths x {seeds} seeds are more than {_MOST} pictures; "
            "take fewer"
        )


def sheet(grid: Grid) -> np.ndarray:
    """All pictures with their scores under them, a row per prompt, likeness and strength: (H, W, 3) uint8."""
    rows = [
        SheetRow(
            label=grid.prompts[prompt], detail=grid.label(variant),
            pictures=list(grid.pictures[cells]),
            notes=[_note(grid.measures, number) for number in range(cells.start, cells.stop)],
            rule_above=prompt > 0 and variant == 0,
        )
        for prompt, variant, cells in grid.places()
    ]  # fmt: skip
    measures = grid.measures
    title = f"identity {measures.mean_identity:.2f}"
    if measures.text is not None:
        title += f", prompt {measures.mean_text:.2f}"
    seeds = [f"seed {seed}" for seed in grid.seeds]
    return np.asarray(
        draw_sheet(title, f"{len(grid.pictures)} pictures, judge: {measures.judge}", rows, seeds)
    )


def write_grid_report(path: Path, grid: Grid, title: str) -> Path:
    """One HTML file: what the scores say, the frontier over likenesses and strengths, all pictures."""
    parts = [paragraph(line) for line in likeness_in_words(grid.measures).splitlines()[:-1]]
    parts.append(paragraph(CAVEAT, quiet=True))
    parts += [paragraph(card, quiet=True) for card in grid.cards]
    points = _points(grid)
    if points:
        parts += [heading("Identity and prompt by strength"), frontier(points, "prompt", "identity")]
    parts.append(heading("By prompt and strength"))
    named = ("likeness",) if any(grid.likenesses) else ()
    columns = ("prompt", *named, "strength", "identity", "faces found", "prompt score")
    parts.append(table(columns, _lines(grid)))
    parts.append(heading("Pictures"))
    for prompt, variant, cells in grid.places():
        strip = np.concatenate(list(grid.pictures[cells]), axis=1)
        scores = "   ".join(_note(grid.measures, number) for number in range(cells.start, cells.stop))
        parts.append(page_picture(strip, f"{grid.prompts[prompt]} · {grid.label(variant)} · {scores}"))
    return write_page(path, title, parts)


def _note(measures: Measures, number: int) -> str:
    who = f"{measures.identity[number]:.2f}" if measures.detected[number] else "no face"
    return who if measures.text is None else f"{who} | {measures.text[number]:.2f}"


def _in_digits(strength: float | None) -> str:
    return "" if strength is None else f"{strength:g}"


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _lines(grid: Grid) -> list[tuple[object, ...]]:
    lines = []
    for prompt, variant, cells in grid.places():
        name, strength = grid.variants[variant]
        who = _mean(grid.measures.identity[cells])
        what = "" if grid.measures.text is None else float(grid.measures.text[cells].mean())
        lines.append(
            (grid.prompts[prompt], *([name] if name else []), _in_digits(strength),
             "" if who is None else who,
             f"{int(grid.measures.detected[cells].sum())} of {len(grid.seeds)}", what)
        )  # fmt: skip
    return lines


def _points(grid: Grid) -> list[Point]:
    """One point per likeness and strength: the means over all its pictures."""
    if grid.measures.text is None:
        return []
    shape = (len(grid.prompts), len(grid.variants), len(grid.seeds))
    who, what = grid.measures.identity.reshape(shape), grid.measures.text.reshape(shape)
    points = []
    for number, (name, strength) in enumerate(grid.variants):
        identity = _mean(who[:, number])
        if identity is not None:
            points.append(
                Point(
                    name=f"{name} {_in_digits(strength)}".strip(), x=float(what[:, number].mean()), y=identity
                )
            )
    return points
