"""Measuring in plain words, on real renders where the right answer is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.bench.claims.magictailor import donor, hair_of, with_hair_of
from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.concepts import Picture, write_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.evaluation.backends import MiniatureBackend
from likeness_portraits.engine.evaluation.measure import (
    CAVEAT,
    cut_out_faces,
    likeness_in_words,
    measure,
    part_similarity,
    rows,
    rows_in_words,
    style_similarity,
)
from likeness_portraits.engine.evaluation.people import concept_of, render_person
from likeness_portraits.engine.miniature import world

PERSON, STRANGER = world.TUNING_SEEDS[0], world.TUNING_SEEDS[5]
REFERENCES = [picture.pixels for picture in concept_of(PERSON).pictures]
PROMPTS = [prompt for prompt, _ in world.test_prompts("a man")]


@pytest.fixture(scope="module")
def judge() -> MiniatureBackend:
    return MiniatureBackend()


def test_the_person_reads_as_the_person_and_a_stranger_does_not(judge: MiniatureBackend):
    same = measure(list(render_person(PERSON)), REFERENCES, judge, prompts=PROMPTS, text=judge, looks=[judge])
    other = measure(list(render_person(STRANGER)), REFERENCES, judge)
    assert same.mean_identity > 0.6 > other.mean_identity + 0.2
    assert same.on_the_scale > 0.7 > 0.4 > other.on_the_scale
    told = likeness_in_words(same)
    assert "of 8 pictures" in told and "of the way from a stranger" in told and told.endswith(CAVEAT)
    assert "is seen" in told and "whole pictures" in told
    assert "is seen" not in likeness_in_words(other) and other.text is None


def test_a_picture_without_a_face_counts_as_not_found_and_not_as_a_stranger(judge: MiniatureBackend):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    found = measure([*render_person(PERSON)[:3], noise], REFERENCES, judge)
    assert found.detected.tolist() == [True] * 3 + [False] and np.isnan(found.identity[3])
    assert found.mean_identity == pytest.approx(found.identity[:3].mean())
    assert "found in 3 of 4" in likeness_in_words(found)
    nobody = measure([noise], REFERENCES, judge)
    assert nobody.mean_identity == 0.0 and "cannot be told" in likeness_in_words(nobody)


def test_a_copy_is_called_a_copy(judge: MiniatureBackend):
    found = measure([REFERENCES[2], *render_person(PERSON)[:1]], REFERENCES, judge)
    assert "Picture 1 looks like a copy" in likeness_in_words(found)


def test_references_without_any_face_are_refused_with_what_to_do(judge: MiniatureBackend):
    blank = np.zeros((128, 128, 3), np.uint8)
    with pytest.raises(LikenessError, match="crop closer"):
        measure(REFERENCES, [blank, blank], judge)


def test_prompts_go_with_pictures_one_to_one(judge: MiniatureBackend):
    with pytest.raises(LikenessError, match="1 prompts for 4 pictures"):
        measure(REFERENCES, REFERENCES, judge, prompts=["a photo of a man"], text=judge)


def portraits(people: range, **context: str) -> list[world.Portrait]:
    return [world.render(world.sample_identity(n), world.sample_context(n, **context)) for n in people]


def test_a_style_is_known_from_other_peoples_pictures(judge: MiniatureBackend):
    def pixels(people: range, style: str) -> list[np.ndarray]:
        return [portrait.pixels for portrait in portraits(people, style=style)]

    drawn = pixels(range(100_000, 100_008), "sketch")
    right = style_similarity(judge, drawn, pixels(range(100_020, 100_026), "sketch"))
    wrong = style_similarity(judge, drawn, pixels(range(100_020, 100_026), "poster"))
    assert (right > wrong).mean() > 0.8


def test_style_and_variety_are_told_where_they_can_be(judge: MiniatureBackend):
    drawn = [portrait.pixels for portrait in portraits(range(100_000, 100_004), style="sketch")]
    sketches = [portrait.pixels for portrait in portraits(range(100_020, 100_024), style="sketch")]
    found = measure(drawn, REFERENCES, judge, looks=[judge], style=sketches)
    name = judge.name
    assert found.style[name].tolist() == style_similarity(judge, drawn, sketches).tolist()
    told = likeness_in_words(found)
    assert "like the pictures of the style" in told and "Among each other they differ by" in told
    same = measure(drawn[:1] * 3, REFERENCES, judge, looks=[judge])
    assert np.allclose(same.diversity[name], 0, atol=1e-6) and found.diversity[name].min() > 0.05
    one = measure(drawn[:1], REFERENCES, judge, looks=[judge])
    mixed = measure(drawn, REFERENCES, judge, looks=[judge], prompts=PROMPTS[:4])
    assert one.diversity is None and mixed.diversity is None and one.style is None
    with pytest.raises(LikenessError, match="put CLIP or DINOv2 into"):
        measure(drawn, REFERENCES, judge, style=sketches)


def test_hair_is_known_again_on_its_own(judge: MiniatureBackend):
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
    cut = cut_out_faces(pixels, mask)
    assert cut.shape == (6, 6, 3) and (cut == 200).all(-1).sum() == 12 and (cut[0] == 127).all()
    assert cut_out_faces(pixels, np.zeros((10, 10))) is None


def test_a_part_that_is_not_there_has_no_score_and_references_need_one(judge: MiniatureBackend):
    nothing, everything = np.zeros((128, 128)), np.ones((128, 128))
    found = part_similarity(judge, REFERENCES[:2], [nothing, everything], REFERENCES[:1], [everything])
    assert np.isnan(found[0]) and found[1] > 0
    with pytest.raises(LikenessError, match="marks anything"):
        part_similarity(judge, REFERENCES[:1], [everything], REFERENCES[:1], [nothing])


HAIR = hair_of(donor(PERSON))
NOTHING = np.zeros((128, 128), np.float32)


def in_plain_pictures(who: world.Character, count: int) -> list[world.Portrait]:
    """Somebody as photographed, bareheaded."""
    return [world.render(who, world.sample_context(seed, hat="none", style="photo")) for seed in range(count)]


def test_pictures_with_somebodys_hair_are_more_like_it_than_pictures_with_ones_own(judge: MiniatureBackend):
    scores = []
    for who in (with_hair_of(PERSON, donor(PERSON)), world.sample_identity(PERSON)):
        shown = in_plain_pictures(who, 4)
        found = measure(
            [portrait.pixels for portrait in shown], REFERENCES, judge, looks=[judge],
            component=HAIR.pictures, component_masks=[portrait.mask(("hair",)) for portrait in shown],
        )  # fmt: skip
        assert list(found.component) == [judge.name]
        scores.append(found.component[judge.name])
        told = f"The component was found in 4 of 4 pictures and is {scores[-1].mean():.2f} like its own"
        assert told in likeness_in_words(found)
    theirs, own = scores
    assert (theirs > own + 0.1).all()


def test_a_picture_without_the_component_is_counted_and_not_scored(judge: MiniatureBackend):
    shown = in_plain_pictures(world.sample_identity(PERSON), 3)
    pictures = [portrait.pixels for portrait in shown]
    masks = [shown[0].mask(("hair",)), NOTHING, shown[2].mask(("hair",))]
    rest = {"looks": [judge], "component": HAIR.pictures}
    found = measure(pictures, REFERENCES, judge, **rest, component_masks=masks)
    values = found.component[judge.name]
    assert np.isnan(values).tolist() == [False, True, False]
    mean = (values[0] + values[2]) / 2
    assert f"The component was found in 2 of 3 pictures and is {mean:.2f} like" in likeness_in_words(found)
    missing = measure(pictures, REFERENCES, judge, **rest, component_masks=[NOTHING] * 3)
    assert np.isnan(missing.component[judge.name]).all()
    assert "found in 0 of 3 pictures; how like it is cannot be told" in likeness_in_words(missing)
    without = measure(pictures, REFERENCES, judge, looks=[judge])
    assert without.component is None and "component" not in likeness_in_words(without)


def test_a_component_needs_a_judge_masks_of_its_own_and_one_for_each_picture(judge: MiniatureBackend):
    pictures, masks = REFERENCES[:2], [np.ones((128, 128), np.float32)] * 2

    def refused(why: str, **given: object) -> None:
        asked = {"looks": [judge], "component": HAIR.pictures, "component_masks": masks, **given}
        with pytest.raises(LikenessError, match=why):
            measure(pictures, REFERENCES, judge, **asked)

    refused("nobody here can judge a component; put CLIP or DINOv2 into", looks=[])
    bare = (HAIR.pictures[0], replace(HAIR.pictures[1], name="fringe", mask=None))
    refused("picture fringe of the component has no mask; mark", component=bare)
    refused("1 masks of the component for 2 pictures; give one for each", component_masks=masks[:1])
    refused("0 masks of the component for 2 pictures", component_masks=[])
    refused("no pictures of it to compare with", component=())
    small = [masks[0], np.ones((64, 32), np.float32)]
    refused("mask 2 is 32 x 64 pixels, but its picture is 128 x 128", component_masks=small)
    empty = [Picture("bald", REFERENCES[0], NOTHING)]
    refused("no mask of the component's pictures marks anything", component=empty)


def test_the_command_line_finds_a_component_in_pictures_and_scores_it(tmp_path: Path, capsys):
    bald = next(seed for seed in world.TUNING_SEEDS[10:] if world.sample_identity(seed).hair_style == "bald")
    theirs = with_hair_of(PERSON, donor(PERSON))
    sets = {
        "references": REFERENCES,
        "theirs": [portrait.pixels for portrait in in_plain_pictures(theirs, 3)],
        "own": [portrait.pixels for portrait in in_plain_pictures(world.sample_identity(PERSON), 3)],
        "bald": [portrait.pixels for portrait in in_plain_pictures(world.sample_identity(bald), 2)],
        "noise": [np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)],
    }
    for name, pictures in sets.items():
        (tmp_path / name).mkdir()
        for number, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    hair = write_concept(tmp_path / "hair", HAIR)

    def told(*shown: str, more: tuple[str, ...] = ()) -> tuple[int, str]:
        folders = [str(tmp_path / name) for name in shown]
        options = ["-r", str(tmp_path / "references"), "--faces", "miniature", "--component", str(hair)]
        status = main(["measure", *folders, *options, *more])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    def score(name: str) -> float:
        status, text = told(name)
        assert status == 0 and "The component was found in 3 of 3 pictures and is " in text
        return float(text.split("3 of 3 pictures and is ")[1].split()[0])

    assert score("theirs") > score("own") + 0.1
    status, text = told("bald", "own")
    assert status == 0 and "The component was found in 3 of 5 pictures" in text
    status, text = told("noise")
    assert status == 2 and "noise/0.png" in text and "choose another, such as clipseg" in text
    status, text = told("own", more=("--backend", "clipsegg"))
    assert status == 2 and "did you mean 'clipseg'" in text
    described = json.loads((hair / "concept.json").read_text("utf-8"))
    (hair / "concept.json").write_text(json.dumps(described | {"class_word": "hare"}), "utf-8")
    status, text = told("own")
    assert status == 2 and "knows no 'hare'" in text
    (hair / "concept.json").write_text(json.dumps(described), "utf-8")
    for mask in (hair / "masks").iterdir():
        mask.unlink()
    status, text = told("own")
    assert status == 2 and "picture 0 of the component has no mask" in text


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


# ---- picture by picture


def test_every_picture_has_a_row_with_its_name_and_what_it_means(judge: MiniatureBackend):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    drawn = [render_person(PERSON)[0], render_person(STRANGER)[0], noise, REFERENCES[1]]
    names = ["anna.png", "who.png", "noise.png", "again.png"]
    found = measure(drawn, REFERENCES, judge, names=names)
    told = rows(found)
    assert [row["picture"] for row in told] == names
    assert [row["face"] for row in told] == [True, True, False, True]
    assert told[0]["verdict"] in ("the same person", "clearly like them")
    assert told[1]["verdict"] in ("hardly them", "a resemblance")
    assert (told[2]["verdict"], told[2]["identity"]) == ("no face", None)
    assert [row["copy"] for row in told] == [False, False, False, True]
    assert "again.png looks like a copy" in likeness_in_words(found) and "median" in likeness_in_words(found)
    assert found.median_identity == pytest.approx(np.median(found.identity[[0, 1, 3]]))
    lines = rows_in_words(found).splitlines()
    assert lines[2] == "noise.png         no face" and lines[3].endswith("a copy of a reference")


def test_one_reference_gives_the_same_words_as_several(judge: MiniatureBackend):
    alone = measure(list(render_person(PERSON)[:2]), REFERENCES[:1], judge)
    assert alone.own is None and alone.on_the_scale > 0.5
    told = likeness_in_words(alone)
    assert "a person's own pictures usually reach 0.95 (there is one reference alone)" in told
    assert "of the way from a stranger to the person" in told
    assert all(row["verdict"] for row in rows(alone))


def test_the_command_gives_rows_and_json_and_names_what_it_left_out(tmp_path: Path, capsys):
    for folder, pictures in (("known", REFERENCES), ("drawn", render_person(PERSON)[:2])):
        (tmp_path / folder).mkdir()
        for number, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(tmp_path / folder / f"p{number}.png")
    (tmp_path / "drawn" / "p2.cr2").write_bytes(b"x")
    command = ["measure", str(tmp_path / "drawn"), "-r", str(tmp_path / "known"), "--faces", "miniature"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out.startswith("p0.png   0.") and "\np1.png   0." in said.out
    assert "left out p2.cr2 (raw files of cameras" in said.err
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["picture"] for row in told["pictures"]] == ["p0.png", "p1.png"]
    assert told["identity"]["mean"] > 0.5 and told["faces_found"] == 2 and told["judge"] == "miniature"
