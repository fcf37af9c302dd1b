"""Shards: what is written is read again, by position, on any number of processes; damage is stepped over."""

import io
import os
import shutil
import struct
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.data.identity_examples import references
from likeness_portraits.engine.data.shard_sources import portraits, reference_folder, rendered
from likeness_portraits.engine.data.shards import (
    INDEX,
    SampleStreams,
    ShardFace,
    ShardSample,
    decoded,
    encoded,
    find_shards,
    jpeg,
    outline_of,
    write_shards,
)
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.miniature import world


def people(count: int, twins: int = 1) -> list[ShardSample]:
    return list(rendered(range(count), each=1, twins=twins, size=32))


def keys(lanes: SampleStreams, positions: range, mine: list[int]) -> list[list[str]]:
    return [lanes.samples(n, mine, lambda sample, lane: f"{lane}:{sample.key}") for n in positions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("shards")
    write_shards(target, people(18), each=4)
    return target


def test_a_sample_is_the_same_after_writing_and_reading():
    labels, edit = np.arange(64, dtype=np.uint8).reshape(8, 8) % 19, np.full((8, 8, 3), 200, np.uint8)
    points = np.array([[1.5, 2], [3, 4]], np.float32)
    face = ShardFace(np.full((8, 8, 3), 90, np.uint8), labels, points, (edit,))
    before = ShardSample("a", np.full((16, 12, 3), 30, np.uint8), "a man\nin rain", (face, face))
    parts = encoded(before)
    after = decoded({**parts, "txt": parts["txt"].encode()})
    assert (after.key, after.caption, len(after.faces)) == ("a", "a man", 2)
    assert np.array_equal(after.pixels, before.pixels)
    assert np.array_equal(after.faces[1].labels, face.labels)
    assert np.array_equal(after.faces[1].landmarks, face.landmarks)
    assert isinstance(after.faces[0].edited[0], bytes)


def test_the_layout_is_plain_webdataset(folder):
    with tarfile.open(folder / "shard-000000.tar") as tar:
        names = [name.split(".", 1)[1] for name in tar.getnames()[:6]]
    assert sorted(names) == ["f0.aug0.jpg", "f0.jpg", "f0.lm.npy", "f0.mask.png", "jpg", "txt"]
    assert [shard.count for shard in find_shards(str(folder))] == [4, 4, 4, 4, 2]


def test_processes_read_the_same_samples_as_one_and_none_twice_at_a_time(folder):
    alone = keys(SampleStreams(str(folder), 4, seed=1), range(10), [0, 1, 2, 3])
    first = keys(SampleStreams(str(folder), 4, seed=1), range(10), [0, 2])
    second = keys(SampleStreams(str(folder), 4, seed=1), range(10), [1, 3])
    assert [[a, c, b, d] for (a, b), (c, d) in zip(first, second)] == alone
    assert all(len({entry.split(":")[1] for entry in row}) == 4 for row in alone)  # a shard has one lane
    assert keys(SampleStreams(str(folder), 4, seed=2), range(10), [0, 1, 2, 3]) != alone


def test_going_on_in_the_middle_reads_what_would_have_come(folder):
    whole = keys(SampleStreams(str(folder), 2, seed=0), range(30), [0, 1])
    later = SampleStreams(str(folder), 2, seed=0, workers=2)
    assert keys(later, range(17, 30), [0, 1]) == whole[17:]
    later.close()


def test_tars_without_an_index_are_counted_and_patterns_are_understood(folder, tmp_path):
    for path in folder.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pattern = f"{tmp_path}/shard-{{000000..000002}}.tar"
    assert [shard.count for shard in find_shards(pattern)] == [4, 4, 4]
    assert (tmp_path / INDEX).exists()
    assert len(SampleStreams(str(tmp_path), 2, seed=0)) == 18


def test_tars_of_a_run_that_was_killed_before_are_left_out_and_named(tmp_path, caplog):
    write_shards(tmp_path, people(6), each=2)
    (tmp_path / INDEX).unlink()  # killed before it was done
    (tmp_path / ".shard-000001-0123456789ab.tar").touch()
    os.utime(tmp_path / ".shard-000001-0123456789ab.tar", (0, 0))
    write_shards(tmp_path, people(3), each=2)
    assert [(Path(shard.path).name, shard.count) for shard in find_shards(str(tmp_path))] == [
        ("shard-000000.tar", 2),
        ("shard-000001.tar", 1),
    ]
    assert "left out are 1 tars" in caplog.text and caplog.text.rstrip().endswith("shard-000002.tar")
    assert not list(tmp_path.glob(".shard*"))
    (tmp_path / INDEX).unlink()
    assert len(find_shards(str(tmp_path))) == 3  # as the message says


def test_a_shard_cut_short_costs_its_rest_and_is_counted(folder, tmp_path):
    for path in folder.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if "0001" in path.name else content)
    lanes = SampleStreams(str(tmp_path), 1, seed=0)
    found = keys(lanes, range(60), [0])
    assert len(found) == 60 and lanes.tally.read == 60
    assert len(lanes.tally.broken_shards) == 1 and lanes.tally.broken_samples > 0
    assert keys(SampleStreams(str(tmp_path), 1, seed=0), range(60), [0]) == found


