"""Restoring faces on the Miniature's pictures: the gate, the seam, what stays as it was, memory."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from likeness_portraits.engine.data.alignment import FFHQ_POINTS, ffhq_aligned, restorer_quad
from likeness_portraits.engine.data.faces import Face, face_of_mask
from likeness_portraits.engine.data.masks import Mask
from likeness_portraits.engine.data.miniature_faces import MiniatureFaces
from likeness_portraits.engine.data.segmenters.miniature import MiniatureParser
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.inference.restore import (
    PersonReference,
    Restoration,
    before_and_after,
    person_references,
    restore_picture,
    to_pixels,
    to_shades,
    toned,
)
from likeness_portraits.engine.miniature import world

SMALL = {"side": 128}


@pytest.fixture(scope="module")
def faces() -> MiniatureFaces:
    return MiniatureFaces()


@pytest.fixture(scope="module")
def parser() -> MiniatureParser:
    return MiniatureParser()


@cache
def pictures(number: int, count: int = 4) -> list[np.ndarray]:
    portraits = world.example_pictures(world.TUNING_SEEDS[number], count)
    return [portrait.pixels for portrait in portraits]


def two_people() -> np.ndarray:
    """Persons 1 and 5, beside one another: (128, 256, 3)."""
    return np.concatenate([pictures(1)[0], pictures(5)[0]], 1)


def person(faces: MiniatureFaces, number: int) -> PersonReference:
    return person_references(faces, faces, pictures(number)[1:])


def sharpened(face: np.ndarray) -> np.ndarray:
    """A restorer that leaves the person alone."""
    image = Image.fromarray(to_shades(face)).filter(ImageFilter.UnsharpMask(2, 60, 0))
    return to_pixels(np.asarray(image))


def somebody_else(face: np.ndarray) -> np.ndarray:
    """A restorer that destroys identity: whoever comes in, person 5 goes out."""
    crop = pictures(5)[0][24:110, 20:106]
    return to_pixels(np.asarray(Image.fromarray(crop).resize(face.shape[1::-1], Image.Resampling.BICUBIC)))


def parse_with(parser: MiniatureParser):
    return lambda crop: parser(crop, ["face"]).masks[0]


# --- the gate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_gate_rejects_a_restorer_that_destroys_identity_and_passes_one_that_does_not(
    faces, parser, number: int
):
    picture = to_pixels(pictures(number)[0])
    found = faces(to_shades(picture))
    known = {"parse": parse_with(parser), "person": person(faces, number), "name": "picture 1"}
    options = Restoration(gate="reject", match_colours=False, **SMALL)
    bad = restore_picture(picture, found, somebody_else, options, **known)
    assert bad.outcomes[0].before - bad.outcomes[0].restored > 0.2, "the bad restorer is bad"
    assert (bad.pixels == picture).all() and not bad.mask.any()
    assert bad.outcomes[0].share == 0 and bad.outcomes[0].after == bad.outcomes[0].before
    assert "picture 1, face from" in bad.report and "rejected, for the likeness would drop by" in bad.report
    good = restore_picture(picture, found, sharpened, options, **known)
    assert good.outcomes[0].before - good.outcomes[0].restored < 0.05
    assert good.outcomes[0].share == 1 and good.outcomes[0].verdict == "kept"
    assert (good.pixels != picture).any()


def test_blending_keeps_as_much_as_the_likeness_allows(faces, parser):
    picture = to_pixels(pictures(1)[0])
    found, known = faces(to_shades(picture)), {"parse": parse_with(parser), "person": person(faces, 1)}
    tight, loose = (
        restore_picture(
            picture,
            found,
            somebody_else,
            Restoration(allowed_drop=drop, match_colours=False, **SMALL),
            **known,
        )
        for drop in (0.05, 0.2)
    )
    for made, drop in ((tight, 0.05), (loose, 0.2)):
        assert made.outcomes[0].after >= made.outcomes[0].before - drop
    assert tight.outcomes[0].share < loose.outcomes[0].share < 1
    assert "blended" in loose.report and "in full the likeness would drop by" in loose.report
    open_gate = restore_picture(picture, found, somebody_else, Restoration(gate="off", **SMALL), **known)
    assert open_gate.outcomes[0].share == 1 and open_gate.outcomes[0].restored < open_gate.outcomes[0].before


def test_without_references_nothing_is_judged(faces):
    picture = to_pixels(pictures(1)[0])
    made = restore_picture(picture, faces(to_shades(picture)), somebody_else, Restoration(**SMALL))
    assert made.outcomes[0].before is None and made.report.endswith(": restored")
    with pytest.raises(LikenessError, match="no face in any of the 1 reference pictures; choose other"):
        person_references(faces, faces, [np.zeros((64, 64, 3), np.uint8)])


# --- putting back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 3])
def test_everything_outside_the_mask_is_bit_identical(faces, parser, scale: int):
    portrait = pictures(2)[0]
    picture = np.asarray(Image.fromarray(portrait).resize((128 * scale,) * 2, Image.Resampling.BICUBIC))
    picture = to_pixels(picture) + np.float32(1e-4)  # not on the grid of 8 bits
    made = restore_picture(
        picture, faces(to_shades(picture)), lambda face: 1 - face,
        Restoration(match_colours=False, **SMALL), parse=parse_with(parser),
    )  # fmt: skip
    assert (made.pixels[made.mask == 0] == picture[made.mask == 0]).all()
    assert 0.03 < (made.mask > 0).mean() < 0.4
    assert (np.abs(made.pixels - picture).max(-1) > 0)[made.mask > 0.2].mean() > 0.95


def test_a_restorer_that_changes_nothing_leaves_the_face_where_it_was(faces):
    """Cutting out at twice the size and putting back moves nothing: the geometry is its own inverse."""
    smooth = Image.fromarray(pictures(2)[0]).resize((256, 256), Image.Resampling.BICUBIC)
    picture = to_pixels(np.asarray(smooth.filter(ImageFilter.GaussianBlur(3))))
    found = faces(to_shades(picture))
    turned = Face(found[0].box, _turned_points(found[0]), 1.0)
    for face in (found[0], turned):
        made = restore_picture(picture, [face], lambda crop: crop, Restoration(side=384))
        assert made.mask.max() == pytest.approx(1, abs=1e-3)
        assert np.abs(made.pixels - picture).max() < 0.02


def _turned_points(face: Face) -> np.ndarray:
    """FFHQ's five points at a third of their size, turned by 20 degrees, in the middle of the face."""
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centred = (FFHQ_POINTS - FFHQ_POINTS.mean(0)) / 3
    return (centred @ turn.T + (face.box[:2] + face.box[2:]) / 2).astype(np.float32)


