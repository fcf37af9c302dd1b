"""Masks found by the Miniature's parser agree with the renderer's own, and are written all or none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.data.segment import SUBJECTS, mask_folder, miniature_segmenter
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import world


@pytest.fixture(scope="module")
def portraits() -> list[world.Portrait]:
    return [portrait for seed in world.TUNING_SEEDS[:3] for portrait in world.example_pictures(seed, 2)]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_found_masks_agree_with_what_was_drawn(portraits: list[world.Portrait], subject: str):
    segment, overlaps = miniature_segmenter(subject), []
    for portrait in portraits:
        found, true = segment(portrait.pixels) > 0.5, portrait.mask(SUBJECTS[subject]) > 0.5
        overlaps.append((found & true).sum() / max((found | true).sum(), 1))
    assert np.mean(overlaps) >= 0.85


def test_masks_have_the_size_of_their_pictures_and_are_read_with_them(tmp_path: Path, portraits):
    large = Image.fromarray(portraits[0].pixels).resize((300, 260))
    large.save(tmp_path / "a.png")
    paths = mask_folder(tmp_path, miniature_segmenter("head"))
    assert paths == [tmp_path / "masks" / "a.png"]
    (picture,) = load_concept(tmp_path, class_word="man").pictures
    assert picture.mask.shape == (260, 300) and 0.1 < picture.mask.mean() < 0.7
    with pytest.raises(LikenessError, match=r"masks/a\.png exists; allow overwriting"):
        mask_folder(tmp_path, miniature_segmenter("head"))


def test_a_picture_without_the_subject_is_named_and_nothing_is_written(tmp_path: Path, portraits):
    Image.fromarray(portraits[0].pixels).save(tmp_path / "a.png")
    Image.new("RGB", (128, 128), "white").save(tmp_path / "blank.png")
    with pytest.raises(LikenessError, match=r"nothing to mark was found in .*blank\.png; crop closer"):
        mask_folder(tmp_path, lambda pixels: (pixels.mean(-1) < 250).astype(np.float32))
    assert not (tmp_path / "masks").exists()


def test_an_unknown_subject_is_answered_with_the_nearest():
    with pytest.raises(LikenessError, match="unknown subject 'fase'; did you mean 'face'"):
        miniature_segmenter("fase")
