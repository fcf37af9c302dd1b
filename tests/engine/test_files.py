"""Files are whole or absent, whatever goes wrong while they are written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from likeness_portraits.engine.data.concepts import load_concept
from likeness_portraits.engine.errors import LikenessError, nearest
from likeness_portraits.engine.files import check_room, content_of, sweep, write_atomically
from likeness_portraits.engine.job_file import read_yaml


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path):
    target = tmp_path / "report.json"
    target.write_text("old")
    with write_atomically(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path and temporary.suffix == ".json"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["report.json"]


def test_an_error_half_way_leaves_the_folder_as_it_was(tmp_path: Path):
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomically(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_missing_folders_are_made(tmp_path: Path):
    with write_atomically(tmp_path / "a" / "b" / "c.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_a_folder_that_is_a_file_is_named_with_its_remedy(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(LikenessError, match=r"taken.*choose another"),
        write_atomically(tmp_path / "taken" / "x.txt"),
    ):
        pass


def test_a_target_that_is_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(LikenessError, match="there is a folder of that name"), write_atomically(tmp_path):
        pass


def test_an_error_about_another_file_is_not_blamed_on_the_target(tmp_path: Path):
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "x.txt"):
        open(tmp_path / "missing.txt")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to set")
def test_no_room_for_a_file_is_one_sentence_and_leaves_nothing(tmp_path: Path, package_parent: Path):
    program = """
import resource, signal, sys
from pathlib import Path
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with write_atomically(Path(sys.argv[1]) / "big.bin") as temporary:
        temporary.write_bytes(b"x" * 5000)
except LikenessError as error:
    sys.exit(f"told: {error}")
"""
    environment = {**os.environ, "PYTHONPATH": str(package_parent)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.stderr.startswith("told: cannot write ") and "big.bin" in done.stderr
    assert os.listdir(tmp_path) == []


def test_of_a_link_the_file_it_points_to_is_replaced(tmp_path: Path):
    target, link = tmp_path / "disk" / "a.txt", tmp_path / "a.txt"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    with write_atomically(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and target.read_text() == "new" and os.listdir(target.parent) == ["a.txt"]


def test_a_link_to_a_disk_that_is_not_there_makes_no_folder(tmp_path: Path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "disk" / "a.txt")
    with pytest.raises(LikenessError, match="cannot write"), write_atomically(tmp_path / "a.txt"):
        pass
    assert not (tmp_path / "disk").exists()


def test_a_write_protected_file_stays(tmp_path: Path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(0o444)
    for writing in (lambda: write_atomically(target).__enter__(), lambda: check_room(target)):
        with pytest.raises(LikenessError, match="it is write-protected"):
            writing()
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_old_leftovers_of_the_same_file_are_swept_and_nothing_else(tmp_path: Path):
    names = [".a-0123456789ab.txt", ".a-ba9876543210.txt", ".b-0123456789ab.txt", ".a-notes.txt", "a.txt"]
    for name in names:
        (tmp_path / name).touch()
        if name != names[1]:  # somebody may be writing this one
            os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path / "a.txt")
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_content_has_the_same_name_wherever_it_lies(tmp_path: Path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("x")
    first = content_of(tmp_path / "here")
    assert first == content_of(tmp_path / "there") and content_of(tmp_path / "nowhere") == ""
    assert content_of(tmp_path / "here" / "a.txt") == content_of(tmp_path / "there" / "a.txt")
    (tmp_path / "there" / "a.txt").write_text("y")
    assert first != content_of(tmp_path / "there")


def test_the_nearest_word_is_offered_only_if_it_is_near():
    assert nearest("stepz", ["steps", "rank"]) == "; did you mean 'steps'?"
    assert nearest("learning-rate", ["learning_rate", "rank"]) == "; did you mean 'learning_rate'?"
    assert nearest("zzz", ["steps", "rank"]) == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_concept_and_a_job_are_read_in_every_encoding_that_editors_write(tmp_path, encoding):
    described = {"class_word": "女性", "notes": "Zoë"}
    (tmp_path / "concept.json").write_bytes(json.dumps(described, ensure_ascii=False).encode(encoding))
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    concept = load_concept(tmp_path)
    assert (concept.class_word, concept.notes) == ("女性", "Zoë")
    (tmp_path / "job.yaml").write_bytes("output: Zoë.safetensors\r\n".encode(encoding))
    assert read_yaml(tmp_path / "job.yaml") == {"output": "Zoë.safetensors"}


def test_another_encoding_is_named_with_its_remedy(tmp_path):
    (tmp_path / "concept.json").write_bytes('{"class_word": "Zoë"}'.encode("cp1252"))
    with pytest.raises(
        LikenessError, match=r"concept\.json is neither UTF-8 nor UTF-16, .* save it again as"
    ):
        load_concept(tmp_path)
