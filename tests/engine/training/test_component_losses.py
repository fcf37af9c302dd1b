"""MagicTailor's formulas against numbers of the reference implementation (tests/golden/magictailor)."""

from functools import partial

import pytest
import torch

from likeness_portraits.engine.training.component_losses import (
    attention_in_mask,
    attention_to,
    balanced,
    degradation_intensity,
    degraded,
    even_shares,
    masked_mean_error,
    per_concept,
    preservation,
    reduced_masks,
    selection,
)
from likeness_portraits.engine.training.momentum import Ema
from likeness_portraits.tests.golden.goldens import Golden, close

golden = partial(Golden, "magictailor")


def test_degradation_holds_its_strength_and_lets_go_at_the_end():
    case = golden("degradation_schedule")
    total = int(case["in.total_steps"])
    initial, exponent = float(case["in.alpha64"]), float(case["in.gamma64"])
    found = [degradation_intensity("dynamic", d, total, initial, exponent) for d in range(1, total + 1)]
    close(torch.tensor(found, dtype=torch.float64), case["out.alpha_d64"], atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("fixed", [0.5, 0.5]), ("linear", [0.25, 0.0]), ("rising", [0.25, 0.5]), ("none", [0.0, 0.0])],
)
def test_ablations_of_the_degradation_follow_their_names(kind, expected):
    assert [degradation_intensity(kind, step, 2) for step in (1, 2)] == expected


def test_only_what_lies_outside_the_masks_is_degraded():
    case = golden("degraded_image")
    step = int(case["in.step_index"]) + 1
    intensity = degradation_intensity("dynamic", step, int(case["in.total_steps"]), 0.5, 32.0)
    image, mask = case["in.image"], case["in.mask"]
    found = degraded(image, mask, case["in.noise"], intensity)
    close(found, case["out.image"], atol=1e-6)
    assert torch.equal(found * mask, image * mask)


def test_masks_shrink_as_the_reference_picks_pixels():
    case = golden("mask_downsample")
    masks = case["in.mask_u8"][None, None] / 255
    assert torch.equal(reduced_masks(masks, (64, 64), smooth=False)[0, 0], case["out.mask64"])
    assert torch.equal(reduced_masks(masks, (16, 16), smooth=False)[0, 0], case["out.mask16"])


def test_smooth_masks_keep_their_area():
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., 1, 1] = 1
    assert reduced_masks(masks, (2, 2)).tolist() == [[[[0.25, 0.0], [0.0, 0.0]]]]
    assert reduced_masks(masks, (2, 2), smooth=False).sum() == 0


