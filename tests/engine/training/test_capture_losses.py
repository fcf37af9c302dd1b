"""MagiCapture's formulas against the reference's own numbers."""

import pytest
import torch

from likeness_portraits.engine.training.capture_losses import (
    COMPOSED,
    STYLE,
    SUBJECT,
    attention_to_words,
    identity_distance,
    norm_pull,
    refocusing,
    region_error,
    region_weights,
    round_of_items,
    style_weight,
    word_regions,
    words_present,
)
from likeness_portraits.tests.engine.tiny import SCHEDULE
from likeness_portraits.tests.golden.goldens import Golden

KINDS = {"instance": SUBJECT, "style": STYLE, "both": COMPOSED}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def kinds_of(kind: str) -> torch.Tensor:
    return torch.tensor([KINDS[kind]])


def weights_of(case: Golden) -> torch.Tensor:
    return region_weights(case["in.mask"][None, None], (32, 32), exponent=float(case["in.tau"]))


@every_kind
def test_reconstruction_in_the_region_and_its_gradients_are_the_references(kind):
    case = Golden("magicapture", f"loss_{kind}")
    for number, (when, done) in enumerate(zip(("early", None, "late"), case["in.progress"].tolist())):
        prediction = case["in.pred"].clone().requires_grad_()
        lost = region_error(prediction, case["in.noise"], weights_of(case))
        lost = (lost * style_weight(float(case["in.lambda_style"]), done, kinds_of(kind))).mean()
        torch.testing.assert_close(lost, case["out.L_rec"][number], rtol=1e-5, atol=0)
        lost.backward()
        if when:
            expected = case[f"out.grad_pred_{when}"]
            torch.testing.assert_close(prediction.grad, expected, atol=1e-9, rtol=1e-4)


@every_kind
def test_attention_refocusing_and_its_gradients_are_the_references(kind):
    case = Golden("magicapture", f"loss_{kind}")
    attention = case["in.attention"].clone().requires_grad_()  # (1, 6 maps, 16, 16, 12 tokens)
    positions = torch.zeros(1, 2, 12)
    for word, name in enumerate(("in.subject_id", "in.style_id")):
        positions[0, word, case["in.ids"] == case[name]] = 1
    looks = attention_to_words([attention.flatten(2, 3)], positions).unflatten(-1, (16, 16))
    regions, present = word_regions(weights_of(case), kinds_of(kind)), words_present(kinds_of(kind))
    used = present[0].bool()
    torch.testing.assert_close(regions[0, used], case["out.target_mask"][:, 0], atol=1e-6, rtol=0)
    lost = refocusing(looks, regions, present).mean()
    torch.testing.assert_close(lost, case["out.L_AR"], rtol=1e-4, atol=0)
    (2.5 * lost).backward()
    found = attention.grad[0][..., case["out.token_positions"]]
    torch.testing.assert_close(found, case["out.grad_attention_x2p5"], atol=1e-9, rtol=1e-4)


@pytest.mark.parametrize("kind", ["instance", "both"])
def test_identity_of_the_estimate_is_the_references(kind):
    case = Golden("magicapture", f"loss_{kind}")
    lost = identity_distance(case["in.embedding_generated"][None], case["in.embedding_source"][None])
    weighted = float(case["in.lambda_id"]) * lost.mean()
    torch.testing.assert_close(weighted, case["out.L_id_weighted"], rtol=1e-5, atol=0)


def test_per_map_refocusing_sees_a_stray_map_that_the_average_hides():
    steady, stray = torch.zeros(4, 4), torch.zeros(4, 4)
    steady[:2], stray[:2, :2], stray[3, 3] = 1, 1, 1
    looks = torch.stack([steady, steady, stray])[None, :, None]  # (1, 3, 1, 4, 4)
    region, present = steady[None, None], torch.ones(1, 1)
    averaged = refocusing(looks, region, present)
    alone = refocusing(looks, region, present, per_map=True)
    assert alone.item() == pytest.approx(1 / 3 / 16)
    assert averaged.item() == pytest.approx((1 / 3) ** 2 / 16)


def test_flat_attention_maps_give_a_finite_loss_and_gradient():
    looks = torch.full((1, 2, 1, 4, 4), 0.1, requires_grad=True)
    lost = refocusing(looks, torch.zeros(1, 1, 4, 4), torch.ones(1, 1)).sum()
    lost.backward()
    assert torch.isfinite(lost) and torch.isfinite(looks.grad).all()


def test_rows_without_words_lose_nothing():
    looks, regions = torch.rand(2, 3, 2, 4, 4), torch.rand(2, 2, 4, 4)
    assert refocusing(looks, regions, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))[0] == 0


def test_the_norm_pull_is_the_references_and_keeps_directions():
    case = Golden("magicapture", "norm_pull")
    moved = case["in.update_rows"].bool()
    for number, rate in enumerate(case["in.lr64"].tolist()):
        expected = case[f"out.embeddings_{number}"]
        found = norm_pull(case["in.embeddings"][moved], rate, 0.4)
        torch.testing.assert_close(found, expected[moved], atol=1e-6, rtol=0)
        assert torch.equal(expected[~moved], case["in.embeddings"][~moved])
    torch.testing.assert_close(
        norm_pull(torch.tensor([[0.47, 0.0]]), 2e-3 * 1199 / 1200, 0.4)[0, 0].item(),
        0.456012,
        rtol=1e-5,
        atol=0,
    )


