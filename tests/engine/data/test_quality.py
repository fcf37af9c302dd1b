"""The report on somebody's pictures: what is small, blurred, doubled or badly masked is said in words."""

import numpy as np
from PIL import Image, ImageFilter

from likeness_portraits.engine.data.concepts import Picture
from likeness_portraits.engine.data.quality import (
    ALIKE,
    advice_in_words,
    advice_on_all,
    apart,
    examine_pictures,
    picture_hash,
    sharpness,
)
from likeness_portraits.engine.miniature import world

PORTRAITS = world.example_pictures(world.TUNING_SEEDS[1], 3)
PICTURES = [
    Picture(f"p{number}", portrait.pixels, portrait.mask()) for number, portrait in enumerate(PORTRAITS)
]


def test_good_pictures_get_no_advice():
    reports = examine_pictures(PICTURES)
    assert [report.advice for report in reports] == [(), (), ()]
    assert advice_in_words(reports) == "the pictures look good"
    assert all(report.face > 40 and 0.05 < report.coverage < 0.5 for report in reports)


def test_the_same_picture_again_is_noticed_also_scaled_and_saved_again():
    again = np.asarray(Image.fromarray(PICTURES[0].pixels).resize((96, 96)).quantize(64).convert("RGB"))
    reports = examine_pictures([*PICTURES, Picture("copy", again)], smallest=64)
    assert [report.like for report in reports] == [None, None, None, "p0"]
    assert reports[3].advice[0] == "it repeats p0; drop one of them"
    assert apart(picture_hash(PICTURES[0].pixels), picture_hash(PICTURES[1].pixels)) > 3 * ALIKE


def test_blur_is_seen_at_any_size():
    image = Image.fromarray(PICTURES[0].pixels)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(3)))
    assert sharpness(blurred) < sharpness(PICTURES[0].pixels) / 10
    large = np.asarray(Image.fromarray(blurred).resize((200, 200)))
    (report,) = examine_pictures([Picture("soft", large)])
    assert any("blurred" in advice for advice in report.advice)
    assert any("it is small (200 x 200)" in advice for advice in report.advice)


def test_masks_and_faces_that_teach_too_little_or_too_much_are_named():
    thin, full = np.zeros((128, 128), np.float32), np.ones((128, 128), np.float32)
    thin[5:10, 5:10] = 1
    pictures = [Picture("thin", PICTURES[0].pixels, thin), Picture("full", PICTURES[1].pixels, full)]
    reports = examine_pictures(pictures, [12.0, None], smallest=128)
    assert any("marks only 0.2%" in advice for advice in reports[0].advice)
    assert any("its face is small (12 pixels)" in advice for advice in reports[0].advice)
    assert any("nearly all of it" in advice for advice in reports[1].advice)
    assert any("no face was found" in advice for advice in reports[1].advice)
    assert advice_on_all(reports) == [
        "fewer than three different pictures; three to eight varied ones learn better"
    ]


def test_a_set_is_masked_wholly_or_not_at_all():
    some = [*PICTURES, Picture("bare", PORTRAITS[0].pixels[:, ::-1].copy())]
    assert "only 3 of 4 pictures have masks" in advice_on_all(examine_pictures(some, smallest=64))[0]
    bare = [Picture(picture.name, picture.pixels) for picture in PICTURES]
    assert "likeness masks" in advice_on_all(examine_pictures(bare, smallest=64))[0]


def test_a_mirrored_repeat_is_noticed():
    mirrored = Picture("turned", PORTRAITS[1].pixels[:, ::-1].copy())
    reports = examine_pictures([*PICTURES, mirrored], smallest=64)
    assert reports[3].like is None and "it repeats p1, mirrored; drop one of them" in reports[3].advice
