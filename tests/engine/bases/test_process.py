"""Diffusion processes by numbers worked out by hand, and what their times mean to one another."""

import math

import pytest
import torch

from likeness_portraits.engine.bases.process.ddpm import DDPM, SD_SCHEDULE, noise_schedule
from likeness_portraits.engine.bases.process.flow import FLUX2_SHIFT, RectifiedFlow, flux2_flow, flux2_shift
from likeness_portraits.engine.bases.sampling import sample
from likeness_portraits.engine.errors import LikenessError

SD = DDPM(noise_schedule(SD_SCHEDULE))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------------- DDPM


def test_every_timestep_comes_back_from_its_time():
    steps = torch.arange(1000)
    assert torch.equal(SD.timesteps(SD.times(steps)), steps)
    assert SD.timesteps(torch.tensor([1.0, -0.1])).tolist() == [999, 0]


def test_times_are_drawn_as_timesteps_always_were():
    expected = torch.randint(400, 800, (64,), generator=seeded(3))
    assert torch.equal(SD.timesteps(SD.sample_times(64, seeded(3), 0.4, 0.8)), expected)
    expected = torch.randint(1000, (64,), generator=seeded(3))
    assert torch.equal(SD.timesteps(SD.sample_times(64, seeded(3))), expected)


def test_progress_counts_as_comfyui_does():
    assert SD.progress(0.999) == 0 and SD.progress(0.0) == 1
    assert SD.progress(0.5) == pytest.approx(1 - 500 / 999)


# ------------------------------------------------------------------------------------------------------- flow


def test_flow_goes_straight_from_picture_to_noise():
    flow = RectifiedFlow()
    x0, noise = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1), torch.tensor([6.0, 3.0]).view(1, 2, 1, 1)
    t = torch.tensor([0.25])
    noisy, target = flow.add_noise(x0, noise, t), flow.target(x0, noise, t)
    assert noisy.flatten().tolist() == [3.0, 0.0] and target.flatten().tolist() == [4.0, 4.0]
    assert torch.equal(flow.predict_x0(noisy, target, t), x0)
    assert flow.loss_weight(t, 5.0).tolist() == [1.0]


def test_times_of_flow_are_logit_normal_and_shifted():
    """At u, the times below are as many as the normal numbers below ln(u / (1 - u))."""
    drawn = RectifiedFlow().sample_times(20_000, seeded(0))
    assert drawn.min() > 0 and drawn.max() < 1
    for u, share in ((0.5, 0.5), (1 / (1 + math.e), 0.1587), (1 / (1 + math.exp(-1)), 0.8413)):
        assert float((drawn < u).float().mean()) == pytest.approx(share, abs=0.01)
    shifted = RectifiedFlow(shift=3.0).sample_times(20_000, seeded(0))
    torch.testing.assert_close(shifted, 3 * drawn / (1 + 2 * drawn))


def test_uniform_times_of_flow_are_even_before_the_shift():
    drawn = RectifiedFlow().sample_times(20_000, seeded(0), uniform=True)
    for share in (0.1, 0.5, 0.9):
        assert float((drawn < share).float().mean()) == pytest.approx(share, abs=0.01)
    shifted = RectifiedFlow(shift=3.0).sample_times(20_000, seeded(0), uniform=True)
    torch.testing.assert_close(shifted, 3 * drawn / (1 + 2 * drawn))
    part = RectifiedFlow(shift=3.0).sample_times(20_000, seeded(0), 0.5, 0.75, uniform=True)
    assert 0.5 <= part.min() and part.max() <= 0.75  # u is from 1/4 to 1/2, and 3/8 in the middle
    assert float((part < 9 / 14).float().mean()) == pytest.approx(0.5, abs=0.015)


def test_between_bounds_the_density_of_times_is_kept():
    flow = RectifiedFlow(shift=3.0)
    everywhere, part = flow.sample_times(40_000, seeded(1)), flow.sample_times(20_000, seeded(2), 0.7, 0.9)
    assert part.min() >= 0.7 and part.max() <= 0.9
    inside = everywhere[(everywhere >= 0.7) & (everywhere <= 0.9)]
    assert float(part.mean()) == pytest.approx(float(inside.mean()), abs=0.003)


