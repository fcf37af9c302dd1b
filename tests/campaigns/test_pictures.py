"""Mutated pictures and shard samples: pictures are read or refused in one sentence, samples are replaced."""

import io
import logging
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from likeness_portraits.engine.data.identity_examples import references, target
from likeness_portraits.engine.data.pictures import grey_in, picture_in, read_mask, read_picture
from likeness_portraits.engine.data.shard_sources import rendered
from likeness_portraits.engine.data.shards import (
    INDEX,
    SampleStreams,
    ShardSample,
    encoded,
    find_shards,
    write_shards,
)
from likeness_portraits.tests.campaigns.campaign import SEED, Tally, numbered
from likeness_portraits.tests.campaigns.mutate import ODD_NUMBERS, damaged

PICTURES, FEW_PICTURES = 3_600, 60
SAMPLES, FEW_SAMPLES = 1_200, 24
SIZE = (40, 48)


def encoded_as(kind: str, mode: str = "RGB", **options) -> bytes:
    rng = np.random.default_rng(5)
    shape = (*SIZE, 4) if mode in ("RGBA", "CMYK") else (*SIZE, 3)
    pixels = rng.integers(0, 256, shape, np.uint8)
    image = Image.fromarray(pixels, mode if mode in ("RGBA", "CMYK") else "RGB")
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, SIZE).astype(np.uint16))
    elif mode not in ("RGB", "RGBA", "CMYK"):
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def upside_down() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif.tobytes()


