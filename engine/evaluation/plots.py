"""Plots for reports, as SVG text: a frontier of two scores, and differences with their intervals."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

_INKS = ("#1d4ed8", "#d97706", "#059669", "#dc2626", "#7c3aed", "#db2777", "#0891b2", "#65a30d", "#4b5563")
_GRID, _QUIET, _GOOD, _BAD, OPEN = "#e5e7eb", "#6b7280", "#059669", "#dc2626", "#9ca3af"
_WIDTH, LABELS, _LINE = 860, 390, 26  # pixels: of a plot, of the words beside bars, of one bar's line
_NAMES, NAME = 280, 17  # pixels: of the names beside a frontier, of one of their lines


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in the frontier, with intervals (low, high) where they are known."""

    name: str
    x: float
    y: float
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A difference and its interval; `good` colours it, None leaves it grey."""

    name: str
    value: float
    low: float
    high: float
    good: bool | None = None


def frontier(points: Sequence[Point], x_name: str, y_name: str, height: int = 420) -> str:
    """Both scores of each arm in one picture: the upper right is where one wants to be."""
    height = max(height, NAME * len(points) + 66)
    left, right, top, bottom = 60, _WIDTH - _NAMES, 20, height - 46
    x_low, x_high = _bounds([v for p in points for v in (p.x, *(p.x_range or ()))])
    y_low, y_high = _bounds([v for p in points for v in (p.y, *(p.y_range or ()))])

    def across(value: float) -> float:
        return left + (right - left) * (value - x_low) / (x_high - x_low)

    def up(value: float) -> float:
        return bottom - (bottom - top) * (value - y_low) / (y_high - y_low)

    parts = [_frame(left, right, top, bottom, (x_low, x_high), (y_low, y_high), x_name, y_name)]
    beside = spread_labels([up(point.y) for point in points], NAME, bottom)
    for number, point in enumerate(points):
        ink, x, y = _INKS[number % len(_INKS)], across(point.x), up(point.y)
        if point.x_range:
            parts.append(_line(across(point.x_range[0]), y, across(point.x_range[1]), y, ink, 1.5))
        if point.y_range:
            parts.append(_line(x, up(point.y_range[0]), x, up(point.y_range[1]), ink, 1.5))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{ink}"/>')
        parts.append(_line(x, y, right + 8, beside[number], ink, 0.5))
        parts.append(_text(right + 12, beside[number] + 4, _short(point.name, 36), ink, "start"))
    return _svg(height, parts, f"{y_name} against {x_name}")


def spread_labels(heights: Sequence[float], gap: float, most: float) -> list[float]:
    """Places as near to the wanted ones as a gap between any two allows, none beyond `most`; same order."""
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    places = dict(zip(order, sorted(heights)))
    for before, after in zip(order, order[1:]):
        places[after] = max(places[after], places[before] + gap)
    for after, before in zip(reversed(order), [None, *reversed(order)]):
        places[after] = min(places[after], most if before is None else places[before] - gap)
    return [places[number] for number in range(len(heights))]


def bars(entries: Sequence[Bar], name: str) -> str:
    """Differences with intervals, one line each, around a line at 0."""
    height = _LINE * len(entries) + 40
    low, high = _bounds([0.0, *(v for bar in entries for v in (bar.low, bar.high))])

    def across(value: float) -> float:
        return LABELS + (_WIDTH - 20 - LABELS) * (value - low) / (high - low)

    parts = [_line(across(0), 4, across(0), height - 30, _QUIET, 1)]
    for tick in _ticks(low, high):
        parts.append(_text(across(tick), height - 12, f"{tick:.2g}", _QUIET, "middle"))
        parts.append(_line(across(tick), 4, across(tick), height - 30, _GRID, 0.5))
    for number, bar in enumerate(entries):
        y = _LINE * number + 18
        ink = OPEN if bar.good is None else _GOOD if bar.good else _BAD
        parts.append(_text(LABELS - 10, y + 4, _short(bar.name), "#111827", "end"))
        parts.append(_line(across(bar.low), y, across(bar.high), y, ink, 2))
        parts += [_line(across(v), y - 5, across(v), y + 5, ink, 2) for v in (bar.low, bar.high)]
        parts.append(f'<circle cx="{across(bar.value):.1f}" cy="{y}" r="4.5" fill="{ink}"/>')
    return _svg(height, parts, name)


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
    return f'{head}role="img"><title>{html.escape(title)}</title>{"".join(parts)}</svg>'


def _frame(
    left: float, right: float, top: float, bottom: float, across: tuple[float, float],
    up: tuple[float, float], x_name: str, y_name: str,
) -> str:  # fmt: skip
    parts = []
    for tick in _ticks(*across):
        x = left + (right - left) * (tick - across[0]) / (across[1] - across[0])
        parts += [_line(x, top, x, bottom, _GRID, 1), _text(x, bottom + 18, f"{tick:.2g}", _QUIET, "middle")]
    for tick in _ticks(*up):
        y = bottom - (bottom - top) * (tick - up[0]) / (up[1] - up[0])
        parts += [_line(left, y, right, y, _GRID, 1), _text(left - 8, y + 4, f"{tick:.2g}", _QUIET, "end")]
    parts.append(_text((left + right) / 2, bottom + 38, x_name, _QUIET, "middle"))
    parts.append(
        f'<text x="14" y="{(top + bottom) / 2:.0f}" fill="{_QUIET}" font-size="13" text-anchor="middle" '
        f'transform="rotate(-90 14 {(top + bottom) / 2:.0f})">{html.escape(y_name)}</text>'
    )
    return "".join(parts)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values reach."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.08 or 0.05
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the bounds, three to seven of them."""
    step = 10.0 ** len(f"{int(high - low)}")
    while (high - low) / step < 3:
        step /= 2 if f"{step:e}"[0] in "14" or f"{step:e}"[0] == "2" else 2.5
    first = int(low / step) - 1
    ticks = [round(step * (first + number), 10) for number in range(20)]
    return [tick for tick in ticks if low <= tick <= high]


def _line(x1: float, y1: float, x2: float, y2: float, ink: str, width: float) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{ink}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, ink: str, anchor: str) -> str:
    place = f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" font-size="13" text-anchor="{anchor}">'
    return f"{place}{html.escape(text)}</text>"


def _short(text: str, letters: int = 46) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"
