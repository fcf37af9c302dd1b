"""Masks out of detections, against numbers of the reference implementation (tests/golden/magictailor)."""

import numpy as np
import pytest

from likeness_portraits.engine.data.mask_algebra import (
    Detections,
    class_masks,
    distinct,
    subject_mask,
    without,
)
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.golden.goldens import Golden


def golden_masks(case: Golden, picture: str) -> dict[str, np.ndarray]:
    told = case.under(f"in.{picture}.")
    found = Detections(
        boxes=told["boxes"].numpy(),
        classes=told["class_id"].numpy(),
        confidence=told["confidence"].numpy(),
        proposals=told["proposals"].numpy(),
        scores=told["scores"].numpy(),
    )
    return class_masks(case.json("query_classes")[picture], found)


def assert_mask(actual: np.ndarray, expected) -> None:
    assert np.array_equal(actual, expected.numpy() > 0)


def test_masks_of_person_hair_and_eyes_equal_the_reference():
    case = Golden("magictailor", "mask_algebra")
    masks = golden_masks(case, "0_person_a")
    assert_mask(masks["person"], case["out.0_person_a.full_concept_u8"])
    assert_mask(subject_mask("person", masks, ["hair", "eye"]), case["out.0_person_a.mask_u8"])
    assert_mask(subject_mask("hair", golden_masks(case, "1_hair_b")), case["out.1_hair_b.mask_u8"])
    assert_mask(subject_mask("eye", golden_masks(case, "2_eye_c")), case["out.2_eye_c.mask_u8"])


def test_an_undetected_subject_is_an_error_and_never_another_class():
    masks = {"hair": np.ones((2, 2), bool)}
    with pytest.raises(LikenessError, match="no person was found in me.png; crop closer"):
        subject_mask("person", masks, ["hair"], "me.png")


def test_a_component_that_is_not_in_the_picture_hides_nothing():
    masks = {"person": np.eye(2, dtype=bool)}
    assert np.array_equal(subject_mask("person", masks, ["hat"]), np.eye(2, dtype=bool))


def test_a_subject_that_is_all_component_is_an_error():
    masks = {"person": np.eye(2, dtype=bool), "hair": np.ones((2, 2), bool)}
    with pytest.raises(LikenessError, match="nothing of the person in me.png is left without its hair"):
        subject_mask("person", masks, ["hair"], "me.png")


def test_without_takes_away_every_other_mask():
    left = without(np.array([[1, 1], [1, 0]]), [np.array([[1, 0], [0, 0]]), np.array([[0, 0], [1, 1]])])
    assert left.tolist() == [[False, True], [False, False]]


def test_of_boxes_that_nearly_coincide_the_most_confident_stays():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], np.float32)
    assert distinct(boxes, np.array([0.5, 0.9, 0.1])) == [1, 2]
