"""Refocusing's experiment: its judgement of two people, on pictures whose people are known."""

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact, Token
from likeness_portraits.engine.bench.claims.refocus import (
    GALLERY,
    Refocus,
    gallery_of,
    judged,
    of_one_occasion,
    renamed_placeholder,
    wishes,
)
from likeness_portraits.engine.inference.refocus_options import focus_of
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.miniature.judges import load_judges

PAIR = (world.TUNING_SEEDS[0], world.TUNING_SEEDS[2])


def side_by_side(people: tuple[int, int], asked: list[dict[str, str]]) -> np.ndarray:
    """Two real renders next to one another, for each wish."""
    plain = {"hat": "none", "glasses": "none"}
    rows = []
    for number, wish in enumerate(asked):
        contexts = [world.sample_context(70 + 2 * number + place, **wish, **plain) for place in (0, 1)]
        halves = [
            world.render(world.sample_identity(who), context).pixels for who, context in zip(people, contexts)
        ]
        rows.append(np.concatenate(halves, 1))
    return np.stack(rows)


def means(people: tuple[int, int]) -> dict[str, float]:
    asked = [{"scene": scene, "style": "photo"} for scene in ("beach", "city", "plain")]
    scores = judged(side_by_side(people, asked), PAIR, asked, load_judges())
    assert {len(values) for values in scores.values()} == {2 * len(asked)}
    return {name: float(np.mean(values)) for name, values in scores.items()}


def test_two_people_in_their_places_are_told_from_two_that_are_swapped():
    right, wrong = means(PAIR), means((PAIR[1], PAIR[0]))
    assert right["recognised"] > 0.8 and right["in_place"] > 0.8 and right["swapped"] < 0.2
    assert wrong["recognised"] > 0.8 and wrong["in_place"] < 0.2 and wrong["swapped"] > 0.8
    assert right["identity"] > right["stranger"] + 0.3
    assert right["prompt"] > 0.7


def test_one_person_twice_is_one_person_recognised():
    twice = means((PAIR[0], PAIR[0]))
    assert 0.3 < twice["recognised"] < 0.7 and 0.3 < twice["swapped"] < 0.7


def test_a_face_may_be_taken_for_any_of_the_same_kind_of_people():
    assert len(gallery_of(PAIR[0])) == GALLERY and PAIR[0] in gallery_of(PAIR[0])
    assert set(gallery_of(world.REPORTING_SEEDS[3])) <= set(world.REPORTING_SEEDS)


def test_renamed_words_are_the_same_words():
    token = Token(token="<v0>", class_word="man", vectors=2)
    rows = torch.ones(2, 4)
    learned = Artifact(kind="embedding", method="test", tokens=(token,), tensors={"token.v0.clip_l": rows})
    other = renamed_placeholder(learned, "<v1>")
    assert torch.equal(other.rows("<v1>")["clip_l"], rows) and other.tokens[0].class_word == "man"
    assert renamed_placeholder(learned, "<v0>").tensors.keys() == learned.tensors.keys()


def test_pictures_of_one_occasion_share_all_but_the_moment():
    concept = of_one_occasion(PAIR[0])
    pixels = np.stack([picture.pixels for picture in concept.pictures])
    read = load_judges().read(pixels)
    assert all(len(set(read[name])) == 1 for name in ("scene", "clothes", "clothes_colour", "style"))
    assert all((first != second).any() for first, second in zip(pixels, pixels[1:]))
    assert concept.class_word == world.class_word(world.sample_identity(PAIR[0]))


@pytest.mark.parametrize("arm", Refocus.arms, ids=lambda arm: arm.name)
def test_every_arms_regions_can_be_read(arm):
    regions = [focus_of(text.format("a man")) for text in arm.options["regions"]]
    assert [focus.inside or focus.token for focus in regions] in ([], ["<v0>"], ["<v0>", "<v1>"])


def test_wishes_differ():
    assert len({tuple(wish.items()) for wish in wishes(quick=False)}) == 6
    assert len(wishes(quick=True)) == 4
