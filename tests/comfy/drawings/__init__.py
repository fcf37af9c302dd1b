"""The bundled workflows as lists of nodes, links and groups: one module per file of workflows/, from which
`draw_workflows.py` makes it. A module holds NODES, LINKS, GROUPS and SHOWN, the title of the node whose
picture becomes the thumbnail.
"""

from typing import Any, TypeAlias

# name: (type, (x, y), (width, height), title, widgets)
Nodes: TypeAlias = dict[str, tuple[str, tuple[int, int], tuple[int, int], str, dict[str, Any]]]

SAMPLING = {
    "seed": 7,
    "control_after_generate": "fixed",
    "steps": 25,
    "cfg": 5.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
}
