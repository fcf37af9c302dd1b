"""Alignment of faces at reference numbers, and on faces whose landmarks are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from likeness_portraits.engine.data.alignment import (
    ARCFACE_POINTS,
    arcface_crop,
    central_face,
    face_box,
    ffhq_aligned,
    ffhq_quad,
    largest_face,
    similarity,
    warped,
)
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.golden.goldens import Golden


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("magicapture", "face_alignment")


def test_arcface_crop_and_its_gradient_are_the_reference_ones(golden: Golden):
    matrix = similarity(golden["in.landmarks"].numpy())
    torch.testing.assert_close(torch.from_numpy(matrix), golden["out.matrix64"], rtol=1e-5, atol=1e-6)
    image = (golden["in.image_u8"].float() / 255)[None].requires_grad_()
    crop = warped(image, matrix)
    torch.testing.assert_close(crop[0].detach(), golden["out.crop"], atol=2e-4, rtol=0)
    (crop[0, :, 56, :] * golden["in.cotangent_row"]).sum().backward()
    torch.testing.assert_close(image.grad[0], golden["out.image_grad_for_row"], atol=1e-4, rtol=0)
    torch.testing.assert_close(crop[0].detach() * 2 - 1, golden["out.recogniser_input"], atol=4e-4, rtol=0)


def test_which_face_counts(golden: Golden):
    size, boxes = tuple(golden["in.image_u8"].shape[1:]), golden["in.boxes"].numpy()
    assert central_face(boxes, size) == int(golden["out.chosen_face"])
    assert boxes[0, :4].astype(int).tolist() == golden["out.mask_box"].tolist()
    assert largest_face(np.array([[0, 0, 4, 4], [10, 10, 30, 20], [0, 0, 5, 5]])) == 1


@pytest.mark.parametrize("case, most", [("inside", 2), ("padded", 3)])
def test_ffhq_alignment_is_the_reference_one(case: str, most: int):
    given = Golden("masterweaver", "alignment")
    expected = given.under(f"out.{case}.")
    made = ffhq_aligned(given[f"in.{case}.image_u8"].numpy(), given[f"in.{case}.landmarks"].numpy(), size=96)
    torch.testing.assert_close(torch.from_numpy(made.quad), expected["quad64"], atol=1e-6, rtol=0)
    assert list(made.crop) == expected["crop_ltrb"].tolist()
    assert list(made.padding) == expected["padding_ltrb"].tolist()
    apart = np.abs(made.pixels.astype(int) - expected["aligned_u8"].numpy().astype(int))
    assert apart.max() <= most and (apart > 0).mean() <= 0.01


def test_the_quad_of_the_specifications_example():
    points = np.array([(100, 120), (160, 118), (0, 0), (108, 180), (152, 178)], np.float64)
    quad = ffhq_quad(points)
    expected = [(7.949, 6.951), (11.951, 247.051), (252.051, 243.049), (248.049, 2.949)]
    assert quad == pytest.approx(np.array(expected), abs=1e-3)
    assert np.hypot(*(quad[3] - quad[0])) == pytest.approx(240.133, abs=1e-3)


def test_face_boxes_are_masterweavers():
    golden = Golden("masterweaver", "face_box")
    box = face_box(list(golden["in.landmarks64"].numpy()), tuple(golden["in.image_size_hw"].tolist()))
    large = np.asarray(Image.fromarray(box.astype(np.uint8)).resize((512, 512), Image.Resampling.NEAREST))
    assert (large == golden["out.box_u8"].numpy()).all()
    small = F.interpolate(torch.from_numpy(large.copy())[None, None].float(), (64, 64))[0, 0]
    assert (small == golden["out.mask64_u8"]).all()


def test_faces_of_the_miniature_come_out_upright():
    portrait = world.example_pictures(world.TUNING_SEEDS[0], 1)[0]
    matrix = similarity(portrait.landmarks.astype(np.float64))
    carried = portrait.landmarks @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(carried - ARCFACE_POINTS).mean() < 8
    assert arcface_crop(portrait.pixels, portrait.landmarks).shape == (112, 112, 3)
    aligned = ffhq_aligned(portrait.pixels, portrait.landmarks, size=64)
    assert aligned.pixels.shape == (64, 64, 3) and not any(aligned.padding)
