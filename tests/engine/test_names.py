"""Names of files are the same on every system: what some system would not take is refused, or replaced."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness_portraits.engine.artifact import Artifact, Token, export_numbered, export_stock
from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.bases.clip_features import load_tower
from likeness_portraits.engine.commands.import_files import import_
from likeness_portraits.engine.config import BaseSpec, ConceptSpec, Job
from likeness_portraits.engine.data.concepts import Concept, Picture, write_concept
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.files import check_name, portable, write_atomically
from likeness_portraits.engine.training.arcface import load_recogniser

BAD_NAMES = {
    "": "it is no name",
    "..": "it is no name",
    "a\0b": r"a\\u0000b.*not seen \(U\+0000\)",
    "a\nb": r"not seen \(U\+000A\)",
    "anna\u202egpj": r"anna\\u202egpj.*not seen \(U\+202E\)",
    "anna\u200f": r"not seen \(U\+200F\)",
    "\ud800": r"not seen \(U\+D800\)",
    "a:b": "it holds :",
    "a|b?": r"it holds \|",
    "..\\..\\x": r"it holds \\",
    "a/b": "it holds /",
    "con": "Windows keeps it for a device",
    "NUL.txt": "Windows keeps it for a device",
    "com¹": "Windows keeps it for a device",
    "aux .v2": "Windows keeps it for a device",
    "anna.": "ends with a dot",
    "anna ": "ends with a space",
    " anna": "begins or ends with a space",
    ".anna": "begins with a dot, which hides it",
    "a" * 300: "it is 300 bytes long, of which 180 are allowed",
    "日" * 61: "it is 183 bytes long",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_some_system_does_not_take_is_refused_and_has_a_nearest_one(name: str):
    with pytest.raises(LikenessError, match=BAD_NAMES[name]) as told:
        check_name(name)
    assert str(told.value).isprintable() and len(str(told.value)) < 200
    assert check_name(portable(name)) == portable(portable(name))


@pytest.mark.parametrize(
    "name", ["anna", "Анна", "アンナ", "anna-2 (new) [v1.5], ähm & 'co' #1", "console", "com", "a" * 180]
)
def test_a_name_that_every_system_takes_stays_as_it_is(name: str, tmp_path: Path):
    assert check_name(name) == portable(name) == name
    with write_atomically(tmp_path / f"{name}.safetensors") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == [f"{name}.safetensors"]


@pytest.mark.parametrize("name", ["con", "a:b", "..\\x", "anna\u202e", "a" * 200, "anna."])
def test_every_place_where_a_file_is_named_refuses_the_same_names(name: str, tmp_path: Path):
    output, file = tmp_path / f"{name}.safetensors", tmp_path / "me.safetensors"
    rows = {"token.v0.clip_l": torch.ones(1, 128)}
    artifact = Artifact(kind="embedding", method="x", tensors=rows, tokens=(Token(token="<v0>"),),
                        base_family="miniature")  # fmt: skip
    artifact.save(file)
    concepts = (ConceptSpec(folder="a"),)
    doors = {
        "train -o": lambda: Job(method="textual-inversion", concepts=concepts, output=str(output)),
        "export": lambda: export_stock(artifact, tmp_path / "out", name),
        "export --numbered": lambda: export_numbered(artifact, tmp_path / f"{name}.safetensors"),
        "import -o": lambda: import_([file], output=output),
    }  # fmt: skip
    for door, opened in doors.items():
        with pytest.raises(LikenessError, match="cannot be a file's name on every system"):
            opened()
            pytest.fail(door)
    assert os.listdir(tmp_path) == ["me.safetensors"]


def test_a_placeholder_is_a_name_that_every_system_takes():
    for token in ("<con>", f"<{'a' * 200}>"):
        with pytest.raises(LikenessError, match="cannot be a file's name on every system"):
            ConceptSpec(folder="a", token=token)


def test_pictures_of_a_concept_are_named_for_every_system(tmp_path: Path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    names = ("con", "Ann", "ann", "a:b", "x.", "a" * 300)
    concept = Concept("<v0>", "woman", "subject", tuple(Picture(name, pixels) for name in names))
    written = sorted(path.stem for path in (write_concept(tmp_path / "c", concept) / "images").iterdir())
    assert len(written) == len({name.casefold() for name in written}) == len(names)
    assert [check_name(name) for name in written] == written


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_base(BaseSpec(kind="checkpoint", path=path)),
        lambda path: load_base(BaseSpec(kind="diffusers", path=path)),
        load_recogniser,
        load_tower,
    ],
    ids=["checkpoint", "folder", "recogniser", "image tower"],
)
def test_the_home_of_somebody_who_is_not_here_is_a_place_that_does_not_exist(read):
    with pytest.raises(LikenessError, match="nobody-of-that-name"):
        read("~nobody-of-that-name/x.safetensors")