@pytest.mark.parametrize(("timestep", "s"), [(400, 0.537), (800, 0.836), (0, 0.0), (1000, 1.0)])
def test_published_timesteps_lie_where_there_is_as_much_noise(timestep, s):
    """sigma of SD's schedule at 400 is 1.16, at 800 5.11: s = sigma / (1 + sigma)."""
    flow = RectifiedFlow()
    assert flow.published_time(timestep) == pytest.approx(s, abs=1e-3)
    assert SD.published_time(timestep) == timestep / 1000
    if 0 < timestep < 1000:
        assert flow.published_timestep(torch.tensor([flow.published_time(timestep)])).item() == timestep


def test_levels_of_flow_are_comfyuis_for_a_shift():
    """ModelSamplingDiscreteFlow at shift 3: sigma = 3 u / (1 + 2 u) for u = 1, 3/4, 1/2, 1/4, then 0."""
    expected = torch.tensor([1.0, 2.25 / 2.5, 1.5 / 2, 0.75 / 1.5, 0.0])
    torch.testing.assert_close(RectifiedFlow(shift=3.0).sigmas(4, "simple"), expected)
    assert RectifiedFlow(shift=3.0).progress(0.75) == pytest.approx(0.5)


def test_flux2_is_shifted_as_its_makers_say():
    """mu at 1024 pixels a side is 0.00016927 * 4096 + 0.45666666 = 1.1500 at 200 steps and 2.2562 at 10."""
    assert math.log(flux2_shift(4096, 200)) == pytest.approx(1.1500, abs=1e-4)
    assert math.log(flux2_shift(4096, 10)) == pytest.approx(2.2562, abs=1e-4)
    assert math.log(flux2_shift(4400, 20)) == pytest.approx(0.00016927 * 4400 + 0.45666666)
    # what ComfyUI always takes is that of 50 steps, and so is what it is learned at
    assert flux2_shift(4096, 50) == pytest.approx(FLUX2_SHIFT, rel=0.01)


def test_smaller_pictures_of_flux2_are_learned_at_less_noise():
    flow = flux2_flow()
    large, small = (flow.sample_times(4000, seeded(1), latents=latents) for latents in (4096, 256))
    even = RectifiedFlow().sample_times(4000, seeded(1))
    torch.testing.assert_close(large, flow.shifted(even, flux2_shift(4096, 50)))
    torch.testing.assert_close(small, flow.shifted(even, flux2_shift(256, 50)))
    assert small.mean() < large.mean()


def test_a_base_without_levels_of_its_own_says_so():
    assert flux2_flow().sigmas(4, "own", 4096)[1] == pytest.approx(0.9674, abs=1e-3)
    with pytest.raises(LikenessError, match="no levels of its own"):
        SD.sigmas(4, "own")


class Straight:
    """A model that knows the picture: what flows to it is told exactly."""

    def __init__(self, x0: torch.Tensor) -> None:
        self.process, self.x0 = RectifiedFlow(shift=2.0), x0

    def predict(self, noisy, t, conditioning):
        return (noisy - self.x0) / t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("steps", [1, 5])
def test_euler_on_a_straight_flow_ends_at_the_picture(steps):
    x0, noise = torch.randn(2, 4, 3, 3, generator=seeded(4)), torch.randn(2, 4, 3, 3, generator=seeded(5))
    drawn = sample(Straight(x0), None, None, noise, steps=steps, guidance=1.0)
    torch.testing.assert_close(drawn, x0, atol=1e-5, rtol=1e-5)


def test_a_picture_to_begin_from_is_mixed_with_noise_at_the_first_level():
    flow, start, noise = RectifiedFlow(), torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 10.0)
    assert flow.begin(noise, start, torch.tensor(0.25)).item() == 4.0
    assert flow.begin(noise, None, torch.tensor(1.0)).item() == 10.0
