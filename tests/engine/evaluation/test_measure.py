"""Measuring in plain words, on real renders where the right answer is known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import MiniatureJudge
from likeness_portraits.engine.evaluation.measure import (
    CAVEAT,
    cut_out,
    in_words,
    measure,
    part_similarity,
    style_similarity,
)
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


def portraits(people: range, **context: str) -> list[world.Portrait]:
    return [world.render(world.sample_identity(n), world.sample_context(n, **context)) for n in people]


def test_a_style_is_known_from_other_peoples_pictures(judge: MiniatureJudge):
    def pixels(people: range, style: str) -> list[np.ndarray]:
        return [portrait.pixels for portrait in portraits(people, style=style)]

    drawn = pixels(range(100_000, 100_008), "sketch")
    right = style_similarity(judge, drawn, pixels(range(100_020, 100_026), "sketch"))
    wrong = style_similarity(judge, drawn, pixels(range(100_020, 100_026), "poster"))
    assert (right > wrong).mean() > 0.8


def test_style_and_variety_are_told_where_they_can_be(judge: MiniatureJudge):
    drawn = [portrait.pixels for portrait in portraits(range(100_000, 100_004), style="sketch")]
    sketches = [portrait.pixels for portrait in portraits(range(100_020, 100_024), style="sketch")]
    found = measure(drawn, REFERENCES, judge, looks=[judge], style=sketches)
    name = judge.name
    assert found.style[name].tolist() == style_similarity(judge, drawn, sketches).tolist()
    told = in_words(found)
    assert "like the pictures of the style" in told and "Among each other they differ by" in told
    same = measure(drawn[:1] * 3, REFERENCES, judge, looks=[judge])
    assert np.allclose(same.diversity[name], 0, atol=1e-6) and found.diversity[name].min() > 0.05
    one = measure(drawn[:1], REFERENCES, judge, looks=[judge])
    mixed = measure(drawn, REFERENCES, judge, looks=[judge], prompts=PROMPTS[:4])
    assert one.diversity is None and mixed.diversity is None and one.style is None
    with pytest.raises(LikenessError, match="put CLIP or DINOv2 into"):
        measure(drawn, REFERENCES, judge, style=sketches)


def test_hair_is_known_again_on_its_own(judge: MiniatureJudge):
    plain = {"hat": "none", "style": "photo"}
    pairs = []
    for person in (100_001, 100_002, 100_004, 100_006, 100_007, 100_009):
        who, other = world.sample_identity(person), world.sample_identity(person + 1)
        if "bald" in (who.hair_style, other.hair_style) or who.hair_colour == other.hair_colour:
            continue
        same, again, not_it = (
            world.render(somebody, world.sample_context(seed, **plain))
            for somebody, seed in ((who, 1), (who, 2), (other, 3))
        )
        cuts = [(portrait.pixels, portrait.mask(("hair",))) for portrait in (again, not_it)]
        scores = part_similarity(
            judge, [pixels for pixels, _ in cuts], [mask for _, mask in cuts], [same.pixels],
            [same.mask(("hair",))],
        )  # fmt: skip
        pairs.append(scores[0] > scores[1])
    assert len(pairs) >= 3 and np.mean(pairs) > 0.6


def test_a_part_is_cut_out_square_and_alone():
    pixels = np.full((10, 10, 3), 200, np.uint8)
    mask = np.zeros((10, 10), np.float32)
    mask[2:4, 3:9] = 1
    cut = cut_out(pixels, mask)
    assert cut.shape == (6, 6, 3) and (cut == 200).all(-1).sum() == 12 and (cut[0] == 127).all()
    assert cut_out(pixels, np.zeros((10, 10))) is None


def test_a_part_that_is_not_there_has_no_score_and_references_need_one(judge: MiniatureJudge):
    nothing, everything = np.zeros((128, 128)), np.ones((128, 128))
    found = part_similarity(judge, REFERENCES[:2], [nothing, everything], REFERENCES[:1], [everything])
    assert np.isnan(found[0]) and found[1] > 0
    with pytest.raises(LikenessError, match="marks anything"):
        part_similarity(judge, REFERENCES[:1], [everything], REFERENCES[:1], [nothing])


def test_the_command_line_measures_folders_and_files(tmp_path: Path, capsys):
    for name, person in (("own", PERSON), ("drawn", PERSON), ("others", STRANGER)):
        (tmp_path / name).mkdir()
        for number, pixels in enumerate(render_person(person)[:3]):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    options = ["-r", str(tmp_path / "own"), "--faces", "miniature", "--strangers", str(tmp_path / "others")]
    assert (
        main(["measure", str(tmp_path / "drawn" / "0.png"), *options, "--prompt", "a photo on a beach"]) == 0
    )
    told = capsys.readouterr().out
    assert "in 1 of 1 pictures" in told and "the same person" in told and "is seen" in told
    assert main(["measure", str(tmp_path / "drawn"), *options, "--style", str(tmp_path / "own")]) == 0
    assert "like the pictures of the style" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["measure", str(tmp_path / "empty"), *options]) == 2
    assert "holds no pictures" in capsys.readouterr().err
    assert main(["measure", str(tmp_path / "drawn"), *options[:2], "--packs", str(tmp_path)]) == 2
    assert "AuraFace" in capsys.readouterr().err
