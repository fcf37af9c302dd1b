"""Regions drawn again by themselves, on the tiny base and with a drawer that writes down what it is asked."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.detail import Detailer, regions_redrawn
from likeness_portraits.engine.inference.refocus import Focus
from likeness_portraits.engine.inference.refocus_options import focus_of
from likeness_portraits.engine.inference.restore import Pixels
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.engine.tiny import tiny_base

PROMPTS, SEEDS = ("a photo of <v0> and <v1>, on a beach", "a sketch of <v0> and <v1>"), (3, 4)
ASKED: list[tuple[str, int, float]] = []


@dataclass(kw_only=True)
class Scribe(Detailer):
    """Makes every crop white, and remembers what it was asked for."""

    def __call__(self, face: Pixels) -> Pixels:
        assert face.shape == (self.side, self.side, 3)
        ASKED.append((self.prompt, self.seed, self.denoise))
        return np.ones_like(face)


@pytest.fixture
def scribe() -> Scribe:
    ASKED.clear()
    return Scribe(base=tiny_base(), prompt="-")


def pictures(scribe: Scribe) -> np.ndarray:
    side = scribe.side
    return np.random.default_rng(0).integers(0, 200, (2, side, 2 * side, 3), dtype=np.uint8)


def test_each_region_is_drawn_from_its_own_prompt_with_the_pictures_seed(scribe: Scribe):
    focuses = [focus_of("<v0>=left;redraw=0.6"), focus_of("<v1>=right;redraw=0.4;scope=word")]
    regions_redrawn(pictures(scribe), PROMPTS, SEEDS, focuses, scribe)
    assert ASKED == [
        ("a photo of <v0>, on a beach", 3, 0.6), ("a sketch of <v0>", 4, 0.6),
        ("a photo of <v1>, on a beach", 3, 0.4), ("a sketch of <v1>", 4, 0.4),
    ]  # fmt: skip


def test_nothing_outside_the_region_changes_and_its_middle_does(scribe: Scribe):
    before, side = pictures(scribe), scribe.side
    after = regions_redrawn(before, PROMPTS, SEEDS, [focus_of("<v0>=left;redraw=0.6")], scribe)
    assert np.array_equal(after[:, :, side:], before[:, :, side:])
    assert (after[:, side // 4 : -side // 4, side // 4 : 3 * side // 4] == 255).all()


def test_a_painted_region_is_drawn_again_inside_its_shape_only(scribe: Scribe, tmp_path: Path):
    before = pictures(scribe)
    mask = np.zeros(before.shape[1:3], np.uint8)
    mask[4:20, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    focus = focus_of(f"<v0>={tmp_path / 'mask.png'};redraw=0.5")
    after = regions_redrawn(before, PROMPTS, SEEDS, [focus], scribe)
    changed = (after != before).any((0, 3))
    assert changed[8:16, 38:52].all()
    assert not changed[mask == 0].any()


def test_without_the_wish_pictures_stay_as_they_are(scribe: Scribe):
    before = pictures(scribe)
    assert np.array_equal(regions_redrawn(before, PROMPTS, SEEDS, [focus_of("<v0>=left")], scribe), before)
    assert not ASKED


def test_the_base_itself_draws_a_region_anew():
    base = tiny_base()
    side = base.resolution
    before = np.random.default_rng(1).integers(0, 256, (1, side, 2 * side, 3), dtype=np.uint8)
    focus = Focus(token="man", region=(0.5, 0.0, 0.5, 1.0), redraw=0.5)
    painter = Detailer(base=base, prompt="-", steps=3)
    after = regions_redrawn(before, ["a man"], [1], [focus], painter)
    assert np.array_equal(after[:, :, :side], before[:, :, :side])
    assert (after != before).mean() > 0.2
    again = regions_redrawn(before, ["a man"], [1], [focus], replace(painter, seed=9))
    assert np.array_equal(after, again)  # the picture's seed decides, not the painter's


def test_what_cannot_be_drawn_again_is_told():
    with pytest.raises(LikenessError, match="<v0> has no region yet to draw again; give a half"):
        focus_of("<v0>=face;redraw=0.5")
    with pytest.raises(LikenessError, match="redraw=1.5 is no share of the schedule; use 0.4 to 0.7"):
        focus_of("<v0>=left;redraw=1.5")


def test_the_command_line_draws_a_region_again(tmp_path: Path):
    def command(extra: str, name: str) -> np.ndarray:
        told = [
            "generate",
            "a man on a beach",
            "--steps",
            "2",
            "--width",
            "256",
            "--out",
            str(tmp_path / name),
        ]
        assert main([*told, "--refocus", f"a man=left{extra}"]) == 0
        return np.array(Image.open(tmp_path / name))

    plain, again = command("", "plain.png"), command(";redraw=0.5", "again.png")
    assert np.array_equal(plain[:, 128:], again[:, 128:])
    assert not np.array_equal(plain, again)


def test_a_region_of_somebody_shown_by_an_adapter_is_not_drawn_again_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    face = world.example_pictures(100_000)[0].pixels
    Image.fromarray(face).save(tmp_path / "ann.png")
    told = ["generate", "a man", "--steps", "2", "--identity", str(tmp_path / "ann.png")]
    assert main([*told, "--refocus", "man=left;redraw=0.5", "--out", str(tmp_path / "out.png")]) != 0
    assert "drawn again without the people of --identity" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out.png").exists()
