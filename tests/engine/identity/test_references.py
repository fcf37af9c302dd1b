"""Reference pictures: what of a picture reaches the identity adapter, and what is said without a face."""

import numpy as np
import pytest
import torch

from likeness_portraits.engine.bases.clip_features import MEAN, SPREAD
from likeness_portraits.engine.data.faces import Face
from likeness_portraits.engine.data.segmenters.face_parts import PARSED_PARTS
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.references import (
    FACE,
    FACE_AND_HAIR,
    ImageTower,
    OfPhotographs,
    OfTheMiniature,
    miniature_tower,
    references_of,
)
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.golden.goldens import Golden

POINTS = np.array([[40, 50], [60, 50], [50, 60], [42, 72], [58, 72]], np.float32)


def photograph() -> np.ndarray:
    return np.random.default_rng(1).integers(40, 255, (120, 100, 3), dtype=np.uint8)


def found(_: np.ndarray) -> list[Face]:
    small = Face(np.array([0, 0, 10, 10], np.float32), None, 0.9)
    return [small, Face(np.array([30, 35, 70, 80], np.float32), POINTS, 0.9, np.ones(4, np.float32))]


def halves(crop: np.ndarray) -> np.ndarray:
    """A parser of 64 x 64 that sees hair above, skin below and a hat at the very top."""
    assert crop.shape == (512, 512, 3)
    labels = np.full((64, 64), PARSED_PARTS.index("skin"), np.uint8)
    labels[:32] = PARSED_PARTS.index("hair")
    labels[:8] = PARSED_PARTS.index("hat")
    return labels


def test_a_photographs_largest_face_is_turned_upright_and_cut_out():
    reference = OfPhotographs(lambda: found, lambda: halves)(photograph(), "me.png")
    assert reference.pixels.shape == (512, 512, 3) and reference.face.tolist() == [1, 1, 1, 1]
    rows = reference.pixels.any((1, 2))
    assert not rows[:64].any() and rows[64:].all()


def test_hair_is_dropped_on_request():
    reference = OfPhotographs(lambda: found, lambda: halves, FACE)(photograph(), "me.png")
    rows = reference.pixels.any((1, 2))
    assert not rows[:256].any() and rows[256:].all()
    with pytest.raises(LikenessError, match="did you mean 'face'"):
        OfPhotographs(lambda: found, lambda: halves, "fase")


def test_a_photograph_without_a_face_names_itself():
    prepare = OfPhotographs(lambda: lambda pixels: [], lambda: halves)
    with pytest.raises(LikenessError, match=r"no face in a\.png; crop closer"):
        references_of([photograph()], ["a.png"], prepare)
    nothing = OfPhotographs(lambda: found, lambda: lambda crop: np.zeros((64, 64), np.uint8))
    with pytest.raises(LikenessError, match=r"no face in b\.png"):
        references_of([photograph()], ["b.png"], nothing)


def test_the_users_own_mask_needs_no_model_at_all():
    def missing() -> None:
        raise AssertionError("a model was loaded")

    mask = np.zeros((120, 100), np.float32)
    mask[40:80, 30:70] = 1
    reference = OfPhotographs(missing, missing)(photograph(), "me.png", mask)
    shown = reference.pixels.any(-1)
    assert 0.35 < shown.mean() < 0.55 and shown[256, 256] and not shown[[0, -1]].any()
    with pytest.raises(LikenessError, match=r"the mask of me\.png marks nothing"):
        OfPhotographs(missing, missing)(photograph(), "me.png", 0 * mask)
    with pytest.raises(LikenessError, match="make both one size"):
        OfPhotographs(missing, missing)(photograph(), "me.png", mask[:50])


def test_the_miniatures_references_show_the_person_and_not_the_scene():
    portraits = (world.example_pictures(seed, 1)[0] for seed in world.TUNING_SEEDS)
    portrait = next(portrait for portrait in portraits if portrait.mask(("hair",)).sum() > 500)  # not bald
    prepared = {keep: OfTheMiniature(keep)(portrait.pixels, "a") for keep in (FACE, FACE_AND_HAIR)}
    face, outside = portrait.mask() > 0, portrait.mask(("background", "clothes")) > 0
    for reference in prepared.values():
        shown = reference.pixels.any(-1)
        assert shown[face].mean() > 0.95 and shown[outside].mean() < 0.05
        assert abs(np.linalg.norm(reference.face) - 1) < 1e-5
    larger, smaller = (prepared[keep].pixels.any(-1).sum() for keep in (FACE_AND_HAIR, FACE))
    hair = portrait.mask(("hair",)).sum()
    assert abs(larger - smaller - hair) < 0.2 * hair


def test_the_miniature_sees_no_face_in_an_empty_picture_and_takes_a_mask():
    prepare = OfTheMiniature()
    grey = np.full((128, 128, 3), 128, np.uint8)
    with pytest.raises(LikenessError, match="no face in wall"):
        prepare(grey, "wall")
    mask = np.zeros((128, 128), np.float32)
    mask[32:96, 32:96] = 1
    assert prepare(grey, "wall", mask).pixels.any(-1).sum() == 64 * 64


def test_towers_see_pictures_as_the_reference_did():
    case = Golden("masterweaver", "reference_tensor")
    tower = ImageTower("clip", 224, MEAN, SPREAD, lambda values: values)
    apart = (tower.values([case["in.image_u8"].numpy()])[0] - case["out.pixel_values"]).abs()
    assert (apart > 1e-5).float().mean() <= 0.01 and apart.max() <= 0.02


def test_no_picture_is_zero_in_the_towers_own_space():
    tower = miniature_tower()
    grey, black = (np.full((8, 8, 3), shade, np.uint8) for shade in (127, 0))
    assert torch.equal(tower.nothing(), tower.states(torch.zeros(1, 3, 128, 128))[0])
    near, far = (
        (states - tower.nothing()).abs().mean() for states in tower.states(tower.values([grey, black]))
    )
    assert near < 0.1 * far
    assert tower.nothing().shape == (65, 128)
