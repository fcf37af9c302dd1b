"""The words people search for find our nodes in the editor's own search, the one most of them want first."""

from typing import Any

import pytest

from likeness_portraits.tests.comfy.draw_workflows import CHROMIUM, editor
from likeness_portraits.tests.comfy.hosts import Server

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium"),
]

# fmt: off
FIRST = {  # search words: the first of our nodes that they find
    "train": "Concept", "train lora": "TrainDreamBoothLora", "finetune": "TrainDreamBoothLora",
    "dreambooth": "TrainDreamBoothLora", "person": "TrainDreamBoothLora", "lora": "TrainDreamBoothLora",
    "embedding": "TrainTextualInversion", "load lora": "Load", "character": "Apply",
    "concept": "Concept", "portrait": "Concept", "dataset": "Concept", "caption": "Concept",
    "photo": "Concept", "load images": "ConceptFolder",
    "identity": "EncodeIdentity", "face swap": "EncodeIdentity", "swap": "EncodeIdentity",
    "ipadapter": "ApplyIdentity", "faceid": "ApplyIdentity", "pulid": "ApplyIdentity",
    "instantid": "ApplyIdentity",
    "regional": "Refocus", "region": "Refocus", "two people": "People", "regional prompt": "Refocus",
    "face": "ParseFace", "hair": "ParseFace", "mask": "SegmentText", "segment": "SegmentText",
    "detailer": "DetailFace", "face detailer": "DetailFace", "inpaint": "BrushMask",
    "restore": "RestoreFace", "upscale": "Upscale", "style": "MiniatureStyle",
    "attention": "TrainCustomDiffusion", "similarity": "Measure", "evaluate": "Grid",
}
# fmt: on
SEARCH = """
(words) => {
  const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
  const search = stores.get('nodeDef').nodeSearchService;
  const names = word => search.searchNode(word, [], {limit: 64}).map(node => node.name);
  return words.map(word => [word, names(word)]);
}
"""


def test_every_word_that_people_tried_finds_ours_and_the_wanted_one_first(
    server: Server, nodes: dict[str, Any]
):
    if "search_aliases" not in nodes["LikenessConcept"]:
        pytest.skip("this ComfyUI's nodes have no search words beside their names")
    with editor(server.url) as page:
        found = dict(page.evaluate(SEARCH, list(FIRST)))
    ours = {word: next((n for n in names if n.startswith("Likeness")), None) for word, names in found.items()}
    assert ours == {word: f"Likeness{name}" for word, name in FIRST.items()}
    # beside core's own Train LoRA, and not behind pages of others
    assert found["train"].index("LikenessTrainDreamBoothLora") < 6
    trainers = [name for name in found["train"] if name.startswith("LikenessTrain")]
    assert trainers[0] == "LikenessTrainDreamBoothLora"
    assert found["train lora"].index("LikenessTrainDreamBoothLora") < 3


def test_nodes_stand_in_folders_of_the_menu_by_what_they_are_for(nodes: dict[str, Any]):
    folders = {node["category"] for name, node in nodes.items() if name.startswith("Likeness")}
    assert folders == {
        f"Likeness/{name}"
        for name in ("dataset", "demo", "evaluate", "face", "mask", "regions", "train", "use")
    }