def with_entry(folder: Path, name: str, content: bytes | None) -> None:
    """Changes one entry of the folder's first shard; None takes it away."""
    path = folder / "shard-000000.tar"
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        entries = {entry.name: tar.extractfile(entry).read() for entry in tar}
    assert name in entries
    with tarfile.open(path, "w") as tar:
        for key, whole in entries.items():
            part = content if key == name else whole
            if part is not None:
                entry = tarfile.TarInfo(key)
                entry.size = len(part)
                tar.addfile(entry, io.BytesIO(part))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds nothing."""
    content = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + content
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00v\x00" + text.ljust(117) + b"\n"


BROKEN = {  # what stands in the place of which part of a sample
    "a picture cut short": ("jpg", jpeg(np.zeros((64, 64, 3), np.uint8))[:40]),
    "no picture": ("jpg", None),
    "garbage as a picture": ("jpg", bytes(range(256)) * 8),
    "a picture bomb": ("jpg", png_header(20_000, 20_000)),
    "a picture of 100 megapixels": ("jpg", png_header(10_000, 10_000)),
    "a bomb as a face": ("f0.jpg", png_header(20_000, 20_000)),
    "a bomb as a mask": ("f0.mask.png", png_header(20_000, 20_000)),
    "an unclosed header": ("f0.lm.npy", npy_header(b"{'descr': '<f4', 'fortran_order': (((((")),
    "an array of objects": (
        "f0.lm.npy", npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
    ),
    "an array that claims 2**40 points": (
        "f0.lm.npy", npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 2), }"),
    ),
    "landmarks in three dimensions": ("f0.lm.npy", npy(np.zeros((5, 3), np.float32))),
    "landmarks in a row": ("f0.lm.npy", npy(np.zeros(10, np.float32))),
    "no landmarks at all": ("f0.lm.npy", npy(np.zeros((0, 2), np.float32))),
    "landmarks that are no numbers": ("f0.lm.npy", npy(np.full((5, 2), np.nan, np.float32))),
    "landmarks without end": ("f0.lm.npy", npy(np.full((5, 2), np.inf, np.float32))),
    "landmarks in words": ("f0.lm.npy", npy(np.full((5, 2), "left"))),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sample_is_replaced_and_counted(tmp_path, name):
    write_shards(tmp_path, people(4), each=4)
    part, content = BROKEN[name]
    with_entry(tmp_path, f"0000002-00.{part}", content)
    lanes = SampleStreams(str(tmp_path), 1, seed=0)
    seen = [row[0] for row in keys(lanes, range(8), [0])]
    assert lanes.tally.broken_samples == 2 and lanes.tally.read == 8
    assert not any("0000002" in key for key in seen)


def test_an_edited_face_that_is_a_bomb_is_as_if_it_were_not_there(tmp_path):
    write_shards(tmp_path, people(1), each=4)
    with_entry(tmp_path, "0000000-00.f0.aug0.jpg", png_header(20_000, 20_000))
    (sample,) = (
        lane.samples(0, [0], lambda one, _: one)[0] for lane in [SampleStreams(str(tmp_path), 1, seed=0)]
    )
    drawn = [references(sample, 32, np.random.default_rng(seed), kinds=(0, 0, 1)) for seed in range(4)]
    assert all(one.wanted_edit for one in drawn)


def test_a_member_that_claims_a_terabyte_costs_its_shard_and_no_time(tmp_path):
    write_shards(tmp_path, people(8), each=4)
    header = bytearray(tarfile.TarInfo("0000000-00.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    for kind in (b"0", b"x", b"L", b"5"):  # a file, two kinds of longer headers, a folder
        header[156:157] = kind
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        (tmp_path / "shard-000000.tar").write_bytes(bytes(header) + bytes(512))
        before = time.process_time()
        lanes = SampleStreams(str(tmp_path), 1, seed=0)
        assert len(keys(lanes, range(16), [0])) == 16
        assert time.process_time() - before < 5
        assert lanes.tally.broken_samples > 0


@pytest.mark.parametrize(
    "text",
    ['{"samples": {"shard-000000.tar": -4}}', '{"samples": {"shard-000000.tar": 1e99}}', "[" * 10_000, "{}",
     '{"samples": 4}', '{"samples": {"shard-000000.tar": 99999999999999999999}}'],
)  # fmt: skip
def test_an_index_that_counts_wrongly_is_named(folder, tmp_path, text):
    (tmp_path / "shard-000000.tar").write_bytes((folder / "shard-000000.tar").read_bytes())
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(LikenessError, match=rf"{INDEX} is damaged; delete it"):
        find_shards(str(tmp_path))


def test_a_lane_whose_own_shard_is_lost_reads_from_others(tmp_path):
    write_shards(tmp_path, people(8), each=4)
    (tmp_path / "shard-000001.tar").write_bytes(b"no tar at all" * 100)
    lanes = SampleStreams(str(tmp_path), 2, seed=0)
    seen = [row[1] for row in keys(lanes, range(6), [0, 1])]
    assert len(seen) == 6 and all(int(key[2:9]) < 4 for key in seen)


def test_shards_are_known_by_what_they_hold_wherever_they_lie(folder, tmp_path: Path):
    copied = shutil.copytree(folder, tmp_path / "moved")
    pattern = f"{copied}/shard-00000{{0..4}}.tar"
    assert outline_of(str(folder)) == outline_of(str(copied)) == outline_of(pattern)
    tar = copied / "shard-000001.tar"
    content, known = bytearray(tar.read_bytes()), tar.stat()
    content[600] ^= 1
    tar.write_bytes(content)
    os.utime(tar, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert outline_of(str(copied)) != outline_of(str(folder))
    with pytest.raises(LikenessError, match="there are no shards at"):
        outline_of(str(tmp_path))


def test_shards_that_hold_nothing_readable_are_an_error(tmp_path):
    write_shards(tmp_path, people(1), each=4)
    (tmp_path / "shard-000000.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(LikenessError, match="cannot be read"):
        SampleStreams(str(tmp_path), 1, seed=0).samples(0, [0], lambda sample, lane: sample)


def test_missing_shards_are_named():
    with pytest.raises(LikenessError, match="likeness shards"):
        SampleStreams("/nowhere/at-all", 1, seed=0)


def test_shards_are_never_written_over(folder):
    with pytest.raises(LikenessError, match="already"):
        write_shards(folder, people(1))


def test_the_references_folders_are_read_and_what_is_missing_is_left_out(tmp_path):
    picture = Image.fromarray(np.full((40, 36, 3), 120, np.uint8))
    for folder in ("images_cropped", "captions", "images_cropped_face/7", "images_cropped_face_mask/7",
                   "images_cropped_face_aug/7/0"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    picture.save(tmp_path / "images_cropped/7.jpg")
    picture.save(tmp_path / "images_cropped/8.jpg")
    (tmp_path / "images_cropped/9.jpg").write_bytes(b"broken")
    (tmp_path / "captions/7.txt").write_text("a woman\nand more")
    picture.save(tmp_path / "images_cropped_face/7/0.jpg")
    np.save(tmp_path / "images_cropped_face/7/0.npy", np.array([[5.0, 6], [20, 30]]))
    Image.fromarray(np.full((40, 36), 17, np.uint8)).save(tmp_path / "images_cropped_face_mask/7/0.png")
    picture.save(tmp_path / "images_cropped_face_aug/7/0/smile.png")
    first, second = reference_folder(tmp_path)
    assert (first.key, first.caption, len(first.faces)) == ("7", "a woman", 1)
    assert first.faces[0].labels.max() == 17 and len(first.faces[0].edited) == 1
    assert (second.key, second.caption, second.faces) == ("8", "", ())


def test_pictures_become_samples_and_those_that_show_nobody_are_counted(tmp_path, caplog):
    shown = world.render(world.sample_identity(3), world.sample_context(3), 128)
    wide = np.zeros((128, 192, 3), np.uint8)
    wide[:, 32:160] = shown.pixels
    Image.fromarray(wide).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a photo of somebody\n")
    (tmp_path / "b.png").write_bytes(b"broken")
    Image.new("RGB", (64, 64)).save(tmp_path / "c.png")
    (sample,) = portraits(tmp_path)
    assert (sample.key, sample.caption) == ("a", "a photo of somebody")
    (face,) = sample.faces
    assert face.pixels.shape == (128, 128, 3) and face.labels.max() < 19
    rows, columns = np.flatnonzero(shown.mask().any(1)), np.flatnonzero(shown.mask().any(0))
    drawn = np.array([[columns[0] + 32, rows[0]], [columns[-1] + 32, rows[-1]]])
    assert np.abs(face.landmarks - drawn).max() < 24  # where the face is in the whole picture
    assert "1 pictures of" in caplog.text and "1 cannot be read" in caplog.text
    out = tmp_path / "shards"
    assert main(["shards", str(out), "--pictures", str(tmp_path), "--faces", "miniature"]) == 0
    assert [shard.count for shard in find_shards(str(out))] == [1]


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(LikenessError, match="images_cropped"):
        list(reference_folder(tmp_path))
