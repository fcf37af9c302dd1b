"""Masks: post-processing on small drawn examples, and the methods' mask algebra at reference numbers."""

import numpy as np
import pytest

from likeness_portraits.engine.data.masks import (
    Refinement,
    connected_components,
    dilate,
    fill_holes,
    gaussian_blur,
    inverted,
    kept_boxes,
    largest_piece,
    thresholded,
    union,
    without,
)
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.golden.goldens import Golden


def drawn(*rows: str) -> np.ndarray:
    """`#` inside, `.` outside."""
    return np.array([[sign == "#" for sign in row] for row in rows], dtype=np.float32)


def test_pieces_are_counted_with_and_without_corners():
    picture = drawn("##..#", "....#", "#...#", ".#..#", "..#..") > 0
    labels, count = connected_components(picture)
    assert count == 3 and len(set(labels[picture])) == 3 and not labels[~picture].any()
    assert labels[2, 0] == labels[3, 1] == labels[4, 2]
    assert connected_components(picture, diagonal=False)[1] == 5
    assert (
        connected_components(np.zeros((3, 4), bool))[1] == 0
        and connected_components(np.ones((3, 4), bool))[1] == 1
    )


def test_a_spiral_is_one_piece_and_rows_do_not_join_around_the_edge():
    spiral = drawn("#######", "......#", "#####.#", "#...#.#", "#.###.#", "#.....#", "#######")
    assert connected_components(spiral > 0, diagonal=False)[1] == 1
    assert connected_components(drawn("..#", "#..") > 0)[1] == 2
    assert connected_components(drawn("..#", "...", "#..") > 0)[1] == 2


def test_only_the_largest_piece_stays_and_keeps_its_soft_edge():
    mask = drawn("##...", "##..#", ".....") * 0.9
    mask[0, 2] = 0.2
    kept = largest_piece(mask)
    assert kept[1, 4] == 0 and kept[0, 2] == np.float32(0.2) and kept[0, 0] == np.float32(0.9)


def test_holes_are_filled_and_bays_are_not():
    mask = drawn(".....", ".###.", ".#.#.", ".###.", ".....")
    assert fill_holes(mask)[2, 2] == 1 and fill_holes(mask).sum() == 9
    bay = drawn(".....", ".###.", ".#.#.", ".#.#.", ".....")
    assert (fill_holes(bay) == bay).all()


def test_growing_reaches_evenly_and_shrinking_undoes_it():
    dot = np.zeros((15, 15), np.float32)
    dot[7, 7] = 1
    wide = dilate(dot, 4)
    assert wide[7].sum() == wide[:, 7].sum() == 9
    assert wide[5, 5] == 1 and wide[3, 3] == 0, "an octagon, no square"
    assert (dilate(wide, -4) == dot).all()


def test_feathering_keeps_the_weight_and_softens_the_edge():
    mask = np.zeros((40, 40), np.float32)
    mask[12:28, 12:28] = 1
    soft = gaussian_blur(mask, 2.0)
    assert soft.sum() == pytest.approx(mask.sum(), rel=1e-4)
    assert 0.4 < soft[12, 20] < 0.65 and soft[20, 20] > 0.99
    assert gaussian_blur(np.ones((5, 7), np.float32), 3.0) == pytest.approx(1.0)


def test_refinement_does_all_of_it_in_order():
    mask = drawn("......", ".###..", ".#.#.#", ".###..", "......") * 0.8
    done = Refinement(keep_largest=True, fill_holes=True, level=0.5)(mask)
    assert done.sum() == 9 and set(np.unique(done)) == {0, 1}
    assert (Refinement(keep_largest=True, fill_holes=True, level=0.5, invert=True)(mask) == 1 - done).all()
    assert Refinement()(mask) is mask
    with pytest.raises(LikenessError, match="level is 2; give a number between 0 and 1"):
        Refinement(level=2)


def test_algebra_on_two_pixels():
    person, hair = np.array([[1, 1, 0]], np.float32), np.array([[0, 1, 1]], np.float32)
    assert without(person, [hair]).tolist() == [[1, 0, 0]]
    assert union([person, hair]).tolist() == [[1, 1, 1]] and inverted(person).tolist() == [[0, 0, 1]]
    assert thresholded(np.array([[0.4, 0.5]], np.float32)).tolist() == [[0, 1]]


@pytest.mark.parametrize("case", ["0_person_a", "1_hair_b", "2_eye_c"])
def test_masks_from_detections_are_magictailors(case: str):
    golden = Golden("magictailor", "mask_algebra")
    given = {name: value.numpy() for name, value in golden.under(f"in.{case}.").items()}
    classes = golden.json("query_classes")[case]
    words = [classes[number] for number in given["class_id"]]
    by_word = {word: np.zeros(given["proposals"].shape[-2:], np.float32) for word in classes}
    for number in kept_boxes(given["boxes"], given["confidence"], words):
        best = given["proposals"][number, given["scores"][number].argmax()]
        by_word[words[number]] = union([by_word[words[number]], (best > 0).astype(np.float32)])
    first, *components = (by_word[word] for word in classes)
    expected = golden[f"out.{case}.mask_u8"].numpy()
    assert ((without(first, components) > 0) == (expected > 0)).all()
    if case == "0_person_a":
        assert ((first > 0) == (golden[f"out.{case}.full_concept_u8"].numpy() > 0)).all()
