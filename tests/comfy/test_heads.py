"""The concept nodes on photographs, with trained face models: a stranger and a group picture are named."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server
from likeness_portraits.tests.engine.data.kit_made import FIRST, PEOPLE, SECOND, pack_of, person_folder

pytestmark = [pytest.mark.comfy, pytest.mark.real]
TOLD = {"class_word": "woman", "token": "<v0>"}


@pytest.fixture(scope="module")
def packed(server: Server, kit: Path) -> Iterator[Server]:
    """The server with the kit's face pack, which goes again."""
    root = server.base / "models" / "insightface"
    pack_of(root, kit, "mobileface")
    yield server
    shutil.rmtree(root)


def test_a_folders_stranger_is_named_in_the_node_also_by_a_pasted_path(packed: Server, kit: Path):
    folder = person_folder(packed.base / "input" / "with a stranger", kit, (*FIRST, SECOND[0]))
    pasted = f'"{folder}"'  # as Windows copies paths
    shown = packed.run(
        {
            "read": node("LikenessConceptFolder", folder=pasted, role="as concept.json says", **TOLD),
            "see": node("PreviewAny", source=["read", 1]),
        }
    )
    (text,) = shown["read"]["text"]
    strangers = [line for line in text.splitlines() if "shows somebody else" in line]
    assert len(strangers) == 1 and strangers[0].startswith(Path(SECOND[0]).stem)


def test_a_group_picture_is_named_in_the_node(packed: Server, kit: Path):
    halves = [
        Image.open(kit / PEOPLE / name).convert("RGB").resize((300, 300)) for name in (FIRST[0], SECOND[1])
    ]
    Image.fromarray(np.concatenate([np.asarray(half) for half in halves], 1)).save(
        packed.base / "input" / "pair.png"
    )
    shown = packed.run(
        {
            "load": node("LoadImage", image="pair.png"),
            "tell": node("LikenessConcept", images=["load", 0], role="subject", **TOLD),
            "see": node("PreviewAny", source=["tell", 0]),
        }
    )
    assert "000: shows 2 faces, of which the largest is used" in shown["tell"]["text"][0]