def test_a_round_holds_as_many_items_of_each_kind_as_the_references():
    case = Golden("magicapture", "item_counts")
    for number, (subjects, styles) in enumerate(case["in.subjects_styles"].tolist()):
        for name, pairs in (("tuning", True), ("inversion", False)):
            items = round_of_items(subjects, styles, pairs, torch.Generator().manual_seed(0))
            counts = torch.bincount(items[:, 0], minlength=3).tolist()
            assert [*counts, len(items)] == case[f"out.{name}_counts"][number].tolist()
            assert len({tuple(row) for row in items[items[:, 0] == COMPOSED].tolist()}) == counts[COMPOSED]


def test_the_clean_latents_behind_noisy_ones_are_the_references():
    from likeness_portraits.engine.bases.process.ddpm import DDPM, noise_schedule

    process = DDPM(noise_schedule(SCHEDULE))
    assert process.alphas_cumprod[300].item() == pytest.approx(0.5905008, rel=1e-5)
    assert process.alphas_cumprod[799].item() == pytest.approx(0.03719497, rel=1e-5)
    case = Golden("magicapture", "loss_both")
    t = process.times(case["in.t_id"])
    noisy = process.add_noise(case["in.latent"], case["in.noise"], t)
    torch.testing.assert_close(noisy, case["out.noisy_id"], atol=1e-5, rtol=1e-5)
    clean = process.predict_x0(noisy, case["in.id_pred"], t)
    torch.testing.assert_close(clean, case["out.x0_latent"], atol=1e-5, rtol=1e-5)


class Fixture:
    """The closed forms of the specification's table: 64 by 64 latents, 40 maps of 16 by 16, 77 tokens."""

    c, i, j = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 64, 64)), indexing="ij")
    noise = torch.cos(0.37 * c + 0.11 * i + 0.05 * j).float()[None]
    prediction = torch.sin(0.23 * c + 0.07 * i - 0.13 * j).float()[None]
    h, y, x, k = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (40, 16, 16, 77)), indexing="ij"
    )
    away = (y - 7.5 - 0.1 * h) ** 2 + (x - 7.5 + 0.05 * h) ** 2
    attention = (
        (0.02 + 0.5 * torch.exp(-away / (8 + 0.2 * k))).float().flatten(1, 2)[None]
    )  # (1, 40, 256, 77)

    @staticmethod
    def face() -> torch.Tensor:
        y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
        inside = ((x >= 160) & (x < 352) & (y >= 120) & (y < 376)).float()
        face = (((x - 256) / 80) ** 2 + ((y - 248) / 112) ** 2 <= 1).float()
        return (inside * (face + 0.01) / 1.01)[None, None]

    @classmethod
    def weights(cls, style: bool) -> torch.Tensor:
        return region_weights(1 - cls.face() if style else cls.face(), (64, 64))

    @classmethod
    def looks(cls, subject: int, style: int) -> torch.Tensor:
        positions = torch.zeros(1, 2, 77)
        positions[0, 0, subject], positions[0, 1, style] = 1, 1
        return attention_to_words([cls.attention], positions).unflatten(-1, (16, 16))


def test_the_specifications_own_numbers_are_met():
    face, style = Fixture.weights(style=False), Fixture.weights(style=True)
    assert face.sum().item() == pytest.approx(476.4725, rel=1e-6)
    assert int((face >= 0.5).sum()) == 437
    assert style.sum().item() == pytest.approx(3660.082, rel=1e-6)
    for weights, expected in ((face, 1.610198), (style, 0.8295313)):
        found = region_error(Fixture.prediction, Fixture.noise, weights)
        assert found.item() == pytest.approx(expected, rel=1e-5)
    for kind, weights, tokens, expected in (
        (SUBJECT, face, (5, 10), 0.02053484),
        (STYLE, style, (5, 10), 0.02761675),
        (COMPOSED, style, (5, 12), 0.02512603),
    ):
        kinds = torch.tensor([kind])
        found = refocusing(Fixture.looks(*tokens), word_regions(weights, kinds), words_present(kinds))
        assert found.item() == pytest.approx(expected, rel=1e-4)
    n = torch.arange(512.0)
    lost = 0.25 * identity_distance(torch.sin(0.05 * n)[None], torch.sin(0.05 * n + 0.4)[None])
    assert lost.item() == pytest.approx(0.02019353, rel=1e-5)


@pytest.mark.parametrize("temperature, name", [(1.0, "1p0"), (2.0, "2p0")])
def test_loss_weights_are_the_references(temperature: float, name: str):
    golden = Golden("magicapture", "mask_to_latent")
    face = golden["in.mask_values"][golden["in.mask_code_u8"].long()][None, None]
    for kind, mask in {"face": face, "style": 1 - face}.items():
        made = region_weights(mask, (64, 64), 0.01, temperature)[0, 0]
        torch.testing.assert_close(made, golden[f"out.{kind}_tau_{name}"], atol=1e-6, rtol=0)
