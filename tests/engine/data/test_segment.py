"""From words to masks: what is marked, what is left out, what errors say, and folders written all or none."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data import segmenters
from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.masks import Refinement
from likeness_portraits.engine.data.segment import (
    BACK_ENDS,
    Request,
    find_masks,
    find_parts,
    load_segmenter,
    mask_folder,
    words_of,
)
from likeness_portraits.engine.data.segmenters import miniature
from likeness_portraits.engine.data.segmenters.base import Found, Segmenter
from likeness_portraits.engine.data.segmenters.miniature import world_parts_of
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.overlap import mask_overlap

HEAD = Request(words=("head",))


@pytest.fixture(scope="module")
def portraits() -> list[world.Portrait]:
    return [portrait for seed in world.TUNING_SEEDS[:3] for portrait in world.example_pictures(seed, 2)]


@pytest.fixture(scope="module")
def parser() -> Segmenter:
    return load_segmenter("miniature")


def brightness(pixels: np.ndarray, words) -> Found:
    """A back end for tests of what comes after: `dark` and `red` parts of a picture."""
    maps = {"dark": 1 - pixels.mean(-1) / 255, "red": (pixels[..., 0] > 200) & (pixels[..., 1] < 50)}
    masks = np.stack([maps[word] for word in words]).astype(np.float32)
    return Found(masks, tuple(float(mask.max()) for mask in masks), {"white": 0.9})


def test_a_registered_back_end_masks_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module with `load`, and a row in the table: nothing else is touched."""
    toy: Any = ModuleType(f"{segmenters.__name__}.toy")
    toy.load = lambda models, device: brightness
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setitem(BACK_ENDS, "toy", ("toy", "dark and red parts"))
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[:16] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    (written,) = mask_folder(tmp_path, load_segmenter("toy"), Request(words=("dark",), but_not=("red",)))
    assert (np.asarray(Image.open(written).convert("L")) == np.repeat([255, 0], 16)[:, None]).all()


@pytest.mark.parametrize("word", ["face", "head", "hair", "person"])
def test_found_masks_agree_with_what_was_drawn(portraits: list[world.Portrait], parser: Segmenter, word: str):
    pictures, names = [portrait.pixels for portrait in portraits], [str(i) for i in range(len(portraits))]
    true = [portrait.mask(world_parts_of(word)) for portrait in portraits]
    shown = [number for number, mask in enumerate(true) if mask.sum() > 50]  # some are bald
    found = find_masks(
        parser, [pictures[i] for i in shown], Request(words=(word,)), [names[i] for i in shown]
    )
    assert np.mean([mask_overlap(mask, true[i]) for i, mask in zip(shown, found)]) >= 0.85


def test_masks_have_the_size_of_their_pictures_and_are_read_with_them(tmp_path: Path, portraits, parser):
    Image.fromarray(portraits[0].pixels).resize((300, 260)).save(tmp_path / "a.png")
    sheet = tmp_path / "sheet" / "all.jpg"
    assert mask_folder(tmp_path, parser, HEAD, sheet=sheet) == [tmp_path / "masks" / "a.png"]
    (picture,) = load_concept(tmp_path, class_word="man").pictures
    assert picture.mask.shape == (260, 300) and 0.1 < picture.mask.mean() < 0.7
    assert Image.open(sheet).size == (208, 224)
    with pytest.raises(LikenessError, match=r"masks/a\.png exists; allow overwriting"):
        mask_folder(tmp_path, parser, HEAD)


def test_any_of_the_words_is_marked_and_none_of_the_others():
    picture = np.full((32, 32, 3), 255, np.uint8)
    picture[:, :4] = 0
    picture[:2] = (255, 0, 0)
    both = Request(words=("dark", "red"), refine=Refinement(level=0.8))
    (mask,) = find_masks(brightness, [picture], both, ["a"])
    assert mask[:2].all() and mask[2:, :4].all() and not mask[2:, 4:].any()
    (mask,) = find_masks(brightness, [picture], Request(words=("dark",), but_not=("red",)), ["a"])
    assert not mask[:2].any() and mask[2:, :4].all()


def test_a_part_that_is_missing_has_an_empty_mask_and_specks_are_no_part(parser: Segmenter):
    def shown(seed: int) -> list[world.Portrait]:
        who = world.sample_identity(seed)
        return [world.render(who, world.sample_context(n, hat="none", style="photo")) for n in range(2)]

    bald = [seed for seed in world.TUNING_SEEDS if world.sample_identity(seed).hair_style == "bald"]
    hairy = [seed for seed in world.TUNING_SEEDS[:3] if seed not in bald]
    pictures = [portrait.pixels for seed in (*hairy, *bald) for portrait in shown(seed)]
    true = [portrait.mask(("hair",)) for seed in hairy for portrait in shown(seed)]
    names = [str(number) for number in range(len(pictures))]
    found = find_parts(parser, pictures, Request(words=("hair",)), names, true)
    there = len(true)
    assert all(mask_overlap(mask, drawn) > 0.8 for mask, drawn in zip(found, true))
    assert len(found) > there and not any(mask.any() for mask in found[there:])
    assert all(mask.shape == (128, 128) for mask in found)
    raw = find_parts(parser, pictures[there:], Request(words=("hair",)), names)
    assert any(mask.any() for mask in raw)  # nothing to compare with: every find counts


