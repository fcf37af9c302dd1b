"""A run's pictures: decoded once, held no larger than it needs, and what is left out is said."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from likeness_portraits.engine.cli import main
from likeness_portraits.engine.config import ConceptSpec, Job
from likeness_portraits.engine.data import concepts
from likeness_portraits.engine.data.concepts import Picture, write_concept
from likeness_portraits.engine.evaluation.people import concept_of
from likeness_portraits.engine.miniature import world
from likeness_portraits.engine.training.launch import train

QUICK = ["--class-word", "woman", "--steps", "2", "--device", "cpu"]


def test_each_picture_is_decoded_once_also_where_the_likeness_is_watched(tmp_path: Path, monkeypatch, capsys):
    read: list[str] = []
    genuine = concepts.read_photograph
    monkeypatch.setattr(
        concepts, "read_photograph", lambda path, *told: read.append(path.name) or genuine(path, *told)
    )
    folder = write_concept(tmp_path / "anna", concept_of(world.TUNING_SEEDS[0]))
    (folder / "images" / "IMG_9.CR2").write_bytes(b"raw")
    out = str(tmp_path / "a.safetensors")
    options = [*QUICK, "-o", out, "--stop-by-likeness", "1"]
    assert main(["train", "textual-inversion", str(folder), *options]) == 0
    assert sorted(read) == sorted(path.name for path in (folder / "images").glob("*.png"))
    told = capsys.readouterr().err.splitlines()
    said = next(n for n, line in enumerate(told) if "left out IMG_9.CR2 (raw files of cameras" in line)
    assert said < next(n for n, line in enumerate(told) if "step 1" in line)  # before the first step


def held() -> int:
    """Bytes of all pictures that anybody in this process holds."""
    return sum(one.pixels.nbytes for one in gc.get_objects() if type(one) is Picture)


class Watching:
    def __init__(self) -> None:
        self.most = 0

    def on_step(self, progress, losses) -> None:
        gc.collect()
        self.most = max(self.most, held())

    def on_preview(self, progress, image) -> None: ...

    def should_stop(self) -> bool:
        return False


def test_photographs_are_not_held_in_full_while_learning(tmp_path: Path):
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
        noise.resize((4000, 3000)).save(tmp_path / f"{number}.jpg")
    spec = ConceptSpec(folder=str(tmp_path), class_word="woman")
    job = Job(
        method="textual-inversion", concepts=(spec,), output=str(tmp_path / "a.safetensors"), device="cpu"
    )
    watching, before = Watching(), held()
    settings = type(job.settings)(**{**vars(job.settings), "steps": 1})
    job = Job(**{**vars(job), "settings": settings})
    read = iter([concepts.load_concept(spec)])
    train(job, watching, concepts=read)
    assert 0 < watching.most - before <= 3 * (2 * 128) ** 2 * 3 * 4 / 3  # at twice the side learned at, 4 : 3


def test_large_pictures_are_made_smaller_as_they_are_read_and_known_by_what_they_were(tmp_path: Path):
    """Those of the class beside alike; one by one, so that a folder of a thousand fits."""
    rng = np.random.default_rng(0)
    for part, count in (("person", 3), ("class", 2)):
        (tmp_path / part).mkdir()
        for number in range(count):
            noise = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
            noise.resize((1600, 1200)).save(tmp_path / part / f"{number}.png")
    (tmp_path / "person" / "masks").mkdir()
    Image.new("L", (1600, 1200), 255).save(tmp_path / "person" / "masks" / "0.png")
    Image.fromarray(rng.integers(0, 255, (400, 500, 3), dtype=np.uint8)).save(tmp_path / "person" / "9.png")
    spec = ConceptSpec(
        folder=str(tmp_path / "person"), class_word="woman", regularisation=str(tmp_path / "class")
    )
    whole, before = concepts.load_concept(spec), held()
    small = concepts.load_concept(spec, shorter=128)
    assert held() - before == 5 * 128 * 171 * 3 + 400 * 500 * 3
    mask = small.pictures[0].mask
    assert mask is not None and mask.shape == (128, 171)
    assert small.pictures[3].pixels.shape == (400, 500, 3)  # small enough to be held as it is
    assert concepts.digest([small]) == concepts.digest([whole])
    assert small.held_out(2, 7).held == tuple(
        small.pictures[whole.pictures.index(one)] for one in whole.held_out(2, 7).held
    )
    for one, other in zip(small.within(128).pictures, whole.within(128).pictures):
        assert np.array_equal(one.pixels, other.pixels) and one.size == other.size
    there = concepts.digest([concepts.load_concept(spec)])
    Image.new("L", (1600, 1200), 9).save(tmp_path / "person" / "masks" / "0.png")
    assert concepts.digest([concepts.load_concept(spec, shorter=128)]) != there


def test_a_job_reads_twice_the_side_that_it_learns_at():
    job = Job(method="textual-inversion", concepts=(ConceptSpec(folder="x"),), output="a.safetensors")
    side = replace(job, resolution=512)
    assert (concepts.usable_side(job), concepts.usable_side(job, 128), concepts.usable_side(side)) == (
        concepts.USABLE_SIDE, 256, 1024,
    )  # fmt: skip
