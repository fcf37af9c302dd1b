"""HTML pages that hold all they show: tables, plots and pictures in one file, without scripts."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import write_atomically

CELL_MARKS: Mapping[object, str] = {True: "✓", False: "✗", None: "○"}  # yes, no, undecided
CELL_CLASSES: Mapping[object, str] = {True: "yes", False: "no", None: "quiet"}  # their classes in the page
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#111827;max-width:980px;margin:32px auto;padding:0 16px}
h1{font-size:26px}h2{font-size:20px;margin-top:44px;border-top:1px solid #e5e7eb;padding-top:20px}
h3{font-size:16px;margin-bottom:6px}p.quiet,td.quiet,figcaption{color:#6b7280}svg,img{max-width:100%}
table{border-collapse:collapse;font-size:14px;display:block;overflow-x:auto}
td,th{padding:4px 10px;border-bottom:1px solid #e5e7eb;text-align:left;
vertical-align:top}
td.yes{color:#059669}td.no{color:#dc2626}td.number{text-align:right;white-space:nowrap}
figure{margin:10px 0}figcaption{font-size:13px}pre{background:#f3f4f6;padding:10px;overflow:auto}
"""


def write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes the page, whole or not at all."""
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
    body = "\n".join(parts)
    with write_atomically(path) as temporary:
        temporary.write_text(
            f"{head}<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n",
            "utf-8",
        )
    return path


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, quiet: bool = False) -> str:
    kind = ' class="quiet"' if quiet else ""
    return f"<p{kind}>{html.escape(text)}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Cells are texts; a number is set right with three decimals; True, False and None become
    `CELL_MARKS`."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = ["<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _cell(cell: object) -> str:
    if cell is None or isinstance(cell, bool):
        return f'<td class="{CELL_CLASSES[cell]}">{CELL_MARKS[cell]}</td>'
    if isinstance(cell, float):
        return f'<td class="number">{cell:.3f}</td>'
    return f"<td>{html.escape(str(cell))}</td>"


def page_picture(pixels: np.ndarray, caption: str = "") -> str:
    """Pixels (H, W, 3) uint8 inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<figure><img alt="{html.escape(caption)}" src="data:image/jpeg;base64,{data}">{below}</figure>'