class Step:
    """One golden step: predictions of the student, and the losses that they lead to."""

    def __init__(self, case: Golden) -> None:
        self.case = case
        self.count = int(case["in.n_assets"])
        rows = len(case["in.pred"])
        self.concepts = torch.arange(self.count).repeat_interleave(rows // self.count)
        self.prediction = case["in.pred"].clone().requires_grad_()

    def by_concept(self, target: str) -> torch.Tensor:
        errors = masked_mean_error(self.prediction, self.case[target], self.case["in.mask64"])
        return per_concept(errors, self.concepts, even_shares(self.concepts), self.count)


@pytest.mark.parametrize("name", ["losses_two_assets", "losses_three_assets"])
def test_losses_of_both_phases_equal_the_reference(name):
    case = golden(name)
    step = Step(case)
    losses, drifts = step.by_concept("in.noise"), step.by_concept("in.momentum_pred")
    chosen = selection(losses)
    held = preservation(drifts, chosen)
    total = balanced(losses, chosen) + case["in.lambda_pres"] * held
    total.backward()
    close(losses.mean(), case["out.warmup_loss"], rtol=1e-5)
    close(losses, case["out.asset_losses"], rtol=1e-5)
    assert int(chosen.argmax()) == int(case["out.argmax"])
    close(held, case["out.preservation"], rtol=1e-5)
    close(balanced(losses, chosen), case["out.max_loss"], rtol=1e-5)
    close(total, case["out.balance_loss"], rtol=1e-5)
    close(step.prediction.grad, case["out.balance_grad"], atol=1e-9, rtol=1e-5)


@pytest.mark.parametrize("name", ["losses_two_assets", "losses_three_assets"])
def test_without_preservation_other_concepts_get_no_gradient_at_all(name):
    step = Step(golden(name))
    losses = step.by_concept("in.noise")
    balanced(losses, selection(losses)).backward()
    moved = step.prediction.grad.abs().amax((1, 2, 3))
    assert (moved[step.concepts != int(losses.argmax())] == 0).all()
    close(moved, step.case["out.grad_row_max_without_preservation"], atol=1e-9, rtol=1e-5)


def test_unequal_numbers_of_pictures_count_by_concept():
    concepts = torch.tensor([0, 0, 0, 1])
    found = per_concept(torch.tensor([1.0, 2.0, 3.0, 8.0]), concepts, even_shares(concepts), 2)
    assert found.tolist() == [2.0, 8.0]


def test_a_soft_selection_shares_a_step_and_sharpens_to_the_worst():
    losses = torch.tensor([1.0, 3.0])
    soft = selection(losses, temperature=1.0)
    assert soft.tolist() == pytest.approx([1 / (1 + 2.718281828), 1 - 1 / (1 + 2.718281828)])
    assert selection(losses, temperature=1e-3).tolist() == selection(losses).tolist() == [0.0, 1.0]


def test_attention_loss_and_its_gradients_equal_the_reference():
    case = golden("attention_loss")
    rows, heads = len(case["in.input_ids"]), 2
    maps = {
        name: map_.unflatten(0, (rows, heads)).clone().requires_grad_()
        for name, map_ in case.under("in.maps.").items()
        if map_.shape[1] == 256 and not name.startswith("mid")
    }
    own = case["in.placeholder_ids"][case["in.asset_index"]]
    positions = (case["in.input_ids"] == own[:, None]).float()
    attention = attention_to(list(maps.values()), positions)
    losses = attention_in_mask(attention, case["in.mask16"].flatten(1))
    losses.mean().backward()
    close(losses.mean(), case["out.attention_loss"], rtol=1e-5)
    close(losses, case["out.per_sample"], rtol=1e-5)
    everywhere = case["out.aggregated"].flatten(1, 2)
    close(attention, (everywhere * positions[:, None]).sum(-1), atol=1e-7, rtol=1e-5)
    expected = case.under("out.grad_column.")
    assert expected.keys() == maps.keys()
    for name, map_ in maps.items():
        column = (map_.grad * positions[:, None, None]).sum(-1)
        close(column, expected[name], atol=1e-9, rtol=1e-4)
        assert not (map_.grad * (1 - positions)[:, None, None]).any()


def test_the_momentum_teacher_is_the_average_that_the_reference_keeps_of_its_whole_network():
    case = golden("momentum_average")
    layer = torch.nn.ParameterDict({name: torch.nn.Parameter(case[f"in.theta0.{name}"]) for name in "AB"})
    teacher = Ema([layer], list(layer.values()), float(case["in.beta"]), first_copies=True)
    for number in range(1, 5):
        with torch.no_grad():
            for name in "AB":
                layer[name].copy_(case[f"in.theta{number}.{name}"])
        teacher.update()
        with teacher.in_place():
            for name in "AB":
                close(layer[name], case[f"out.average{number}.{name}"], atol=1e-6)
        assert torch.equal(layer["A"], case[f"in.theta{number}.A"])


def test_the_teachers_place_is_given_back_even_after_an_error_and_graphs_stay_valid():
    layer = torch.nn.Linear(2, 2, bias=False)
    own = layer.weight
    teacher = Ema([layer], [own], decay=0.5)
    output = layer(torch.ones(1, 2)).square().sum()
    with pytest.raises(KeyboardInterrupt), teacher.in_place():
        assert layer.weight is not own
        raise KeyboardInterrupt
    assert layer.weight is own
    output.backward()
    assert own.grad is not None
