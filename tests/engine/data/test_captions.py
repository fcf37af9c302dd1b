"""Captions: which files are read, what is said of them, and the prompts that come of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import ConceptSpec
from likeness_portraits.engine.data.captions import caption_lines, prompt_of
from likeness_portraits.engine.data.concepts import digest, load_concept, write_concept
from likeness_portraits.engine.errors import LikenessError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shade, name in enumerate(("a.png", "b.jpg", "c.png")):
        Image.new("RGB", (48, 40), (40 * shade, 90, 120)).save(tmp_path / name)
    return tmp_path


def captions(folder: Path, source: str = "files") -> dict[str, tuple[str, ...]]:
    concept = load_concept(ConceptSpec(folder=str(folder), class_word="man", captions=source))
    return {picture.name: picture.captions for picture in concept.pictures}


def said(folder: Path, source: str = "files") -> str:
    return "\n".join(load_concept(folder, class_word="man", captions=source).remarks)


def test_text_files_beside_pictures_are_their_captions_and_lines_are_choices(folder: Path):
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfa man at the sea\r\n\r\n  {} laughing \r\n")
    (folder / "b.jpg.txt").write_text("ein Mann im Café", "utf-8")
    (folder / "captions").mkdir()
    (folder / "captions" / "c.caption").write_text("indoors", "utf-16")
    assert captions(folder) == {
        "a": ("a man at the sea", "{} laughing"), "b": ("ein Mann im Café",), "c": ("indoors",),
    }  # fmt: skip
    assert said(folder) == f"{folder}: 3 pictures, 3 captions"


def test_a_text_file_goes_before_a_caption_file_and_both_before_tables(folder: Path):
    (folder / "a.caption").write_text("second")
    (folder / "a.txt").write_text("first")
    (folder / "b.caption").write_text("of b")
    table = {"a.png": "third", "b.jpg": "third", "c": ["one", "two"]}
    (folder / "captions.json").write_text(json.dumps(table))
    assert captions(folder) == {"a": ("first",), "b": ("of b",), "c": ("one", "two")}
    assert "left out" not in said(folder)


def test_lines_of_huggings_metadata_and_kohyas_mapping_are_read(folder: Path):
    lines = [{"file_name": "a.png", "text": "at home"}, {"image": "sub\\b.jpg", "caption": "at work"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (folder / "captions.json").write_text(json.dumps({"/far/c": {"tags": "1boy, hat"}}))
    assert captions(folder) == {"a": ("at home",), "b": ("at work",), "c": ("1boy, hat",)}


def test_what_a_pictures_own_file_says_is_read_on_request_alone(folder: Path):
    text = PngInfo()
    text.add_itxt("Description", "on a boat")
    Image.new("RGB", (48, 40)).save(folder / "a.png", pnginfo=text)
    exif = Image.Exif()
    exif[0x9C9C] = "in Köln".encode("utf-16-le")
    Image.new("RGB", (48, 40)).save(folder / "b.jpg", exif=exif)
    (folder / "c.txt").write_text("written")
    assert captions(folder) == {"a": (), "b": (), "c": ("written",)}
    assert captions(folder, "pictures") == {"a": ("on a boat",), "b": ("in Köln",), "c": ("written",)}
    assert captions(folder, "trigger") == dict.fromkeys("abc", ("{}",))
    assert captions(folder, "none") == dict.fromkeys("abc", ())
    assert "captions are left out, as asked" in said(folder, "none")


def test_pictures_without_a_caption_and_captions_without_a_picture_are_named(folder: Path):
    (folder / "a.txt").write_text("at the sea")
    (folder / "b.txt").write_text(" \n")
    (folder / "d.txt").write_text("of nothing")
    (folder / "captions.json").write_text('{"e.png": "gone", "a.png": "here"}')
    told = said(folder)
    assert "3 pictures, 1 caption: the 2 others learned with templates" in told
    assert "nothing is written in b.txt; write a caption, or delete it" in told
    assert "left out d.txt (captions of no picture: name each as its picture)" in told
    assert "captions.json is about pictures that are not here: e.png" in told


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("captions.json", b"{", "captions.json is not valid JSON"),
        ("captions.json", b'"a"', "captions.json must look like"),
        ("captions.json", b'{"a.png": 3}', "must say a file and its caption in each entry"),
        ("metadata.jsonl", b'{"text": "whose"}', "must say a file and its caption in each entry"),
        ("a.txt", b"caf\xe9 at noon", "a.txt is neither UTF-8 nor UTF-16"),
        ("a.txt", b"x" * 4001, "a.txt holds a caption of 4,001 characters"),
    ],
)
def test_captions_that_cannot_be_read_are_refused_in_a_sentence(
    folder: Path, name: str, content: bytes, sentence: str
):
    (folder / name).write_bytes(content)
    with pytest.raises(LikenessError, match=sentence):
        load_concept(folder, class_word="man")


def test_captions_are_kept_with_a_concept_and_make_it_another_training_set(folder: Path):
    plain = load_concept(folder, class_word="man")
    (folder / "a.txt").write_text("one\ntwo")
    told = load_concept(folder, class_word="man")
    assert digest([told]) != digest([plain])
    write_concept(folder / "kept", told)
    assert digest([load_concept(folder / "kept")]) == digest([told])
    assert told.within(32).pictures[0].captions == ("one", "two")


def prompt(caption: str, seed: int = 0, **how) -> str:
    return prompt_of([caption], "<v0>", np.random.default_rng(seed), **how)


def test_the_placeholder_stands_where_a_caption_says_else_before_it():
    assert prompt("a photo of {} at {sea}") == "a photo of <v0> at {sea}"
    assert prompt("[trigger] laughing") == "<v0> laughing"
    assert prompt("me, <v0>, outdoors") == "me, <v0>, outdoors"
    assert prompt("a man (laughing)") == "<v0>, a man (laughing)"


def test_shuffled_tags_keep_their_first_and_lose_none():
    found = {prompt("1boy, hat, sea, sun", seed, shuffle=True, keep=1) for seed in range(40)}
    assert len(found) == 6  # 3 tags in any order
    for text in found:
        first, second, *rest = text.split(", ")
        assert (first, second, sorted(rest)) == ("<v0>", "1boy", ["hat", "sea", "sun"])


def test_doctor_says_how_many_captions_a_folder_has(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "a.txt").write_text("at the sea")
    assert main(["doctor", "--data", str(folder), "--faces", "nobody"]) == 0
    assert "3 pictures, 1 caption: the 2 others learned with templates" in capsys.readouterr().out


def test_a_table_the_wrong_way_round_is_told_by_its_names_however_long_they_are(folder: Path):
    text = "a man at the sea, " * 30
    (folder / "captions.json").write_text(json.dumps({text: "a.png"}))
    (line,) = [line for line in said(folder).splitlines() if "not here" in line]
    assert line.endswith(f"is about pictures that are not here: {text[:60]}")


def test_what_cameras_and_programs_write_into_every_picture_is_no_caption(folder: Path):
    own = ("OLYMPUS DIGITAL CAMERA", "SAMSUNG", "Screenshot", "Created with GIMP", "DSC_0042", "untitled-3",
           "KONICA MINOLTA DIGITAL CAMERA", "charset=Ascii binary comment", "...", "DCIM 100")  # fmt: skip
    for text in own:
        exif = Image.Exif()
        exif[0x010E] = text
        Image.new("RGB", (48, 40)).save(folder / "b.jpg", exif=exif)
        assert captions(folder, "pictures")["b"] == (), text
        assert f"what b.jpg says ('{text}') was written by a camera or program" in said(folder, "pictures")
    exif[0x9C9C] = "SAMSUNG building at night".encode("utf-16-le")  # behind what a program wrote
    Image.new("RGB", (48, 40)).save(folder / "b.jpg", exif=exif)
    assert captions(folder, "pictures")["b"] == ("SAMSUNG building at night",)
    for text in ("a default sky", "Canon in D", "screenshot of her game", "null island", "Sony"):
        exif[0x010E] = text
        Image.new("RGB", (48, 40)).save(folder / "b.jpg", exif=exif)
        assert captions(folder, "pictures")["b"] == (
            ("SAMSUNG building at night",) if text == "Sony" else (text,)
        )


def test_texts_far_too_large_for_captions_are_not_read(folder: Path):
    for name, size in (("a.txt", 2**20), ("captions.json", 2**26)):
        with open(folder / name, "wb") as file:
            file.truncate(size + 1)  # takes no place on disks that we know
        with pytest.raises(LikenessError, match=f"{name} has {size + 1:,} bytes, too many for captions"):
            captions(folder)
        (folder / name).unlink()


def test_a_sound_picture_with_broken_words_in_it_is_read(folder: Path):
    plain = (folder / "b.jpg").read_bytes()
    words = b"\x1c\x02\x78\xff\xff\x00\x00"  # a caption in IPTC whose length is none
    block = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + len(words).to_bytes(4, "big") + words
    segment = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    (folder / "b.jpg").write_bytes(plain[:2] + segment + plain[2:])
    exif = Image.Exif()
    exif[0x9C9C] = (104, 0, 300, 105, 0)  # of bytes, and of what is none
    Image.new("RGB", (48, 40)).save(folder / "c.png", exif=exif)
    assert captions(folder, "pictures") == {"a": (), "b": (), "c": ("hi",)}


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("Sure! Here is a caption:\n\nA woman at the sea.\n", ("A woman at the sea.",)),
        (
            'Here\'s a one-sentence description of the picture: "A woman at the sea."',
            ("A woman at the sea.",),
        ),
        ("**Caption:** a woman at the sea", ("a woman at the sea",)),
        ("\u201cA woman\u201d", ("A woman",)),
        ('a sign that says "open"', ('a sign that says "open"',)),
        ('"open" and "closed"', ('"open" and "closed"',)),
        ("here is a street: a woman walks", ("here is a street: a woman walks",)),
        (" \n\n", ()),
        ('""', ()),
    ],
)
def test_what_a_model_that_chats_says_around_a_caption_is_left_out(answer: str, meant: tuple[str, ...]):
    assert caption_lines(answer, "an answer") == meant
