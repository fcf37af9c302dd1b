"""The world: the same seed, the same portrait; identity apart from context; labels that fit the picture."""

import numpy as np
import pytest

from likeness_portraits.engine.miniature import world


def test_the_same_seed_gives_the_same_portrait():
    first, second = (world.render(world.sample_identity(7), world.sample_context(8)) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.landmarks, second.landmarks)


def test_different_people_look_different_in_the_same_context():
    context = world.sample_context(3)
    pictures = [world.render(world.sample_identity(seed), context).pixels.astype(int) for seed in range(4)]
    differences = [np.abs(a - b).mean() for i, a in enumerate(pictures) for b in pictures[i + 1 :]]
    assert min(differences) > 2


def test_training_tuning_and_reporting_people_are_disjoint():
    ranges = (world.TRAINING_SEEDS, world.TUNING_SEEDS, world.REPORTING_SEEDS)
    everyone = [seed for seeds in ranges for seed in seeds]
    assert len(everyone) == len(set(everyone))


@pytest.mark.parametrize("style", world.ATTRIBUTES["style"])
@pytest.mark.parametrize("hair_style", world.ATTRIBUTES["hair_style"])
def test_every_hair_style_is_drawn_in_every_style(style: str, hair_style: str):
    seed = next(seed for seed in range(500) if world.sample_identity(seed).hair_style == hair_style)
    portrait = world.render(world.sample_identity(seed), world.sample_context(seed, style=style, hat="none"))
    assert portrait.pixels.shape == (128, 128, 3) and portrait.pixels.dtype == np.uint8
    assert portrait.mask(("hair",)).any() == (hair_style != "bald")


def test_the_face_fills_about_half_the_width():
    widths = []
    for seed in range(30):
        columns = world.render(world.sample_identity(seed), world.sample_context(seed)).mask().any(0)
        widths.append(columns.mean())
    assert 0.38 < np.mean(widths) < 0.6


def test_labels_follow_what_the_context_says():
    who = world.sample_identity(11)
    dressed = world.render(who, world.sample_context(5, glasses="sunglasses", hat="crown"))
    plain = world.render(who, world.sample_context(5, glasses="none", hat="none"))
    assert dressed.mask(("glasses",)).sum() > 100 and dressed.mask(("hat",)).sum() > 300
    assert not plain.mask(("glasses", "hat")).any()


def test_landmarks_lie_on_their_parts():
    expected = ("eye", "eye", "nose")
    for seed in range(12):
        context = world.sample_context(seed, glasses="none", hat="none", style="photo")
        portrait = world.render(world.sample_identity(seed), context)
        for (x, y), part in zip(portrait.landmarks[:3], expected, strict=True):
            around = portrait.labels[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4]
            assert world.PART_ID[part] in around


def test_larger_pictures_show_the_same_scene():
    who, context = world.sample_identity(2), world.sample_context(2, style="poster")
    small = world.render(who, context, 64).pixels.astype(float)
    large = world.render(who, context, 128).pixels.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 12


def test_a_full_caption_states_every_attribute():
    who = next(who for who in map(world.sample_identity, range(50)) if who.hair_style == "long")
    context = world.sample_context(4, glasses="round", hat="beanie", expression="sad")
    text = world.caption(who, context)
    stated = (
        who.gender,
        who.hair_colour,
        "round glasses",
        "beanie",
        "sad",
        context.clothes_colour,
        context.clothes,
    )
    assert all(word in text for word in stated)


def test_captions_with_a_generator_leave_facts_out():
    who, context = world.sample_identity(4), world.sample_context(4)
    lengths = {len(world.caption(who, context, np.random.default_rng(seed))) for seed in range(20)}
    assert len(lengths) > 5 and max(lengths) <= len(world.caption(who, context)) + 20


def test_test_prompts_name_the_subject_and_what_they_ask_for():
    for prompt, asked in world.test_prompts("<v0>"):
        assert "<v0>" in prompt
        assert set(asked) <= set(world.CONTEXT_ATTRIBUTES)
    smiling, _ = world.test_prompts("a man")[0]
    assert smiling.startswith("a photo of a smiling man")


def test_an_unknown_context_field_is_refused():
    with pytest.raises(ValueError, match="no field"):
        world.sample_context(1, weather="rain")
