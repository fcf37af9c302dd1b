"""What methods find inside FLUX.2's attention: where each word is looked for; tiny random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.bases.conditioning import Conditioning
from likeness_portraits.engine.bases.denoisers.seam import using
from likeness_portraits.engine.bases.families import FAMILIES
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.inference.generate import generate
from likeness_portraits.engine.inference.refocus import Focus, LogMasks, Spot
from likeness_portraits.engine.inference.refocused import Refocusing
from likeness_portraits.engine.inference.regions import FocusedPrompt, Regions
from likeness_portraits.engine.staged.text import TextStates
from likeness_portraits.engine.training.attention_maps import mask_layers, recorded
from likeness_portraits.engine.training.component_losses import attention_to
from likeness_portraits.engine.training.interval import measure_overlap
from likeness_portraits.engine.training.memory import MemorySettings, estimate
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.tests.engine import tiny_flux2
from likeness_portraits.tests.engine.tiny import tiny_job, write_person

pytest.importorskip("diffusers", "0.36")
pytest.importorskip("transformers", "4.51")


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(BaseSpec.parse(str(tiny_flux2.write_folder(tmp_path_factory.mktemp("klein")))))


@pytest.fixture
def base(klein: BaseModel, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setattr(klein.text, "length", 96)  # a fifth of the time
    return klein


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_person(tmp_path / "person")
    return tmp_path


def test_words_are_looked_for_in_all_blocks_or_in_those_that_the_row_names(base, monkeypatch):
    assert base.attention_side == 8  # a query for every latent
    single = "single_transformer_blocks.1.attn"
    assert list(mask_layers(base)) == [
        "transformer_blocks.0.attn", "single_transformer_blocks.0.attn", single,
    ]  # fmt: skip
    noisy, times, context = torch.randn(1, 16, 8, 8), torch.tensor([0.5]), base.encode_text(["a man"])
    found = []
    for saving in (False, True):
        text = context.states.clone().requires_grad_()
        base.recompute(saving)
        try:
            with recorded(base.network, mask_layers(base)) as maps:
                prediction = base.predict(noisy, times, Conditioning(states=text))
            looks = attention_to(maps.all(), torch.ones(1, 96))
            (prediction.square().mean() + sum(map_[..., 3].square().sum() for map_ in maps.all())).backward()
        finally:
            base.recompute(False)
        torch.testing.assert_close(looks, torch.ones(1, 64))
        found.append(text.grad)
    base.predict(noisy, times, context)
    processors = {type(block.attn.processor).__name__ for block in base.denoiser.blocks()}
    assert found[0].any() and processors == {"Flux2AttnProcessor", "Flux2ParallelSelfAttnProcessor"}
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)
    row = replace(FAMILIES["flux2"], attention_layers=("single_transformer_blocks.19.attn", single))
    monkeypatch.setitem(FAMILIES, "flux2", row)
    assert list(mask_layers(base)) == [single]
    monkeypatch.setitem(FAMILIES, "flux2", replace(row, attention_layers=("of.another.size",)))
    assert len(mask_layers(base)) == 3


def test_a_region_that_is_everywhere_draws_its_own_prompt_and_others_draw_theirs(base):
    """What the whole prompt still says there is FLOOR's share."""
    noisy = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.5, 0.5])
    said = base.encode_text(["a man on a beach", "a cat", "a dog"])
    region = torch.ones(1, 8, 8)
    spot = Spot(Focus(token="x", region=region), (5,), (5,), 96)
    own = said.rows(slice(1, 2)).states
    prompt = FocusedPrompt(LogMasks([spot], [region]), 96, [TextStates(own, own)])
    biases: dict = {}
    with torch.no_grad(), using(base.network, "regions", Regions([(1, None), (1, prompt)], 0.5, biases)):
        other, found = base.predict(noisy, times, said.rows([2, 0]))
    with torch.no_grad():
        wanted = base.predict(noisy, times, said.rows([2, 1]))
        whole = base.predict(noisy, times, said.rows([2, 0]))[1]
    torch.testing.assert_close(other, wanted[0], atol=1e-5, rtol=1e-5)
    assert (found - wanted[1]).abs().max() < 0.01 * (whole - wanted[1]).abs().max()


def test_two_people_are_drawn_in_boxes_and_neutral_ones_change_nothing(base):
    def drawn(own: bool = False, **how) -> np.ndarray:
        focuses = [
            Focus(token=name, region=(left, 0, 0.5, 1), own_prompt=name if own else None, **how)
            for name, left in (("Anna", 0), ("Ben", 0.5))
        ]
        maps = []
        told = Refocusing(focuses=focuses, on_maps=lambda _group, found, *_rest: maps.append(found))
        picture = generate(base, ["Anna and Ben"], steps=2, seed=1, refocus=told if own or how else None)
        assert not (own or how) or maps[0].shape == (1, 2, 8, 8)
        return picture

    plain = drawn()
    assert (drawn(strength=0.0, scope="word") == plain).all()
    apart, words = drawn(own=True), drawn(scope="word")
    assert (apart != plain).any() and (words != plain).any() and (apart != words).any()


def test_blocks_are_ranked_by_how_well_they_see_the_subject(base, folder):
    found = measure_overlap(base, load_concept(folder / "person", class_word="x"), points=2)
    assert len(found.layers) == 3 and list(found.layers.values()) == sorted(found.layers.values())[::-1]
    assert found.layers.keys() == mask_layers(base).keys()
    assert all(0 <= value <= 1 for value in [*found.layers.values(), *found.overlap])


def test_where_words_are_looked_for_is_counted_in_what_a_run_needs(base, folder):
    """On hollow weights, which nothing in a pass may look into."""
    needed = []
    for weight in (0.0, 0.01):
        job = tiny_job("magictailor", folder, settings={"attention_weight": weight})
        method = method_class("magictailor")(job, base, [load_concept(folder / "person")])
        needed.append(estimate(method, MemorySettings()).step)
    maps = 3 * 2 * 64 * 96 * 4  # blocks, heads, tokens of the picture, words, bytes
    assert needed[1] - needed[0] > maps
