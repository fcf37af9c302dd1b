"""Writes locales/en/nodeDefs.json from a running ComfyUI: names and tooltips as the nodes have them.

    python tests/comfy/write_locales.py http://127.0.0.1:8188

For maintainers: run it after a node's words changed; a test compares the file with the schemas.
"""

import json
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCALE = Path(__file__).resolve().parents[2] / "locales" / "en" / "nodeDefs.json"


def definitions(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """What the editor shows for each of our nodes, in the form of a locale file."""
    found = {}
    for node_id, node in nodes.items():
        if not node_id.startswith("Likeness"):
            continue
        inputs = {}
        for group in ("required", "optional"):
            for name, (_, options) in node["input"].get(group, {}).items():
                inputs[name] = {"name": options.get("display_name", name), "tooltip": options["tooltip"]}
        outputs = {
            str(number): {"name": name, "tooltip": tooltip}
            for number, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"]))
        }
        found[node_id] = {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": inputs,
            "outputs": outputs,
        }
    return found


if __name__ == "__main__":
    with urllib.request.urlopen(f"{sys.argv[1]}/object_info") as answer:
        text = json.dumps(definitions(json.load(answer)), indent=2, ensure_ascii=False)
    LOCALE.parent.mkdir(parents=True, exist_ok=True)
    LOCALE.write_text(text + "\n", "utf-8")
