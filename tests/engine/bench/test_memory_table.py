"""What fits which card: the table of estimates, on a base without numbers."""

from pathlib import Path

import pytest

from likeness_portraits.engine.bases.loaders.random_base import random_base
from likeness_portraits.engine.bases.stored import StoredLinear, put_in_fp8
from likeness_portraits.engine.bench import memory
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.memory import FREE_MARGIN
from likeness_portraits.engine.training.probe import META


@pytest.fixture(scope="module")
def rows() -> list[memory.Needs]:
    return memory.measure_memory(["sd15"], ["textual-inversion"], [512], lambda text: None)


def test_each_card_gets_the_first_measures_that_fit_it(rows: list[memory.Needs]):
    (row,) = rows
    assert (row.base, row.method, row.resolution) == ("sd15", "textual-inversion", 512)
    needed = [row.fits[card] for card in memory.CARDS]
    assert needed[0] is not None and needed[0][1] == ""  # 24 GB: as it is
    for card, fit in row.fits.items():
        assert fit is not None and fit[0] * FREE_MARGIN <= card
    sizes = [fit[0] for fit in needed if fit is not None]
    assert sizes == sorted(sizes, reverse=True) and 2 < sizes[-1] <= sizes[0] < 24


def test_the_table_takes_its_place_on_the_page_and_nothing_else(rows: list[memory.Needs], tmp_path: Path):
    page = tmp_path / "docs" / "bases.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- likeness bench memory -->\nold\n<!-- end -->\nbehind\n")
    assert memory.publish(rows, tmp_path) == page
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nbehind\n") and "old" not in text
    assert "| sd15 | textual-inversion | 512 | " in text
    page.write_text("no place")
    with pytest.raises(LikenessError, match="has no place for the table"):
        memory.publish(rows, tmp_path)


def test_an_unknown_base_is_named_with_the_nearest():
    with pytest.raises(LikenessError, match="unknown architecture 'sdxxl'.*sdxl"):
        memory.measure_memory(["sdxxl"], [], [512], lambda text: None)


def test_a_klein_in_fp8_has_its_layers_so():
    base = random_base("klein4b", META)
    before = sum(weight.nbytes for weight in base.network.parameters())
    put_in_fp8(base.network)
    layers = [layer for layer in base.network.modules() if isinstance(layer, StoredLinear)]
    assert len(layers) > 100
    assert sum(weight.nbytes for weight in base.network.parameters()) < 0.51 * before