def whole_pictures() -> list[bytes]:
    """A picture in every format and most of the manners that Pillow writes and we read."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    moving = {"save_all": True, "append_images": [Image.new("RGB", SIZE[::-1], (9, 9, 9))]}
    found = [
        encoded_as("PNG"), encoded_as("PNG", "RGBA"), encoded_as("PNG", "I;16"), encoded_as("PNG", "P"),
        encoded_as("PNG", "L", icc_profile=profile), encoded_as("PNG", "1"), encoded_as("PNG", **moving),
        encoded_as("JPEG", quality=90), encoded_as("JPEG", progressive=True, exif=upside_down()),
        encoded_as("JPEG", "CMYK", icc_profile=profile), encoded_as("JPEG", "L"), encoded_as("GIF", "P"),
        encoded_as("GIF", **moving), encoded_as("BMP"), encoded_as("BMP", "L"), encoded_as("TGA", "RGBA"),
        encoded_as("PPM"), encoded_as("TIFF"), encoded_as("TIFF", "I;16"), encoded_as("TIFF", "F"),
        encoded_as("TIFF", "CMYK"), encoded_as("TIFF", compression="tiff_lzw"),
        encoded_as("TIFF", compression="tiff_deflate", icc_profile=profile),
    ]  # fmt: skip
    for name, kind, options in (("webp", "WEBP", {"lossless": True}), ("webp", "WEBP", {"quality": 60}),
                                ("jpg_2000", "JPEG2000", {}), ("avif", "AVIF", {})):  # fmt: skip
        if features.check(name):
            found.append(encoded_as(kind, **options))
    return found


def mutated_picture(whole: bytes, rng: random.Random) -> bytes:
    """Bytes changed anywhere; in PNGs also a field of a chunk whose checksum then agrees."""
    if whole[:4] == b"\x89PNG" and rng.random() < 0.5:
        return _other_chunk(whole, rng)
    return damaged(whole, rng)


def _other_chunk(png: bytes, rng: random.Random) -> bytes:
    chunks, place = [], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        chunks.append([png[place + 4 : place + 8], png[place + 8 : place + 8 + length]])
        place += 12 + length
    chosen = rng.choice(chunks)
    kind = rng.randrange(4)
    if kind == 0 and len(chosen[1]) >= 4:
        at = rng.randrange(len(chosen[1]) - 3)
        number = struct.pack(">I", rng.choice(ODD_NUMBERS) & 0xFFFFFFFF)
        chosen[1] = chosen[1][:at] + number + chosen[1][at + 4 :]
    elif kind == 1:
        chosen[0] = rng.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL")
        )
    elif kind == 2:
        chunks.insert(rng.randrange(len(chunks)), list(rng.choice(chunks)))
    else:
        chosen[1] = damaged(chosen[1], rng)
    return png[:8] + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def pictures_tried(seed: int, count: int, folder: Path) -> Tally:
    tally, whole = Tally("pictures", seed), whole_pictures()
    readers: tuple[Callable[[Path], object], ...] = (
        read_picture, lambda path: read_mask(path, SIZE),
        lambda path: picture_in(path.read_bytes(), path.name),
        lambda path: grey_in(path.read_bytes(), path.name),
    )  # fmt: skip
    path = folder / "photo.png"
    for number, rng in numbered("pictures", seed, count):
        path.write_bytes(mutated_picture(rng.choice(whole), rng))
        tally.attempt(number, rng.choice((readers[0], readers[0], *readers)), path, names=path.name)
    return tally


# -------------------------------------------------------------------------------------------------- shards


def tar_of(entries: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def entries_of(sample: ShardSample) -> dict[str, bytes]:
    parts = encoded(sample)
    key = parts.pop("__key__")
    return {f"{key}.{name}": part.encode() if isinstance(part, str) else part for name, part in parts.items()}


def mutated_shard(samples: list[dict[str, bytes]], rng: random.Random) -> bytes:
    """A tar of these samples with one thing wrong in each, or with the tar itself damaged."""
    entries = {}
    for sample in samples:
        changed = dict(sample)
        name = rng.choice(sorted(changed))
        kind = rng.randrange(6)
        if kind <= 2:
            changed[name] = damaged(changed[name], rng)
        elif kind == 3:
            del changed[name]
        elif kind == 4:
            changed[name] = rng.choice((b"", rng.randbytes(400), changed[rng.choice(sorted(changed))]))
        else:
            changed[
                rng.choice((f"{name}x", name.replace("f0", f"f{9**9}"), name.upper(), "../" + name, name[1:]))
            ] = changed.pop(name)
        entries |= changed
    whole = tar_of(entries)
    return damaged(whole, rng) if rng.random() < 0.3 else whole


def train_on(folder: Path) -> Tally:
    """What a step of training does with samples: reads, cuts references, and makes a target of each."""
    lanes = SampleStreams(str(folder), 2, seed=0)

    def prepare(sample: ShardSample, lane: int) -> None:
        references(sample, 32, np.random.default_rng(lane), kinds=(1, 1, 1))
        target(sample, 32)

    for position in range(4):
        lanes.samples(position, [0, 1], prepare)
    return lanes.tally


def samples_tried(seed: int, count: int, folder: Path) -> Tally:
    """Each attempt is a shard of four samples with something wrong in each, beside a good one."""
    tally = Tally(f"shards of {count} samples", seed)
    people = list(rendered(range(8), each=1, twins=1, size=32))
    write_shards(folder, people[:4], each=4)
    parts = [entries_of(sample) for sample in people[4:]]
    for number, rng in numbered("shards", seed, count // len(parts)):
        (folder / "shard-000001.tar").write_bytes(mutated_shard(parts, rng))
        (folder / INDEX).write_text('{"samples": {"shard-000000.tar": 4, "shard-000001.tar": 4}}')
        tally.attempt(number, train_on, folder)
        (folder / INDEX).unlink()
        tally.attempt(number, find_shards, str(folder))
    return tally


# --------------------------------------------------------------------------------------------------- tests


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def test_a_few_mutated_pictures_are_read_or_refused_in_one_sentence(tmp_path: Path, say):
    pictures_tried(0, FEW_PICTURES, tmp_path).close(say)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_mutated_pictures_are_read_or_refused_in_one_sentence(tmp_path: Path, say):
    pictures_tried(SEED, PICTURES, tmp_path).close(say)


def test_a_few_mutated_samples_are_replaced_and_learning_goes_on(tmp_path: Path, say):
    tally = samples_tried(0, FEW_SAMPLES, tmp_path)
    assert tally.counts["refused"] == 0  # a shard beside them is whole: learning goes on
    tally.close(say)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_mutated_samples_are_replaced_and_learning_goes_on(tmp_path: Path, say):
    tally = samples_tried(SEED, SAMPLES, tmp_path)
    assert tally.counts["refused"] == 0
    tally.close(say)
