"""Concept folders: ours, plain ones and the reference implementations'."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.config import ConceptSpec
from likeness_portraits.engine.data.concepts import (
    Concept,
    Picture,
    digest,
    load_concept,
    one_of_folder,
    write_concept,
)
from likeness_portraits.engine.errors import LikenessError


def save_pictures(folder: Path, *names: str, colour: int = 100, size: tuple[int, int] = (48, 40)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size, (colour, 50, 0)).save(folder / name)


def half_mask() -> np.ndarray:
    mask = np.zeros((40, 48), np.float32)
    mask[:, :24] = 1
    return mask


def concept() -> Concept:
    generator = np.random.default_rng(0)
    pictures = [Picture(f"p{i}", generator.integers(0, 256, (40, 48, 3), np.uint8)) for i in range(2)]
    pictures[1] = dataclasses.replace(pictures[1], mask=half_mask())
    return Concept("<me>", "woman", "subject", tuple(pictures), notes="holiday 2026, café")


def test_what_is_written_is_read_back_exactly(tmp_path: Path):
    write_concept(tmp_path / "me", concept())
    read = load_concept(tmp_path / "me")
    assert (read.token, read.class_word, read.role, read.notes) == (
        "<me>",
        "woman",
        "subject",
        "holiday 2026, café",
    )
    assert [picture.name for picture in read.pictures] == ["p0", "p1"]
    np.testing.assert_array_equal(read.pictures[0].pixels, concept().pictures[0].pixels)
    assert read.pictures[0].mask is None
    np.testing.assert_array_equal(read.pictures[1].mask, half_mask())
    assert digest([read]) == digest([concept()])


def test_writing_again_replaces_the_concept_and_leaves_no_debris(tmp_path: Path):
    write_concept(tmp_path / "me", concept())
    write_concept(tmp_path / "me", dataclasses.replace(concept(), pictures=concept().pictures[:1]))
    assert os.listdir(tmp_path) == ["me"]
    assert len(load_concept(tmp_path / "me").pictures) == 1


def test_a_folder_with_other_things_in_it_is_never_overwritten(tmp_path: Path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(LikenessError, match="letters exists and is no concept"):
        write_concept(tmp_path / "letters", concept())
    assert os.listdir(tmp_path / "letters") == ["dear.txt"]


def test_a_plain_folder_of_photos_needs_only_a_class_word(tmp_path: Path):
    save_pictures(tmp_path, "b.JPG", "a.png", ".hidden.png")
    read = load_concept(tmp_path, class_word="dog", token="<rex>", role="subject")
    assert [picture.name for picture in read.pictures] == ["a", "b"]
    assert (read.token, read.class_word) == ("<rex>", "dog")
    with pytest.raises(LikenessError, match=r"give a class word such as 'woman'"):
        load_concept(tmp_path)


def test_personamagic_masks_lie_in_a_folder_named_mask(tmp_path: Path):
    save_pictures(tmp_path, "a.jpg")
    (tmp_path / "mask").mkdir()
    Image.fromarray((half_mask() * 255).astype(np.uint8)).save(tmp_path / "mask" / "a.jpg", quality=95)
    assert load_concept(tmp_path, class_word="man").pictures[0].mask.mean() == pytest.approx(0.5, abs=0.05)


def test_a_magictailor_folder_is_one_concept_per_asset(tmp_path: Path):
    folder = tmp_path / "person_k+hair_c"
    save_pictures(folder, "0_person_k0.jpg", "0_person_k1.jpg", "1_hair_c0.jpg")
    (folder / "masks").mkdir()
    Image.new("L", (48, 40), 255).save(folder / "masks" / "1_hair_c0.png")
    person, hair = (one_of_folder(ConceptSpec(folder=str(folder), token=f"<v{n}>", asset=n)) for n in (0, 1))
    assert (person.token, person.class_word, person.role, len(person.pictures)) == (
        "<v0>",
        "person",
        "subject",
        2,
    )
    assert (hair.token, hair.class_word, hair.role, len(hair.pictures)) == ("<v1>", "hair", "component", 1)
    assert hair.pictures[0].mask is not None and person.pictures[0].mask is None


def test_one_concept_of_a_folder_is_chosen_by_its_number(tmp_path: Path):
    folder = tmp_path / "person_k+hair_c"
    save_pictures(folder, "0_person_k0.jpg", "0_person_k1.jpg", "1_hair_c0.jpg")
    hair = one_of_folder(ConceptSpec(folder=str(folder), token="<h>", asset=1))
    assert (hair.token, hair.class_word, hair.role, len(hair.pictures)) == ("<h>", "hair", "component", 1)
    with pytest.raises(LikenessError, match="holds the concepts number 0 and 1; say which one to read"):
        one_of_folder(ConceptSpec(folder=str(folder), class_word="person"))
    with pytest.raises(LikenessError, match="no pictures of concept number 2; there are 0, 1"):
        one_of_folder(ConceptSpec(folder=str(folder), asset=2))
    save_pictures(folder, "1_lid_c1.jpg")
    with pytest.raises(LikenessError, match="calls concept number 1 lid, other pictures call it hair"):
        one_of_folder(ConceptSpec(folder=str(folder), asset=1))


def test_a_concept_specification_goes_before_the_file(tmp_path: Path):
    config = pytest.importorskip("likeness_portraits.engine.config")
    write_concept(tmp_path / "me", concept())
    read = load_concept(config.ConceptSpec(folder=str(tmp_path / "me"), token="<you>", role="style"))
    assert (read.token, read.class_word, read.role) == ("<you>", "woman", "style")


def test_the_digest_sees_pixels_masks_and_words(tmp_path: Path):
    base = concept()
    brighter = dataclasses.replace(base.pictures[0], pixels=base.pictures[0].pixels // 2)
    unmasked = dataclasses.replace(base.pictures[1], mask=None)
    others = [
        dataclasses.replace(base, class_word="man"),
        dataclasses.replace(base, pictures=(brighter, base.pictures[1])),
        dataclasses.replace(base, pictures=(base.pictures[0], unmasked)),
    ]
    assert len({digest([base]), *(digest([other]) for other in others)}) == 4
    assert digest([dataclasses.replace(base, notes="other")]) == digest([base])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: None, r"faces does not exist"),
        (lambda f: f.write_text(""), r"faces is a file; give the folder"),
        (lambda f: f.mkdir(), r"no pictures in .*faces; put some"),
        (
            lambda f: (f.mkdir(), (f / "a.txt").write_text("")),
            r"no pictures in .*faces \(1 other file in it\)",
        ),
        (lambda f: save_pictures(f, "a.jpg", "a.png"), r"a\.jpg and a\.png have the same name"),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text("{")),
            r"concept\.json is not valid JSON in line 1",
        ),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text("[" * 100_000)),
            r"json is not valid JSON; mend",
        ),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text("[" * 80 + "]" * 80)),
            r"json is nested more than",
        ),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_bytes(b"\xff\xfe\xfa")),
            r"json is neither UTF-8 nor UTF-16",
        ),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text(r'{"class_word": "\ud800"}')),
            r"json holds a character that is none",
        ),
        (lambda f: (f.mkdir(), (f / "concept.json").write_text("[]")), r"concept\.json must look like"),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text(json.dumps({"clas_word": "x"}))),
            r"mean 'class_word'",
        ),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text(json.dumps({"role": "subjekt"}))),
            r"mean 'subject'",
        ),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text(json.dumps({"token": "v0"}))),
            r"write it like <v0>",
        ),
        (
            lambda f: (f.mkdir(), (f / "concept.json").write_text(json.dumps({"notes": 1}))),
            r"notes must be text",
        ),
    ],
)
def test_every_bad_folder_is_one_sentence_with_a_remedy(tmp_path: Path, prepare, message: str):
    folder = tmp_path / "faces"
    prepare(folder)
    with pytest.raises(LikenessError, match=message) as raised:
        load_concept(folder, class_word="woman")
    assert "\n" not in str(raised.value)
