"""Measuring in plain words, on real renders where the right answer is known."""

import numpy as np
import pytest

from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import MiniatureJudge
from likeness_portraits.engine.evaluation.measure import CAVEAT, in_words, measure
from likeness_portraits.engine.evaluation.people import concept_of, render_person
from likeness_portraits.engine.miniature import world

PERSON, STRANGER = world.TUNING_SEEDS[0], world.TUNING_SEEDS[5]
REFERENCES = [picture.pixels for picture in concept_of(PERSON).pictures]
PROMPTS = [prompt for prompt, _ in world.test_prompts("a man")]


@pytest.fixture(scope="module")
def judge() -> MiniatureJudge:
    return MiniatureJudge()


def test_the_person_reads_as_the_person_and_a_stranger_does_not(judge: MiniatureJudge):
    same = measure(list(render_person(PERSON)), REFERENCES, judge, prompts=PROMPTS, text=judge, looks=[judge])
    other = measure(list(render_person(STRANGER)), REFERENCES, judge)
    assert same.mean_identity > 0.6 > other.mean_identity + 0.2
    assert same.on_the_scale > 0.7 > 0.4 > other.on_the_scale
    told = in_words(same)
    assert "of 8 pictures" in told and "of the way from a stranger" in told and told.endswith(CAVEAT)
    assert "is seen" in told and "whole pictures" in told
    assert "is seen" not in in_words(other) and other.text is None


def test_a_picture_without_a_face_counts_as_not_found_and_not_as_a_stranger(judge: MiniatureJudge):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    found = measure([*render_person(PERSON)[:3], noise], REFERENCES, judge)
    assert found.detected.tolist() == [True] * 3 + [False] and np.isnan(found.identity[3])
    assert found.mean_identity == pytest.approx(found.identity[:3].mean())
    assert "found in 3 of 4" in in_words(found)
    nobody = measure([noise], REFERENCES, judge)
    assert nobody.mean_identity == 0.0 and "cannot be told" in in_words(nobody)


def test_a_copy_is_called_a_copy(judge: MiniatureJudge):
    found = measure([REFERENCES[2], *render_person(PERSON)[:1]], REFERENCES, judge)
    assert "Picture 1 looks like a copy" in in_words(found)


def test_references_without_any_face_are_refused_with_what_to_do(judge: MiniatureJudge):
    blank = np.zeros((128, 128, 3), np.uint8)
    with pytest.raises(LikenessError, match="crop closer"):
        measure(REFERENCES, [blank, blank], judge)


def test_prompts_go_with_pictures_one_to_one(judge: MiniatureJudge):
    with pytest.raises(LikenessError, match="1 prompts for 4 pictures"):
        measure(REFERENCES, REFERENCES, judge, prompts=["a photo of a man"], text=judge)