def test_landmarks_come_to_lie_where_restorers_expect_them():
    angle, picture = 0.3, np.zeros((400, 400, 3), np.uint8)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (FFHQ_POINTS - 256) @ turn.T * 0.4 + [200, 190]
    for x, y in points.round().astype(int):
        picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    quad = restorer_quad(points)
    assert np.hypot(*(quad[3] - quad[0])) == pytest.approx(512 * 0.4, rel=1e-3)
    theirs = ffhq_aligned(picture, points).quad  # FFHQ's own rule is near
    assert np.abs(theirs - quad).max() < 0.03 * 512 * 0.4


def test_the_edge_is_soft_and_tones_stay_the_pictures(faces, parser):
    picture = to_pixels(pictures(3)[0])
    found = faces(to_shades(picture))

    def tinted(face: np.ndarray) -> np.ndarray:
        return (sharpened(face) * np.float32([1.0, 0.8, 0.6]) + np.float32([0.1, 0, 0])).clip(0, 1)

    plain, matched = (
        restore_picture(picture, found, tinted, Restoration(match_colours=match, feather=0.06, **SMALL),
                        parse=parse_with(parser))
        for match in (False, True)
    )  # fmt: skip
    inside = plain.mask > 0.9
    shift = {name: (made.pixels - picture)[inside].mean(0) for name, made in
             (("plain", plain), ("matched", matched))}  # fmt: skip
    assert np.abs(shift["plain"]).max() > 0.1
    assert np.abs(shift["matched"]).max() < 0.02
    steps = max(np.abs(np.diff(plain.mask, axis=axis)).max() for axis in (0, 1))
    assert steps < 0.35, "no pixel's weight differs by much from its neighbour's"


