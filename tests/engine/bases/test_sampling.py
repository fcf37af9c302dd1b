"""Samplers, against diffusers and against a flow whose end is known."""

import pytest
import torch

from likeness_portraits.engine.bases.process.ddpm import noise_schedule, training_sigmas
from likeness_portraits.engine.bases.process.schedules import karras_schedule, simple_schedule
from likeness_portraits.engine.bases.sampling import denoiser, dpmpp_2m, euler, sample, seeded_noise
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.tests.engine.tiny import SCHEDULE, tiny_base

SIGMAS = training_sigmas(noise_schedule(SCHEDULE))


def ignore(done: int, total: int) -> None:
    pass


def test_the_training_levels_are_those_of_sd1():
    assert SIGMAS[0].item() == pytest.approx(0.0292, abs=1e-4)
    assert SIGMAS[-1].item() == pytest.approx(14.6146, abs=1e-4)


def test_the_simple_schedule_takes_evenly_spaced_timesteps_from_the_top():
    schedule = simple_schedule(SIGMAS, 4)
    assert torch.equal(
        schedule, torch.stack([SIGMAS[999], SIGMAS[749], SIGMAS[499], SIGMAS[249], torch.zeros(())])
    )
    assert torch.equal(simple_schedule(SIGMAS, 3)[:3], SIGMAS[[999, 666, 333]])


def test_the_karras_schedule_is_that_of_diffusers():
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(**SCHEDULE, use_karras_sigmas=True)
    theirs.set_timesteps(10)
    torch.testing.assert_close(karras_schedule(SIGMAS, 10), theirs.sigmas, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_euler_equals_diffusers_with_the_same_timesteps(kind):
    from diffusers import EulerDiscreteScheduler

    base = tiny_base(kind)
    theirs = EulerDiscreteScheduler(**SCHEDULE, prediction_type=kind)
    theirs.set_timesteps(timesteps=[999, 799, 599, 399, 199])
    context, empty = base.encode_text(["a photo of a woman"]), base.encode_text([""])
    noise = seeded_noise([5], (4, 8, 8))
    with torch.no_grad():
        ours = sample(base, context, empty, noise, steps=5, guidance=3.0)
        x = noise * (1 + theirs.sigmas[0] ** 2).sqrt()  # diffusers' own start leaves the 1 out
        for timestep in theirs.timesteps:
            scaled = theirs.scale_model_input(x, timestep)
            without, along = (
                base.predict(scaled, base.process.times(timestep.long()).expand(1), text)
                for text in (empty, context)
            )
            x = theirs.step(without + 3.0 * (along - without), timestep, x).prev_sample
    torch.testing.assert_close(ours, x, atol=2e-4, rtol=1e-3)


def test_both_samplers_follow_a_known_flow_and_the_second_order_one_is_closer():
    spread = 0.5  # of the data, a Gaussian: its best denoiser and its flow are known

    def denoise(x, sigma):
        return x * spread**2 / (spread**2 + sigma**2)

    schedule = karras_schedule(SIGMAS, 30)
    start = torch.tensor([3.0, -20.0])
    end = start * spread / (spread**2 + schedule[0] ** 2).sqrt()
    first = (euler(denoise, start, schedule, ignore) - end).abs().max()
    second = (dpmpp_2m(denoise, start, schedule, ignore) - end).abs().max()
    assert first < 0.2
    assert second < first / 5


def test_a_picture_does_not_depend_on_its_neighbours():
    noise = seeded_noise([1, 2], (4, 8, 8))
    assert torch.equal(noise[1:], seeded_noise([2], (4, 8, 8)))
    torch.manual_seed(1)
    assert torch.equal(noise[:1], torch.randn(1, 4, 8, 8))


def test_unknown_samplers_are_errors_that_name_the_nearest():
    base = tiny_base()
    text = base.encode_text([""])
    with pytest.raises(LikenessError, match="unknown sampler 'eulr'; did you mean 'euler'?"):
        sample(base, text, text, seeded_noise([1], (4, 8, 8)), steps=1, guidance=1.0, sampler="eulr")


def test_a_share_of_the_schedule_begins_from_given_latents_as_ksampler_does():
    base, start = tiny_base(), seeded_noise([5], (4, 8, 8))
    text, noise = base.encode_text([""]), seeded_noise([1], (4, 8, 8))

    def drawn(**options):
        return sample(base, text, text, noise, steps=4, guidance=1.0, **options)

    hardly, half, whole = (drawn(start=start, denoise=share) for share in (0.01, 0.5, 1.0))
    away = [float((latents - start).abs().mean()) for latents in (hardly, half, whole)]
    assert away[0] < 0.1 < away[1] < away[2]
    sigmas = simple_schedule(SIGMAS, 8)[-5:]
    by_hand = euler(denoiser(base, text, text, 1.0), start + noise * sigmas[0], sigmas, ignore)
    assert torch.equal(half, by_hand)
    assert torch.equal(drawn(start=torch.zeros_like(start)), drawn())
    with pytest.raises(LikenessError, match="denoise is 0; give a share above 0"):
        drawn(start=start, denoise=0)