def test_a_picture_of_another_world_is_refused_and_not_taken_for_one_without_the_part(parser: Segmenter):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    with pytest.raises(LikenessError, match="holiday.png is no picture of the Miniature's world"):
        find_parts(parser, [noise], Request(words=("hair",)), ["holiday.png"])


def test_masks_stay_soft_where_that_is_wanted():
    picture = np.full((8, 8, 3), 100, np.uint8)
    (mask,) = find_masks(brightness, [picture], Request(words=("dark",), refine=Refinement()), ["a"])
    assert mask == pytest.approx(1 - 100 / 255)


def test_progress_is_told_picture_by_picture(parser, portraits):
    told: list[tuple[int, int, str]] = []
    pictures, names = [portrait.pixels for portrait in portraits[:3]], ["a", "b", "c"]
    find_masks(parser, pictures, HEAD, names, lambda *news: told.append(news))
    assert told == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]


def test_a_picture_without_the_subject_is_named_with_what_is_there_and_nothing_is_written(tmp_path: Path):
    Image.new("RGB", (64, 64), "black").save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    with pytest.raises(
        LikenessError,
        match=r"no dark found in .*blank\.png \(best score 0\.00; what was found: white 0\.90\); crop closer",
    ):
        mask_folder(tmp_path, brightness, Request(words=("dark",)))
    assert not (tmp_path / "masks").exists()


def test_words_are_divided_by_commas_and_some_are_needed():
    assert words_of(" face, left eye ,,hat") == ("face", "left eye", "hat")
    with pytest.raises(LikenessError, match="no word says what to mark"):
        Request(words=())


def test_unknown_words_and_back_ends_are_answered_with_the_nearest(parser, portraits):
    with pytest.raises(LikenessError, match="the Miniature's parser knows no 'fase'; did you mean 'face'"):
        parser(portraits[0].pixels, ["fase"])
    with pytest.raises(LikenessError, match="unknown back end 'clipsec'; did you mean 'clipseg'"):
        load_segmenter("clipsec")


MEMORY = """
import resource
import sys
from pathlib import Path

import numpy as np

from likeness_portraits.engine.data.masks import Refinement
from likeness_portraits.engine.data.segment import Request, find_mask, load_segmenter
from likeness_portraits.engine.data.segmenters import clipseg, face_parts, grounded
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.engine.data import helpers_made as made

folder = Path(sys.argv[1])
small = world.example_pictures(world.TUNING_SEEDS[0], 1)[0].pixels
if sys.argv[2] == "miniature":
    find = load_segmenter("miniature")
elif sys.argv[2] == "clipseg":
    made.clipseg(folder / "clipseg")
    find = clipseg.load(folder, side=64)
elif sys.argv[2] == "face-parts":
    made.segformer(folder / "face_parsing", list(face_parts.CELEBA_NAMES))
    find = face_parts.load(folder, side=64)
else:
    made.grounding_dino(folder / "grounding_dino", ["head", "hair"])
    made.sam2(folder / "sam2")
    find = grounded.load(folder, short_side=128)
    find.box_threshold = find.text_threshold = 0.0
picture = np.repeat(np.repeat(small, 32, 0), 39, 1)  # 4096 x 4992
find(small, ["head", "hair"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refine = Refinement(level=None, grow=2, feather=2.0, fill_holes=True, keep_largest=True)
if sys.argv[2] == "miniature":
    refine = Refinement(level=0.5, grow=2, feather=2.0, fill_holes=True, keep_largest=True)
    mask = find_mask(find, picture, Request(words=("head",), but_not=("hair",), refine=refine), "large")
    assert 0.05 < mask.mean() < 0.6
else:  # random weights: only the size of what they find is sensible
    mask = refine(find(picture, ["head", "hair"]).masks[0])
assert mask.shape == picture.shape[:2]
sys.stdout.write(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))
"""


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("clipseg", "face-parts", "grounded-sam2")]


@pytest.mark.parametrize("name", ["miniature", *OTHERS])
def test_a_picture_of_20_megapixels_takes_bounded_memory(name: str, package_parent: Path, tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), name], capture_output=True, text=True,
        env={"PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    one_mask = 4096 * 4992 * 4 / 2**20
    assert float(ran.stdout) < 12 * one_mask, "MiB beyond the picture"


def test_twenty_pictures_are_masked_with_one_loading_and_told_one_by_one(
    tmp_path: Path, portraits, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "anna"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(portraits[number % len(portraits)].pixels).save(folder / f"{number:02d}.png")
    loaded, load = [], miniature.load_judge

    def counted(name: str):
        loaded.append(name)
        return load(name)

    monkeypatch.setattr(miniature, "load_judge", counted)
    assert main(["masks", str(folder)]) == 0
    said = capsys.readouterr()
    assert loaded == ["parser"], "one loading"
    assert len(list((folder / "masks").glob("*.png"))) == len(said.out.splitlines()) == 20
    assert "masks: 10/20 after" in said.err and "masks: 20/20 after" in said.err
