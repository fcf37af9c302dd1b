"""Refocusing inside ComfyUI: the command line's picture, and nothing of it where it is not asked for.

The facts are found by refocused.py in a host's own Python; the graph is run by a server.
"""

from pathlib import Path
from typing import Any

import pytest

from likeness_portraits.tests.comfy.graphs import node
from likeness_portraits.tests.comfy.hosts import Server, numbers_of

pytestmark = pytest.mark.comfy

PROMPT = "a photo of a man and a woman, on a beach"


@pytest.fixture(scope="module")
def facts(checkout: Path, python: Path, package_parent: Path) -> dict[str, Any]:
    return numbers_of("refocused.py", python, checkout, package_parent, timeout=600)


def test_the_command_lines_engine_draws_the_same_picture_in_every_way(facts: dict[str, Any]):
    for way, (likeness, of_plain) in facts["psnr"].items():
        assert likeness >= max(40, of_plain + 6), way


@pytest.mark.parametrize("group", ["same", "neighbours", "stock", "control"])
def test_nothing_else_is_touched(facts: dict[str, Any], group: str):
    assert [name for name, holds in facts[group].items() if not holds] == []


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_all_families_odd_sizes_batches_and_areas(facts: dict[str, Any], family: str):
    assert [name for name, holds in facts["families"][family].items() if not holds] == []


def test_six_people_are_seven_prompts_and_one_more_only_for_each_who_is_drawn_again(facts: dict[str, Any]):
    assert facts["encodes"] == [7, 8]


def test_the_sampler_finds_regions_and_shows_where_words_looked(facts: dict[str, Any]):
    node = facts["node"]
    assert node["shapes"] == [[2, 4, 16, 32], [4, 128, 256, 3], [4, 128, 256]]
    assert 0 <= node["heat"][0] < node["heat"][1] <= 1
    assert node["overlap"] == 0
    assert node["as KSampler"]
    assert node["halves"] == [0.5, 0.0]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("word", "'red hat' is not in the prompt"),
        ("placeholder", "'<v7>' is not in the prompt"),
        ("undefined", "no likeness connected here defines it"),
        ("shape", "is 64 x 64, which is not the shape of the picture"),
        ("batch", "there are 2 regions for <v0> but 3 pictures"),
        ("no region", "no region is connected"),
        ("staged", "connect 'a photo of <v0>, on a beach' from Staged Prompt"),
        ("no vae", "finding faces needs a VAE"),
    ],
)
def test_mistakes_are_told_in_one_sentence(facts: dict[str, Any], mistake: str, message: str):
    assert message in facts["told"][mistake] and "\n" not in facts["told"][mistake]


def test_the_nodes_run_in_a_graph_also_with_what_older_workflows_hold(server: Server):
    """Two words, two regions, one found; the picture, the heat maps and the regions come out."""
    graph = {
        "base": node("LikenessMiniature", person=0, pictures=1),
        "first": node(
            "LikenessRefocus", model=["base", 0], clip=["base", 1], text=PROMPT, token="a man", width=0.5,
            mode="renormalised", scope="onward", schedule="falling",
        ),
        "second": node(
            "LikenessRefocus", model=["first", 0], clip=["base", 1], text=PROMPT, token="a woman",
            where="find by attention", scope="word", conditioning=["first", 1], vae=["base", 2],
        ),
        "nothing": node("CLIPTextEncode", clip=["base", 1], text=""),
        "latent": node("EmptyLatentImage", width=256, height=128, batch_size=1),
        "sample": node(
            "LikenessRefocusedSampler", model=["second", 0], positive=["second", 1],
            negative=["nothing", 0], latent=["latent", 0], vae=["base", 2], seed=3, steps=4, cfg=5.0,
            sampler_name="euler", scheduler="simple",
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["base", 2]),
        "show": node("PreviewImage", images=["decode", 0]),
        "looked": node("PreviewImage", images=["sample", 1]),
        "drawn": node("MaskToImage", mask=["sample", 2]),
        "regions": node("PreviewImage", images=["drawn", 0]),
    }  # fmt: skip
    outputs = server.run(graph)
    assert server.picture(outputs["show"]["images"][0]).shape == (128, 256, 3)
    assert len(outputs["looked"]["images"]) == len(outputs["regions"]["images"]) == 2
    told = server.log.read_text()
    for gone, instead in (("find by attention", "find by face"), ("renormalised", "soft"),
                          ("onward", "word"), ("falling", "constant")):  # fmt: skip
        assert f"has no '{gone}' any more: '{instead}' is done instead" in told
    graph["first"]["inputs"]["mode"] = "melted"
    with pytest.raises(AssertionError, match="there is no 'melted'"):
        server.queue(graph)