def test_tones_are_compared_inside_the_mask_only():
    original = np.full((64, 64, 3), 0.5, np.float32)
    restored = original.copy()
    restored[:, 32:] = 1.0  # a background the restorer made up
    weights = np.zeros((64, 64), np.float32)
    weights[:, :16] = 1
    assert np.abs(toned(restored, original, weights)[:, :16] - 0.5).max() < 0.01


def test_a_new_head_is_outlined_by_itself_too(faces):
    """What the parser sees in either crop is put back: hair that reaches further is not cut off."""
    picture = np.full((128, 128, 3), 0.2, np.float32)
    picture[54:74, 54:74] = 1
    face = Face(np.float32([44, 44, 84, 84]), None, 1.0)

    def larger(crop: np.ndarray) -> np.ndarray:
        grown = np.full_like(crop, 0.2)
        grown[24:104, 24:104] = 1
        return grown

    def bright(crop: np.ndarray) -> Mask:
        return (crop[..., 0] > 128).astype(np.float32)

    one, both = (
        restore_picture(
            picture, [face], larger, Restoration(both=both, match_colours=False, **SMALL), parse=bright
        )
        for both in (False, True)
    )
    assert (both.mask > 0.5).sum() > 3 * (one.mask > 0.5).sum() > 0
    assert both.pixels[64, 50].min() > 0.9 > 0.3 > one.pixels[64, 50].max()


# --- which faces, and none --------------------------------------------------------------------------------


def test_all_faces_are_restored_or_the_chosen_one(faces, parser):
    picture = to_pixels(two_people())
    found = faces(to_shades(picture))
    assert len(found) == 2
    calls = {"parse": parse_with(parser)}
    both = restore_picture(picture, found, sharpened, Restoration(**SMALL), **calls)
    assert len(both.outcomes) == 2 and (both.mask[:, :128] > 0).any() and (both.mask[:, 128:] > 0).any()
    for number, face in enumerate(found):
        one = restore_picture(picture, found, sharpened, Restoration(number=number, **SMALL), **calls)
        columns = slice(0, 128) if face.box[0] < 128 else slice(128, 256)
        assert (one.mask[:, columns] > 0).sum() == (one.mask > 0).sum() > 0


def test_each_person_is_judged_by_their_own_face(faces, parser):
    """A restorer that makes everybody person 5 is rejected for person 1, who is asked for."""
    picture = to_pixels(two_people())
    found = faces(to_shades(picture))
    number = next(place for place, face in enumerate(found) if face.box[0] < 128)
    made = restore_picture(
        picture, found, somebody_else, Restoration(number=number, gate="reject", **SMALL),
        parse=parse_with(parser), person=person(faces, 1),
    )  # fmt: skip
    assert made.outcomes[0].before > 0.5 and (made.pixels == picture).all()


def test_no_face_leaves_the_picture_unchanged_and_says_so(faces):
    empty = np.full((60, 80, 3), 0.5, np.float32)
    made = restore_picture(empty, faces(to_shades(empty)), sharpened, Restoration(**SMALL), name="picture 2")
    assert (made.pixels == empty).all() and not made.mask.any()
    assert made.report == "picture 2: no face found; it stays as it is"
    picture = to_pixels(pictures(1)[0])
    options = Restoration(number=3, **SMALL)
    fourth = restore_picture(picture, faces(to_shades(picture)), sharpened, options, name="picture 3")
    assert fourth.report == "picture 3: no face number 3 of 1 found; it stays as it is"


