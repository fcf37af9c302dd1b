"""The judges of the identity loss: who they find, what they see, and where gradients go."""

import numpy as np
import pytest
import torch

from likeness_portraits.engine.data.alignment import similarity, warped
from likeness_portraits.engine.data.faces import Face
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.miniature.judges import load_judges, to_tensor
from likeness_portraits.engine.training.identity_loss import (
    FaceJudge,
    FeatureJudge,
    IdentityLoss,
    MiniatureJudge,
    dino,
    find_judge,
    miniature_feature_judge,
    mirrored_faces,
)
from likeness_portraits.tests.engine.tiny import tiny_base

SEED = world.TUNING_SEEDS[2]
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def portraits() -> list[world.Portrait]:
    return world.example_pictures(SEED, 3)


def pixels_of(portraits: list[world.Portrait]) -> torch.Tensor:
    return to_tensor(np.stack([portrait.pixels for portrait in portraits]))


def masks_of(portraits: list[world.Portrait]) -> torch.Tensor:
    return torch.from_numpy(np.stack([portrait.mask() for portrait in portraits]))[:, None]


def test_the_miniatures_judge_is_the_recogniser_that_trains_and_sees_who_is_there(portraits):
    judge, judges = MiniatureJudge(), load_judges()
    pixels = pixels_of(portraits)
    expected = judges.embed(np.stack([portrait.pixels for portrait in portraits]))
    torch.testing.assert_close(judge(pixels), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    assert judge.find(portraits[0].pixels, None, "somebody") is not None
    assert judge.find(np.full((128, 128, 3), 90, np.uint8), None, "a wall") is None


def test_a_person_is_nearer_to_themselves_than_a_stranger_is(portraits):
    identity = IdentityLoss(MiniatureJudge(), average=True, each_step=False)
    strangers = world.example_pictures(SEED + 1, 3)
    everybody = pixels_of([*portraits, *strangers])
    identity.look(everybody, masks_of([*portraits, *strangers]), [*NAMES, *NAMES], [0, 1, 2])
    numbers, subject = torch.arange(6), torch.zeros(6, dtype=torch.long)
    distances = identity(everybody, subject, numbers)
    assert distances[:3].max() < 0.5 < distances[3:].min()
    assert (identity.asked, identity.skipped) == (6, 0)
    turned = identity(everybody.flip(-1), subject, numbers + 6)
    assert turned[:3].max() < 0.5 < turned[3:].min()


def test_what_is_no_person_is_compared_by_features_inside_its_mask(portraits):
    identity = IdentityLoss(miniature_feature_judge(), average=False, each_step=False)
    pixels = pixels_of(portraits)
    identity.look(pixels, masks_of(portraits), NAMES, [0, 1, 2])
    numbers = torch.arange(3)
    assert identity(pixels, numbers, numbers).abs().max() < 1e-5
    estimates = (pixels + 0.3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))).clamp(
        -1, 1
    )
    estimates.requires_grad_()
    identity(estimates, numbers, numbers).sum().backward()
    reached = estimates.grad.abs().sum(1) > 0
    assert reached.float().mean() > 0.05 and not reached[:, 0, 0].any()  # the crop, not the corner


def test_dino_is_read_from_a_local_folder_of_transformers(tmp_path, portraits):
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Dinov2Config(**sizes, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    judge = dino(tmp_path / "dinov2")
    assert isinstance(judge, FeatureJudge)
    place = judge.find(portraits[0].pixels, portraits[0].mask(), "a")
    assert place is not None
    seen = judge(judge.cut(pixels_of(portraits)[:1], place))
    assert seen.shape == (1, 16) and torch.isfinite(seen).all()
    with pytest.raises(
        LikenessError, match="holds no image model; get https://huggingface.co/facebook/dinov2"
    ):
        dino(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LikenessError, match="cannot be read"):
        dino(tmp_path)


def test_the_mirrored_matrix_cuts_the_mirrored_crop():
    points = np.array([[40, 44], [62, 45], [51, 58], [42, 68], [61, 69]], np.float64)
    matrix = similarity(points)
    image = torch.rand(1, 3, 90, 100, generator=torch.Generator().manual_seed(0))
    straight, turned = warped(image, matrix), warped(image.flip(-1), mirrored_faces(matrix, 100, 112))
    torch.testing.assert_close(turned.flip(-1), straight, atol=1e-4, rtol=0)


def test_photographs_are_cut_out_at_the_landmarks_or_by_the_mask():
    points = np.array([[40, 44], [62, 45], [51, 58], [42, 68], [61, 69]], np.float32)
    face = Face(np.array([30, 30, 72, 80], np.float32), points, 0.9)
    image = np.zeros((100, 100, 3), np.uint8)
    found = FaceJudge(torch.nn.Identity(), lambda pixels: [face]).find(image, None, "a")
    np.testing.assert_allclose(found, similarity(points.astype(np.float64)))
    assert FaceJudge(torch.nn.Identity(), lambda pixels: []).find(image, None, "a") is None
    mask = np.zeros((100, 100), np.float32)
    mask[28:82, 30:74] = 1  # from the brows to the chin, ear to ear
    by_mask = FaceJudge(torch.nn.Identity()).find(image, mask, "a")
    assert by_mask is not None
    eyes = np.c_[points[:2].astype(np.float64), np.ones(2)]
    away = np.abs(eyes @ by_mask.T - eyes @ similarity(points.astype(np.float64)).T)
    assert away.max() < 20  # of 112 pixels
    assert FaceJudge(torch.nn.Identity()).find(image, 0 * mask, "a") is None


def test_who_needs_a_mask_is_not_asked_to_find_anybody_in_estimates(portraits):
    identity = IdentityLoss(miniature_feature_judge(), average=True, each_step=True)
    identity.look(pixels_of(portraits), masks_of(portraits), NAMES, [0, 1, 2])
    assert not identity.each_step
    assert not IdentityLoss(FaceJudge(torch.nn.Identity()), average=True, each_step=True).each_step
    assert IdentityLoss(
        FaceJudge(torch.nn.Identity(), lambda pixels: []), average=True, each_step=True
    ).each_step


def test_which_judge_there_is_follows_from_settings_and_base(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    base = tiny_base()
    assert find_judge("none", "auto", "auraface", base) is None
    pack = tmp_path / "models" / "insightface" / "models" / "antelopev2"
    pack.mkdir(parents=True)
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (pack / name).write_text("")
    with pytest.raises(LikenessError, match="glintr100.onnx is no face recogniser"):
        find_judge("antelopev2", "mask", "auraface", base)
    with pytest.raises(LikenessError, match="models/auraface.*or landmarks to mask"):
        find_judge("antelopev2", "detector", "auraface", base)
    base.family = "miniature"
    assert isinstance(find_judge("auto", "auto", "auraface", base), MiniatureJudge)
    assert isinstance(find_judge("features", "auto", "auraface", base), FeatureJudge)
