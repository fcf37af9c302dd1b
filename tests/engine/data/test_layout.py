"""Folders as people have them: what is read, what is named as left out, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import ConceptSpec
from likeness_portraits.engine.data.concepts import USABLE_SIDE, assets_in, load_concept, one_of_folder
from likeness_portraits.engine.data.layout import look_into
from likeness_portraits.engine.data.pictures import reads_heic
from likeness_portraits.engine.errors import LikenessError


def picture(path: Path, shade: int = 90, size: tuple[int, int] = (48, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 120, 60)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (48, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = np.zeros(size[::-1], np.uint8)
    half[:, : size[0] // 2] = 255
    Image.fromarray(half).save(path)
    return path


def masked(folder: Path) -> dict[str, bool]:
    return {one.name: one.mask is not None for one in load_concept(folder, class_word="man").pictures}


# ---- one concept or several


@pytest.mark.parametrize(
    "names",
    [
        ["00_anna_beach.png", "01_anna_beach.png", "02_anna_home.png"],
        ["10151234567890_1093_o.png", "20151234567891_1094_o.png"],
        ["1_a_.png", "2_b_.png"],
    ],
)
def test_numbered_photographs_are_one_concept(tmp_path: Path, names: list[str]):
    for number, name in enumerate(names):
        picture(tmp_path / name, 40 * number)
    assert assets_in(tmp_path) == []
    concept = one_of_folder(ConceptSpec(folder=str(tmp_path), class_word="woman"))
    assert len(concept.pictures) == len(names) and concept.role == "subject"


def test_several_concepts_come_of_a_folder_only_where_asked_for_and_it_is_said(tmp_path: Path):
    names = ("0_person_k0.jpg", "0_person_k1.jpg", "1_hair_c0.jpg")
    for folder in ("person_k+hair_c", "mine", "person+hat"):
        for name in names:
            picture(tmp_path / folder / name)
    assert assets_in(tmp_path / "person_k+hair_c") == [0, 1]  # MagicTailor's name
    assert assets_in(tmp_path / "person+hat") == []  # a plus alone says nothing
    assert assets_in(tmp_path / "mine") == [] and assets_in(tmp_path / "mine", several=True) == [0, 1]
    (remark,) = load_concept(tmp_path / "mine", class_word="person").remarks
    assert "is read as one concept, although its files are numbered for person, hair; --several" in remark
    (tmp_path / "mine" / "concept.json").write_text(json.dumps({"concepts": "by number"}))
    assert assets_in(tmp_path / "mine") == [0, 1]
    hair = load_concept(ConceptSpec(folder=str(tmp_path / "mine"), asset=1))
    assert hair.class_word == "hair" and hair.role == "component"
    assert "number 1 of its 2 concepts, hair, has 1 pictures" in hair.remarks[0]


def test_a_folder_that_cannot_be_several_says_how_to_name_its_files(tmp_path: Path):
    picture(tmp_path / "IMG_1.png")
    with pytest.raises(LikenessError, match="name them like 0_person_a0.jpg and 1_hair_a0.jpg"):
        assets_in(tmp_path, several=True)
    (tmp_path / "concept.json").write_text(json.dumps({"concepts": "all"}))
    with pytest.raises(LikenessError, match='"concepts" can only be "by number"'):
        load_concept(tmp_path, class_word="man")


@pytest.mark.real
def test_magictailors_own_folder_is_its_two_concepts_with_their_masks(kit: Path):
    assert assets_in(kit / "person_k+hair_c") == [0, 1]
    person, hair = (load_concept(ConceptSpec(folder=str(kit / "person_k+hair_c"), asset=n)) for n in (0, 1))
    assert (person.class_word, hair.class_word) == ("person", "hair")
    assert [len(one.pictures) for one in (person, hair)] == [3, 3]
    assert all(one.mask is not None for one in (*person.pictures, *hair.pictures))


# ---- masks


@pytest.mark.parametrize(
    ("pictures", "masks"),
    [
        (["p0.png", "p1.png"], ["p0-masklabel.png", "p1-masklabel.png"]),  # OneTrainer
        (["p0.jpg", "p1.jpg"], ["p0.mask.png", "p1.mask.png"]),
        (["p0.jpg", "p1.jpg"], ["masks/p0-masklabel.png", "masks/p1-masklabel.png"]),
        (["p0.jpg", "p1.jpg"], ["masks/p0.mask.png", "masks/p1_mask.png"]),
        (["p0.jpg", "p1.jpg"], ["masks/p0.jpg.png", "masks/P1.PNG"]),
        (["p0.jpg.png", "p1.jpg.png"], ["masks/p0.png", "masks/p1.png"]),
        (["images/p0.jpg", "images/p1.jpg"], ["images/masks/p0.png", "images/masks/p1.png"]),
    ],
)
def test_masks_are_known_by_the_names_that_trainers_give_them(tmp_path: Path, pictures, masks):
    for name in pictures:
        picture(tmp_path / name)
    for name in masks:
        mask(tmp_path / name)
    found = load_concept(tmp_path, class_word="man")
    assert len(found.pictures) == 2 and all(one.mask.mean() == 0.5 for one in found.pictures)
    beside = not any("masks/" in name for name in masks)
    assert any("taken for masks by their names" in remark for remark in found.remarks) == beside


def test_a_photograph_named_after_a_mask_stays_a_photograph(tmp_path: Path):
    picture(tmp_path / "carnival_mask.png")
    picture(tmp_path / "anna.png")
    assert masked(tmp_path) == {"carnival_mask": False, "anna": False}
    assert not load_concept(tmp_path, class_word="man").remarks


def test_masks_that_belong_to_no_picture_are_named(tmp_path: Path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    for name in ("masks/a.png", "masks/other.png", "c-masklabel.png"):
        mask(tmp_path / name)
    (tmp_path / "masks" / "notes.txt").write_text("")
    found = look_into(tmp_path)
    assert masked(tmp_path) == {"a": True, "b": False}
    assert {path.name for path in found.left_out} == {"c-masklabel.png", "other.png", "notes.txt"}
    told = "\n".join(found.remarks)
    assert "masks: left out notes.txt, other.png, which belong to no picture" in told
    assert "left out c-masklabel.png, which belongs to no picture" in told


def test_a_folder_of_masks_of_which_none_belongs_is_refused(tmp_path: Path):
    picture(tmp_path / "p0.png")
    mask(tmp_path / "masks" / "0.png")
    with pytest.raises(
        LikenessError, match=r"masks holds 1 file, of which none belongs to a picture \(0\.png"
    ):
        load_concept(tmp_path, class_word="man")


# ---- what is left out, and where


def test_every_file_that_is_left_out_is_named_with_what_to_do(tmp_path: Path):
    names = ("IMG_1.heic", "IMG_2.CR2", "b.txt", "clip.MOV", "notes.pdf")
    picture(tmp_path / "a.png")
    picture(tmp_path / "older" / "b.png")
    for name in (*names, ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    found = look_into(tmp_path)
    left = {path.name for path in found.left_out}
    assert left == {*names, "older"} - ({"IMG_1.heic"} if reads_heic() else set())
    told = "\n".join(found.remarks)
    assert "left out IMG_2.CR2 (raw files of cameras: save them as JPEG)" in told
    assert "left out b.txt (captions of no picture: name each as its picture)" in told
    assert "left out older/ (a folder with more pictures; give it by itself)" in told
    if not reads_heic():
        assert "left out IMG_1.heic (HEIC: save them as JPEG, or run `pip install pillow-heif`)" in told


def test_a_folder_of_heic_alone_says_how_to_convert_them(tmp_path: Path):
    if reads_heic():
        pytest.skip("pillow-heif is installed here")
    (tmp_path / "IMG_1.heic").write_bytes(b"x")
    with pytest.raises(LikenessError, match="IMG_1.heic is HEIC; save them as JPEG, or run"):
        load_concept(tmp_path, class_word="man")


def test_pictures_beside_images_are_named(tmp_path: Path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "b.png")
    (remark,) = load_concept(tmp_path, class_word="man").remarks
    assert "left out b.png (beside images/, which is what is read)" in remark


def test_kohyas_folder_is_gone_into_and_several_of_them_are_named(tmp_path: Path):
    picture(tmp_path / "10_anna woman" / "a.png")
    found = load_concept(tmp_path, class_word="woman")
    assert [one.name for one in found.pictures] == ["a"]
    assert "read from 10_anna woman/, kohya's layout; its 10 repeats change nothing" in found.remarks[0]
    assert len(found.remarks) == 1
    picture(tmp_path / "5_bob man" / "b.png")
    with pytest.raises(LikenessError, match="several of kohya's folders .10_anna woman/, 5_bob man/"):
        load_concept(tmp_path, class_word="woman")


def test_kohyas_folders_of_one_name_are_one_whose_pictures_come_as_often_as_they_say(tmp_path: Path):
    picture(tmp_path / "10_anna woman" / "a.png", 10)
    picture(tmp_path / "4_anna woman" / "b.png", 20)
    mask(tmp_path / "4_anna woman" / "masks" / "b.png")
    (tmp_path / "10_anna woman" / "a.txt").write_text("at the sea")
    concept = load_concept(tmp_path, class_word="woman")
    told = {one.name: (one.repeats, one.mask is not None, one.captions) for one in concept.pictures}
    assert told == {"a": (5, False, ("at the sea",)), "b": (2, True, ())}
    assert "numbers say how often a picture comes" in concept.remarks[0]
    picture(tmp_path / "4_anna woman" / "a.png", 30)
    with pytest.raises(LikenessError, match="have the same name; rename or remove one of them"):
        load_concept(tmp_path, class_word="woman")


def test_a_folder_of_folders_names_one_that_holds_pictures(tmp_path: Path):
    picture(tmp_path / "anna" / "a.png")
    with pytest.raises(LikenessError, match=r"no pictures in .* itself; give the folder .*, such as .*anna"):
        load_concept(tmp_path, class_word="woman")


# ---- sizes


def test_pictures_are_no_larger_than_training_can_use_and_their_masks_alike(tmp_path: Path):
    picture(tmp_path / "a.png", size=(3000, 2000))
    mask(tmp_path / "masks" / "a.png", size=(3000, 2000))
    (found,) = load_concept(tmp_path, class_word="man").pictures
    assert found.pixels.shape == (USABLE_SIDE, USABLE_SIDE * 3 // 2, 3) and found.size == (2000, 3000)
    assert found.mask.shape == found.pixels.shape[:2] and abs(found.mask.mean() - 0.5) < 1e-3
    small = found.within(64)
    assert small.pixels.shape == (64, 96, 3) and small.mask.shape == (64, 96) and small.size == (2000, 3000)
    assert small.within(100) is small


# ---- info


@pytest.mark.real
def test_info_shows_magictailors_own_folder_and_any_folder_of_pictures(kit: Path, tmp_path: Path, capsys):
    assert main(["info", str(kit / "person_k+hair_c"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["class_word"], one["pictures"], one["masks"]) for one in told["concepts"]] == [
        ("person", 3, 3),
        ("hair", 3, 3),
    ]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.jpg").symlink_to(kit / "p3_profile.jpg")
    assert main(["info", str(tmp_path / "plain"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["class_word"], told["pictures"], told["masks"]) == ("not said", 1, 0)