def test_a_drawn_mask_stands_in_for_a_detector_and_nothing_outside_it_changes():
    picture = to_pixels(pictures(1)[0])
    mask: Mask = np.zeros((128, 128), np.float32)
    mask[40:90, 45:85] = 1
    made = restore_picture(
        picture, [face_of_mask(mask)], lambda face: 1 - face,
        Restoration(match_colours=False, **SMALL), drawn=mask,
    )  # fmt: skip
    assert (made.pixels[mask == 0] == picture[mask == 0]).all()
    assert (made.mask > 0.5).sum() > 0.6 * mask.sum()


def test_faces_go_into_an_enlarged_background(faces, parser):
    picture = to_pixels(pictures(1)[0])
    background = np.repeat(np.repeat(picture, 2, 0), 2, 1)
    made = restore_picture(
        picture, faces(to_shades(picture)), sharpened, Restoration(**SMALL), parse=parse_with(parser),
        person=person(faces, 1), canvas=background,
    )  # fmt: skip
    assert made.pixels.shape == (256, 256, 3) and made.mask.shape == (256, 256)
    assert (made.pixels[made.mask == 0] == background[made.mask == 0]).all()
    rows, columns = np.nonzero(made.mask > 0.5)
    box = faces(to_shades(picture))[0].box * 2
    assert abs(rows.mean() - (box[1] + box[3]) / 2) < 8 and abs(columns.mean() - (box[0] + box[2]) / 2) < 8
    assert made.outcomes[0].before == pytest.approx(
        person(faces, 1).similarity(to_shades(picture), faces(to_shades(picture))[0]), abs=0.1
    )
    shown = before_and_after(picture, made.pixels, longest=100)
    assert shown.shape == (100, 204, 3)


# --- bad input and size ------------------------------------------------------------------------------------


def test_wrong_settings_and_restorers_are_refused(faces):
    for wrong, message in (
        ({"gate": "blnd"}, "unknown gate 'blnd'; did you mean 'blend'"),
        ({"strength": 2.0}, "strength is 2.0; give 0 to 1"),
        ({"allowed_drop": -1}, "allowed_drop is -1; give 0 to 1"),
        ({"feather": 0.5}, "feather is 0.5"),
        ({"side": 4}, "crops of 4 pixels show no face"),
        ({"around": 9}, "a crop 9 times the face's square"),
    ):
        with pytest.raises(LikenessError, match=message):
            Restoration(**wrong)
    picture = to_pixels(pictures(1)[0])
    with pytest.raises(LikenessError, match=r"the restorer made \(64, 128, 3\) of a face of \(128, 128, 3\)"):
        restore_picture(picture, faces(to_shades(picture)), lambda face: face[:64], Restoration(**SMALL))


def test_a_face_at_the_edge_of_the_picture_is_restored(faces, parser):
    picture = to_pixels(pictures(1)[0])[:, 34:]
    box = faces(to_shades(to_pixels(pictures(1)[0])))[0].box - np.float32([34, 0, 34, 0])
    made = restore_picture(picture, [Face(box, None, 1.0)], sharpened, Restoration(**SMALL))
    assert made.pixels.shape == picture.shape and (made.mask > 0).any()


MEMORY = """
import resource

import numpy as np
from likeness_portraits.engine.data.faces import Face
from likeness_portraits.engine.inference.restore import Restoration, restore_picture
from likeness_portraits.engine.data.miniature_faces import MiniatureFaces
picture = np.full((4000, 5000, 3), 0.5, np.float32)
MiniatureFaces()(np.zeros((64, 64, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
faces = [Face(np.float32([x, 800, x + 900, 2000]), None, 1.0) for x in (300, 2500)]
made = restore_picture(picture, faces, lambda face: face, Restoration())
assert made.mask.any()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_picture_of_20_megapixels_takes_bounded_memory(package_parent: Path):
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True,
        env={"PYTHONPATH": str(package_parent), "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    picture = 4000 * 5000 * 3 * 4 / 2**20
    assert float(ran.stdout) < 3.5 * picture, "MiB beyond the picture itself"
